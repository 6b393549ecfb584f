"""Rendezvous scenarios as text: commands, a line of dashes, what is expected. ``#`` begins a comment.

Run ``python -m tests.support.scenarios`` to check all files, with ``--rewrite`` to write down what happens now and
review it as a diff. Nodes are single letters or digits.

- ``rules min=2 max=4 [last_call=30] [join=600] [spare=inf] [interval=5] [attempts=3]`` begins a run.
- ``node a [host=node1] [clock=+20] [wish=0]`` makes a node, ``join a b`` lets nodes want in.
- ``step a b`` lets each look, decide and swap once; ``load a`` only looks, so that its next step acts on old news.
- ``settle`` lets all nodes step in turn until nobody has anything to do.
- ``pass 15`` lets seconds pass, and everybody settle after each.
- ``hang b``: its beats go on, nothing else does; ``freeze b``: nothing does; ``unhang``, ``thaw``; ``kill a``.
- ``fail a code=1 [final] the message``, ``succeed a``, ``leave a the reason`` (and end), ``close a the reason``.
- ``news a b`` says what each hears of its round; ``react`` lets every running node do what its agent would: join again
  if the round is over or it was dropped.
- ``state`` shows the state.

All are played over the state that nodes share, and once more over a coordinator (``office_stage``), where only what
users see is compared. A line ``only coordinator`` or ``only shared state`` says that a text is for one of them.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Protocol

from tests.support.office_stage import OfficeStage
from tests.support.rendezvous_cluster import Cluster, SimNode

from rallypoint.rendezvous.change import Close, Fail, Leave, Succeed
from rallypoint.rendezvous.decide import Decision, Enter, Rules, Stop
from rallypoint.rendezvous.state import Phase, Standing
from rallypoint.rendezvous.verdict import VerdictKind

__all__ = ["FOLDER", "ONLY_COORDINATOR", "ONLY_STATE", "blocks", "play", "scenario_files"]

FOLDER = Path(__file__).parent.parent / "scenarios"
DASHES = "----"
STEPS_MAX = 200
ONLY_COORDINATOR = "only coordinator"
ONLY_STATE = "only shared state"


def scenario_files() -> list[Path]:
    return sorted(FOLDER.glob("*.txt"))


class Stage(Protocol):
    """What plays commands."""

    def run(self, command: str) -> list[str]:
        """Carry out one; give what happened."""
        ...


def blocks(text: str) -> list[tuple[list[str], list[str]]]:
    """Give the commands of each block, and the lines that are expected of them."""
    found: list[tuple[list[str], list[str]]] = []
    lines = iter(text.splitlines())
    commands: list[str] = []
    for line in lines:
        if line == DASHES:
            expected = list(itertools.takewhile(bool, lines))
            found.append((commands, expected))
            commands = []
        elif line and not line.startswith("#") and line not in {ONLY_COORDINATOR, ONLY_STATE}:
            commands.append(line)
    assert not commands, f"commands without a line of dashes: {commands}"
    return found


def stage_for(text: str) -> Stage:
    """Make the stage that a text is written for: that of the shared state, unless it says ``only coordinator``."""
    return OfficeStage() if ONLY_COORDINATOR in text.splitlines() else _Stage()


def play(text: str) -> str:
    """Give the text with each expectation replaced by what happened."""
    stage = stage_for(text)
    written: list[str] = []
    lines = iter(text.splitlines())
    commands: list[str] = []
    for line in lines:
        if line == DASHES:
            for old in lines:
                if not old:
                    break
            happened = [said for command in commands for said in stage.run(command)]
            written += [DASHES, *(happened or ["ok"]), ""]
            commands = []
        else:
            written.append(line)
            if line and not line.startswith("#") and line not in {ONLY_COORDINATOR, ONLY_STATE}:
                commands.append(line)
    assert not commands, f"commands without a line of dashes: {commands}"
    while written and not written[-1]:
        written.pop()
    return "\n".join(written) + "\n"


class _Stage:
    def __init__(self) -> None:
        self._cluster = Cluster(Rules(1, 1))
        self._said: dict[str, str] = {}

    def run(self, command: str) -> list[str]:
        verb, *words = command.split()
        doer = getattr(self, f"_do_{verb}", None)
        assert doer is not None, f"unknown command: {command}"
        return list(doer(words))

    # --- commands ---

    def _do_rules(self, words: list[str]) -> list[str]:
        options = _options(words)
        self._said = {}
        self._cluster = Cluster(
            Rules(
                min_nodes=int(options["min"]),
                max_nodes=int(options["max"]),
                join_timeout_s=float(options.get("join", 600)),
                last_call_s=float(options.get("last_call", 30)),
                spare_timeout_s=float(options.get("spare", "inf")),
                keep_alive_interval_s=float(options.get("interval", 5)),
                keep_alive_max_attempt=int(options.get("attempts", 3)),
            )
        )
        return []

    def _do_node(self, words: list[str]) -> list[str]:
        options = _options(words[1:])
        wish = options.get("wish")
        self._cluster.add(
            words[0], options.get("host"), float(options.get("clock", 0)), None if wish is None else int(wish)
        )
        return []

    def _do_join(self, words: list[str]) -> list[str]:
        for name in words:
            self._cluster.join(name)
        return []

    def _do_step(self, words: list[str]) -> list[str]:
        return [self._step(name) for name in words]

    def _do_load(self, words: list[str]) -> list[str]:
        for name in words:
            self._cluster.load(name)
        return []

    def _do_settle(self, _words: list[str]) -> list[str]:
        said: list[str] = []
        for _ in range(STEPS_MAX):
            before = self._mark()
            said += self._everybody_once()
            if before == self._mark():
                return said
        raise AssertionError(f"not settled after {STEPS_MAX} turns: {said[-5:]}")

    def _do_pass(self, words: list[str]) -> list[str]:
        said: list[str] = []
        for second in range(1, int(words[0]) + 1):
            self._cluster.now += 1.0
            said += [f"{second} s: {line}" for line in self._do_settle([])]
        return said

    def _mark(self) -> tuple[bytes, int]:
        return self._cluster.register, sum(len(node.entered) for node in self._cluster.nodes.values())

    def _do_freeze(self, words: list[str]) -> list[str]:
        self._cluster.nodes[words[0]].is_frozen = True
        return []

    def _do_thaw(self, words: list[str]) -> list[str]:
        self._cluster.nodes[words[0]].is_frozen = False
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

    def _do_fail(self, words: list[str]) -> list[str]:
        name, *rest = words
        final = "final" in rest
        message = " ".join(word for word in rest if word != "final" and "=" not in word)
        action = Fail(self._round_of(name), message or "it failed", int(_options(rest).get("code", 1)), final)
        return self._act(name, action)

    def _do_succeed(self, words: list[str]) -> list[str]:
        return [line for name in words for line in self._act(name, Succeed(self._round_of(name)))]

    def _do_leave(self, words: list[str]) -> list[str]:
        said = self._act(words[0], Leave(" ".join(words[1:]) or "told to"))
        self._cluster.nodes[words[0]].is_alive = False
        return said

    def _do_close(self, words: list[str]) -> list[str]:
        return self._act(words[0], Close("closed", " ".join(words[1:]) or "told to"))

    def _do_news(self, words: list[str]) -> list[str]:
        return [f"{name}: {self._news(name)}" for name in words]

    def _do_react(self, _words: list[str]) -> list[str]:
        said = []
        for name, node in self._cluster.nodes.items():
            if not node.is_acting or node.is_joining or node.seat.entered is None or node.stopped:
                continue
            if self._cluster.news(name).kind in {VerdictKind.OVER, VerdictKind.FENCED}:
                said.append(f"{name}: {self._news(name)}")
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

    # --- what commands are made of ---

    def _everybody_once(self) -> list[str]:
        """Let everybody who lives step once; tell what is new: changes, and whys that are not the last ones."""
        said = []
        for name, node in self._cluster.nodes.items():
            takes_part = node.is_joining or node.seat.entered is not None
            if node.is_acting and takes_part and node.stopped is None:
                line = self._step(name)
                if line != self._said.get(name) and (node.is_joining or "keep" not in line):
                    said.append(line)
                self._said[name] = line
        return said

    def _step(self, name: str) -> str:
        node = self._cluster.nodes[name]
        decision, has_lost = self._cluster.step(name)
        return f"{name}: {self._told(decision, node)}" + (" [lost the swap]" if has_lost else "")

    def _told(self, decision: Decision, node: SimNode) -> str:
        action = decision.action
        kind = type(action).__name__
        if isinstance(action, Stop):
            return f"Stop, {action.kind.value} - {decision.why}"
        if isinstance(action, Enter):
            return f"Enter - {decision.why}; workers' store at {node.entered[-1].endpoint}"
        return f"{'Wait' if self._cluster.is_quiet(decision) else kind} - {decision.why}"

    def _act(self, name: str, action: Fail | Succeed | Leave | Close) -> list[str]:
        has_changed = self._cluster.act(name, action)
        return [] if has_changed else [f"{name}: changes nothing"]

    def _news(self, name: str) -> str:
        verdict = self._cluster.news(name)
        outcome = f" ({verdict.outcome})" if verdict.outcome else ""
        return f"{verdict.kind.value.upper()}{outcome} - {verdict.why}"

    def _round_of(self, name: str) -> int:
        entered = self._cluster.nodes[name].seat.entered
        return -1 if entered is None else entered

    def _names(self, node_ids: list[str]) -> str:
        by_id = {node.seat.node_id: name for name, node in self._cluster.nodes.items()}
        return " ".join(by_id[node_id] for node_id in node_ids) or "nobody"


def _options(words: list[str]) -> dict[str, str]:
    return dict(word.split("=", 1) for word in words if "=" in word)


def main(arguments: list[str]) -> int:
    rewrite = "--rewrite" in arguments
    named = [Path(word) for word in arguments if not word.startswith("--")]
    differing = 0
    for path in named or scenario_files():
        before = path.read_text(encoding="utf-8")
        after = play(before)
        if after != before:
            differing += 1
            print(f"{'rewritten' if rewrite else 'differs'}: {path}")  # noqa: T201 - the command's output
            if rewrite:
                path.write_text(after, encoding="utf-8")
    return 0 if rewrite or not differing else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
