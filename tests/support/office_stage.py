"""Scenarios over a coordinator: the commands of ``scenarios``, some of its own, and what is compared between the two.

What differs by nature is how things travel: there are no beats, swaps or single decisions of nodes. ``projected`` keeps
what users see: who is in which round with which rank, who stopped and how, what became of a round, the state. Times,
ports and sentences are left out, and CUT_OFF counts as FENCED: to who hears it they mean the same.

Only here:

- ``budget failed=1 joined=0`` limits restarts; ``flaps limit=3 window=300 short=60 cool_down=60 max=600`` sets what a
  host may do; both before the first ``rules`` takes effect, or instead of it.
- ``placement labels:rack,host`` ranks otherwise; ``bounds 1 3`` is what the nodes made from then on were told;
  ``store gateway`` likewise, of their workers' store.
- ``node a rack=r1`` gives labels, ``workers=2 role=trainer`` what it runs; ``again b`` is a new process of that name.
- ``go b``: it was asked to go, and its workers have yet to end; ``leave b`` when they have.
- ``crash b``: its connection is lost at once. ``twin a``: another process with its node id wants in.
- ``takeover``: another coordinator goes on from what is stored; ``mute``: records reach the store no more;
  ``headless``: nobody is in office. ``orders``: how many were sent since last asked.
"""

from __future__ import annotations

import dataclasses
import re

from msgspec.structs import replace
from tests.support.office_cluster import OfficeCluster, OfficeNode

from rallypoint.rendezvous.decision import Rules
from rallypoint.rendezvous.follower_moves import AllSucceeded, Closing, Going, Leaving, WorkerFailed
from rallypoint.rendezvous.office_moves import Record, Send
from rallypoint.rendezvous.policy import Policy
from rallypoint.rendezvous.reports import Workers, decode_order
from rallypoint.rendezvous.state import Phase, Standing
from rallypoint.rendezvous.verdict import VerdictKind

__all__ = ["OfficeStage", "projected"]

TURNS_MAX = 200
KNOWN_OPTIONS = {"host", "clock", "wish", "workers", "role"}


class OfficeStage:
    def __init__(self) -> None:
        self._cluster = OfficeCluster(Rules(1, 1))
        self._policy = Policy()
        self._said: dict[str, str] = {}
        self._lives: dict[str, int] = {}
        self._options: dict[str, list[str]] = {}

    def run(self, command: str) -> list[str]:
        verb, *words = command.split()
        doer = getattr(self, f"_do_{verb}", None)
        assert doer is not None, f"unknown command: {command}"
        return list(doer(words))

    # --- the run ---

    def _do_budget(self, words: list[str]) -> list[str]:
        limits = {cause: int(limit) for cause, limit in _options(words).items()}
        self._policy = replace(self._policy, restarts=limits)
        return []

    def _do_flaps(self, words: list[str]) -> list[str]:
        options = _options(words)
        self._policy = replace(
            self._policy,
            flap_limit=int(options.get("limit", 3)),
            flap_window_s=float(options.get("window", 300)),
            short_stay_s=float(options.get("short", 60)),
            cool_down_s=float(options.get("cool_down", 60)),
            cool_down_max_s=float(options.get("max", 600)),
        )
        return []

    def _do_rules(self, words: list[str]) -> list[str]:
        options = _options(words)
        rules = Rules(
            min_nodes=int(options["min"]),
            max_nodes=int(options["max"]),
            join_timeout_s=float(options.get("join", 600)),
            last_call_s=float(options.get("last_call", 30)),
            spare_timeout_s=float(options.get("spare", "inf")),
            keep_alive_interval_s=float(options.get("interval", 5)),
            keep_alive_max_attempt=int(options.get("attempts", 3)),
        )
        self._cluster, self._said = OfficeCluster(rules, self._policy), {}
        return []

    def _do_placement(self, words: list[str]) -> list[str]:
        self._policy = replace(self._policy, placement=words[0])
        return []

    def _do_bounds(self, words: list[str]) -> list[str]:
        bounds = {"min_nodes": int(words[0]), "max_nodes": int(words[1])}
        self._cluster.rules = dataclasses.replace(self._cluster.rules, **bounds)
        return []

    def _do_store(self, words: list[str]) -> list[str]:
        self._cluster.worker_store = words[0]
        return []

    def _do_node(self, words: list[str]) -> list[str]:
        name, options = words[0], _options(words[1:])
        self._options[name] = words
        wish, count = options.get("wish"), options.get("workers")
        self._cluster.add(
            name,
            options.get("host"),
            float(options.get("clock", 0)),
            None if wish is None else int(wish),
            {key: value for key, value in options.items() if key not in KNOWN_OPTIONS},
            None if count is None else Workers(role=options.get("role", "default_role"), count=int(count)),
            self._lives.setdefault(name, 0),
        )
        return []

    def _do_again(self, words: list[str]) -> list[str]:
        self._lives[words[0]] += 1
        return self._do_node(self._options[words[0]])

    def _do_twin(self, words: list[str]) -> list[str]:
        self._cluster.twin(words[0])
        order = self._cluster.orders[self._cluster.nodes[words[0]].node_id]
        return [f"its twin: {decode_order(order).kind.value} - {decode_order(order).why}"]

    def _do_join(self, words: list[str]) -> list[str]:
        said: list[str] = []
        for name in words:
            self._cluster.join(name)
            said += self._heard(name)
        return said

    # --- time and turns ---

    def _do_step(self, words: list[str]) -> list[str]:
        return [line for name in words for line in self._step(name)]

    def _do_load(self, _words: list[str]) -> list[str]:
        return []

    def _do_settle(self, _words: list[str]) -> list[str]:
        said: list[str] = []
        for _ in range(TURNS_MAX):
            before = self._mark()
            for name in list(self._cluster.nodes):
                said += self._step(name)
            if before == self._mark():
                return said
        raise AssertionError(f"not settled after {TURNS_MAX} turns: {said[-5:]}")

    def _do_pass(self, words: list[str]) -> list[str]:
        said: list[str] = []
        for second in range(1, int(words[0]) + 1):
            self._cluster.pass_time(1.0)
            said += [f"{second} s: {line}" for line in self._do_settle([])]
        return said

    def _mark(self) -> list[object]:
        cluster = self._cluster
        reports = [node.follower.report.number for node in cluster.nodes.values()]
        return [cluster.minutes, cluster.orders.copy(), reports]

    def _step(self, name: str) -> list[str]:
        self._cluster.step(name)
        return self._heard(name)

    def _heard(self, name: str) -> list[str]:
        """Tell what is new at a node."""
        node = self._cluster.nodes[name]
        said: list[str] = []
        for why in node.said:
            kind = node.read.kind.value if node.read else "?"
            said.append(f"{name}: {kind} - {why}")
        for order in node.entered[self._entered.get(node.node_id, 0) :]:
            line = f"{name}: Enter - {order.why}; workers' store at {order.endpoint}"
            if order.places is not None:
                places = order.places
                line += f"; ranks {places.first_rank} of {places.world_size}"
                line += f", in its role {places.first_role_rank} of {places.role_world_size}"
            said.append(line)
        self._entered[node.node_id] = len(node.entered)
        node.said.clear()
        if node.stopped is not None and self._said.get(name) != node.stopped.why:
            self._said[name] = node.stopped.why
            said.append(f"{name}: Stop, {node.stopped.kind.value} - {node.stopped.why}")
        return said

    # --- what happens to nodes ---

    def _do_freeze(self, words: list[str]) -> list[str]:
        self._cluster.nodes[words[0]].is_frozen = True
        return []

    def _do_thaw(self, words: list[str]) -> list[str]:
        self._cluster.nodes[words[0]].is_frozen = False
        self._cluster.pass_time(0.0)
        return []

    def _do_hang(self, words: list[str]) -> list[str]:
        self._cluster.nodes[words[0]].is_hanging = True
        return []

    def _do_unhang(self, words: list[str]) -> list[str]:
        self._cluster.nodes[words[0]].is_hanging = False
        return []

    def _do_kill(self, words: list[str]) -> list[str]:
        self._cluster.nodes[words[0]].is_alive = False
        return []

    def _do_crash(self, words: list[str]) -> list[str]:
        self._cluster.nodes[words[0]].is_alive = False
        self._cluster.lose(words[0], "its connection was lost")
        return []

    def _do_fail(self, words: list[str]) -> list[str]:
        name, *rest = words
        message = " ".join(word for word in rest if word != "final" and "=" not in word) or "it failed"
        self._cluster.do(name, WorkerFailed(message, int(_options(rest).get("code", 1)), "final" in rest))
        return []

    def _do_succeed(self, words: list[str]) -> list[str]:
        for name in words:
            self._cluster.do(name, AllSucceeded())
        return []

    def _do_go(self, words: list[str]) -> list[str]:
        self._cluster.do(words[0], Going(" ".join(words[1:]) or "told to"))
        return []

    def _do_leave(self, words: list[str]) -> list[str]:
        self._cluster.do(words[0], Leaving(" ".join(words[1:]) or "told to"))
        self._do_crash(words[:1])
        return []

    def _do_close(self, words: list[str]) -> list[str]:
        self._cluster.do(words[0], Closing(" ".join(words[1:]) or "told to"))
        return []

    # --- the coordinator ---

    def _do_takeover(self, _words: list[str]) -> list[str]:
        self._cluster.take_over()
        return []

    def _do_mute(self, _words: list[str]) -> list[str]:
        self._cluster.is_recording = False
        return []

    def _do_headless(self, _words: list[str]) -> list[str]:
        self._cluster.stop_office()
        return []

    def _do_orders(self, _words: list[str]) -> list[str]:
        sent = sum(isinstance(effect, Send) for effect in self._cluster.effects)
        records = sum(isinstance(effect, Record) for effect in self._cluster.effects)
        self._cluster.effects.clear()
        return [f"{sent} orders, {records} records"]

    # --- looking ---

    def _do_news(self, words: list[str]) -> list[str]:
        said = []
        for name in words:
            self._cluster.step(name)
            said.append(f"{name}: {self._news(self._cluster.nodes[name])}")
        return said

    def _news(self, node: OfficeNode) -> str:
        verdict = node.follower.verdict
        assert verdict is not None, f"{node.name} is in no round"
        outcome = f" ({verdict.outcome})" if verdict.outcome else ""
        news = "".join(
            f"\n    {piece.kind}: {piece.host}, rank {piece.rank}, exit code {piece.exit_code}: {piece.message}"
            for piece in verdict.news
        )
        return f"{verdict.kind.value.upper()}{outcome} - {verdict.why}{news}"

    def _do_react(self, _words: list[str]) -> list[str]:
        said = []
        for name, node in self._cluster.nodes.items():
            if not node.is_acting or node.is_hanging or node.follower.is_wanting:
                continue
            self._cluster.step(name)
            verdict = node.follower.verdict
            if verdict is not None and verdict.kind in {VerdictKind.OVER, VerdictKind.FENCED, VerdictKind.CUT_OFF}:
                said.append(f"{name}: {self._news(node)}")
                self._cluster.join(name)
        return said

    def _do_state(self, _words: list[str]) -> list[str]:
        state = self._cluster.state
        line = f"round {state.round} {state.phase.value}"
        if state.phase is Phase.GATHERING:
            line += f": ready {self._names(state.standing(Standing.READY))}, returning {self._names(state.returning)}"
        else:
            line += ": " + " ".join(f"{self._names([node_id])}={state.members[node_id]}" for node_id in state.ranked)
            line += f", workers' store at {state.endpoint}" if state.endpoint else ""
        said = [line]
        if state.standing(Standing.SPARE):
            said.append(f"spares: {self._names(state.standing(Standing.SPARE))}")
        if state.done:
            said.append(f"done: {self._names(list(state.done))}")
        if state.closure:
            said.append(f"closed, {state.closure.outcome}: {state.closure.why}")
        return said

    def _names(self, node_ids: list[str]) -> str:
        return " ".join(bytes.fromhex(node_id[:2]).decode() for node_id in node_ids) or "nobody"

    @property
    def _entered(self) -> dict[str, int]:
        return self.__dict__.setdefault("_entered_counts", {})


def projected(lines: list[str]) -> list[str]:
    """Give what users see of a block of lines, whatever it travelled by; in any order, so sorted."""
    seen = []
    for told in lines:
        line = re.sub(r"^[0-9]+ s: |; workers' store at .*|, workers' store at .*", "", told)
        line = line.replace("CUT_OFF", "FENCED")
        match = re.match(r"(\w: (?:OVER|FENCED|CURRENT|CLOSED \(\w+\)|Stop, [a-z ]+))(?: - |$)", line)
        if match:
            seen.append(match[1])
        elif re.match(r"\w: Enter|round |spares: |done: |closed, ", line):
            seen.append(line)
    return sorted(seen)


def _options(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words if "=" in word)
