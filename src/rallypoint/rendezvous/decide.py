"""What a node should do next, and why: the rules of a round, as pure functions of the state.

Rules
-----
1. The first rule that speaks decides. Each decision carries one sentence with the counts in it; the log, the status
   page and the error all show that sentence.
2. The world of a round is what the state says was committed. Nobody recomputes it, and nobody takes part in a round
   that the state does not name it in.
3. A world is proposed when it is as large as it may be; or when everybody who lives of the last round is back and the
   losses, at most, were made good; or when it has been large enough for the time of the last call.
4. While a member of the last round lives and has not come back, its place is kept for it until the last call is over.
5. A node that is silent on my clock for longer than ``dead_after_s`` is dropped, by a change that all can see. So is a
   member that beats but does not acknowledge a proposal for that long.

Theory of operation
-------------------
``decide`` is asked by a node that wants in, again and again, until it says ``Enter`` or ``Stop``; the driver carries
out each action and otherwise waits for the state to change. ``tend`` is asked all the while by whoever keeps the
node's place: it beats, and drops the dead. What has become of a round is read off the state by ``verdict.judge``::

                    decide: Join        decide: Propose, Acknowledge           judge: OVER (decide again)
    a newcomer ----------------> READY ---------------------------> RUNNING ------------------------> READY ...
         |                         ^                                   |
         | decide: StandBy         | decide: Join, or proposed         +--> judge: FENCED, taken for gone
         +---------> SPARE --------+                                   +--> judge: CLOSED, the run is over

What this file does not know: how the state is stored, whether a change won, threads, the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple, TypeAlias

from rallypoint.rendezvous.change import Acknowledge, Action, Beat, Drop, Hear, Join, Propose, StandBy
from rallypoint.rendezvous.ranks import choose_members, place_ranks
from rallypoint.rendezvous.state import Card, Phase, Standing, State, label_of
from rallypoint.rendezvous.view import View

__all__ = [
    "Decision",
    "Enter",
    "Rules",
    "Seat",
    "Stop",
    "StopKind",
    "Wait",
    "decide",
    "tend",
]

NAMES_SHOWN_MAX = 8
"""A sentence names so many nodes; the rest is counted."""


@dataclass(frozen=True)
class Rules:
    """The numbers behind the rules; durations in seconds.

    Attributes:
        min_nodes: the fewest nodes in a round.
        max_nodes: the most.
        join_timeout_s: how long a node waits to be admitted.
        last_call_s: how long a world that is large enough waits for more.
        spare_timeout_s: how long a spare stands by; infinity for ever.
        keep_alive_interval_s: how often a node beats.
        keep_alive_max_attempt: after so many intervals without a beat a node is gone.
        answer_s: a backend that takes longer to answer is in trouble.
    """

    min_nodes: int
    max_nodes: int
    join_timeout_s: float = 600.0
    last_call_s: float = 30.0
    spare_timeout_s: float = float("inf")
    keep_alive_interval_s: float = 5.0
    keep_alive_max_attempt: int = 3
    answer_s: float = 5.0

    @property
    def dead_after_s(self) -> float:
        """How long a silent node is waited for."""
        return self.keep_alive_interval_s * self.keep_alive_max_attempt


@dataclass(frozen=True)
class Seat:
    """Who asks.

    Attributes:
        node_id: its id.
        card: how it introduces itself.
        entered: the round that it was last admitted to, which it now wants to leave behind; ``None`` if none.
        joining_since: since when it wants in, on its own clock.
    """

    node_id: str
    card: Card
    entered: int | None = None
    joining_since: float = 0.0


@dataclass(frozen=True)
class Wait:
    """Nothing to do until the state changes or time passes."""


@dataclass(frozen=True)
class Enter:
    """I am in: the round in the state is complete, and I am a member of it."""


class StopKind(Enum):
    """Why a node stops trying."""

    CLOSED = "closed"
    NOT_NEEDED = "not needed"
    TIMED_OUT = "timed out"
    REFUSED = "refused"


@dataclass(frozen=True)
class Stop:
    """I shall not get in."""

    kind: StopKind


class Decision(NamedTuple):
    """What to do and why.

    Attributes:
        action: a change to make, or what the driver is to do instead.
        why: one sentence.
    """

    action: Action | Wait | Enter | Stop
    why: str


class _Case(NamedTuple):
    """All that a rule looks at."""

    state: State
    seat: Seat
    view: View
    rules: Rules
    now: float

    @property
    def standing(self) -> Standing | None:
        node = self.state.nodes.get(self.seat.node_id)
        return node.standing if node else None


_Rule: TypeAlias = Callable[[_Case], Decision | None]


def decide(state: State, seat: Seat, view: View, rules: Rules, now: float) -> Decision:
    """Say what a node that wants in should do next.

    Args:
        state: as just loaded.
        seat: who asks.
        view: its memory, this look included.
        rules: the numbers.
        now: seconds on its monotonic clock.

    Cost: O(n log n) for n nodes.
    """
    case = _Case(state, seat, view, rules, now)
    spoken = (rule(case) for rule in _JOINING)
    decision = next(decision for decision in spoken if decision is not None)
    if isinstance(decision.action, Wait) and _is_beat_due(case):
        return Decision(Beat(), decision.why)
    return decision


def tend(state: State, seat: Seat, view: View, rules: Rules, now: float) -> Decision:
    """Say what has to be done for a node's place to be kept, whether it is joining or running.

    Args:
        state: as just loaded.
        seat: whose place.
        view: its memory, this look included.
        rules: the numbers.
        now: seconds on its monotonic clock.
    """
    case = _Case(state, seat, view, rules, now)
    if case.standing is None:
        return Decision(Wait(), "no place to keep")
    if state.closure is not None:
        return Decision(Hear() if seat.node_id in state.unaware else Wait(), state.closure.why)
    dead = _drop_the_dead(case)
    if dead is not None:
        return dead
    return Decision(Beat() if _is_beat_due(case) else Wait(), "keeping my place")


# --- the rules of joining, in order ----------------------------------------------------------------------


def _run_is_closed(case: _Case) -> Decision | None:
    closure = case.state.closure
    if closure is None:
        return None
    if case.standing is Standing.SPARE:
        return Decision(Stop(StopKind.NOT_NEEDED), f"the run {_ENDED.get(closure.outcome, 'ended')}: {closure.why}")
    return Decision(Stop(StopKind.CLOSED), f"the run {_ENDED.get(closure.outcome, 'ended')}: {closure.why}")


_ENDED = {"succeeded": "has succeeded", "failed": "has failed", "closed": "was closed"}


def _other_bounds(case: _Case) -> Decision | None:
    """Nodes that were told different sizes would never agree on a world."""
    state, rules = case.state, case.rules
    if (state.min_nodes, state.max_nodes) == (rules.min_nodes, rules.max_nodes):
        return None
    if set(state.nodes) <= {case.seat.node_id}:
        return None
    return Decision(
        Stop(StopKind.REFUSED),
        f"this node was told {_size(rules.min_nodes, rules.max_nodes)} nodes, "
        f"the run has {_size(state.min_nodes, state.max_nodes)}: {_names(state, state.nodes)} were told so",
    )


def _admitted(case: _Case) -> Decision | None:
    state, me = case.state, case.seat.node_id
    if state.phase is Phase.COMPLETE and me in state.members and me in state.nodes and state.round != case.seat.entered:
        return Decision(Enter(), f"round {state.round} is complete: rank {state.members[me]} of {len(state.members)}")
    return None


def _drop_the_dead(case: _Case) -> Decision | None:
    state, limit_s = case.state, case.rules.dead_after_s
    dead = {
        node_id: f"its beat has not moved for {case.view.silent_s(node_id):.1f} s"
        for node_id in state.nodes
        if node_id != case.seat.node_id and case.view.silent_s(node_id) > limit_s
    }
    if dead:
        return Decision(Drop(dead), f"no beat for more than {limit_s:g} s: {_names(state, dead)}")
    if state.phase is not Phase.PROPOSED or case.now - case.view.proposed_since <= limit_s:
        return None
    mute = {
        node_id: f"it did not acknowledge the proposal for round {state.round} within {limit_s:g} s"
        for node_id in state.unacknowledged
        if node_id != case.seat.node_id
    }
    return Decision(Drop(mute), f"no acknowledgement for {limit_s:g} s: {_names(state, mute)}") if mute else None


def _out_of_time(case: _Case) -> Decision | None:
    state, rules, now = case.state, case.rules, case.now
    if case.standing is Standing.SPARE:
        stood_by_s = now - (now if case.view.spare_since is None else case.view.spare_since)
        if stood_by_s < rules.spare_timeout_s:
            return None
        return Decision(Stop(StopKind.NOT_NEEDED), f"stood by for {stood_by_s:.1f} s and was not needed")
    # A spare that gets in starts its wait anew: it has waited for something else until then.
    waited_s = now - max(case.seat.joining_since, case.view.spare_until)
    if waited_s < rules.join_timeout_s:
        return None
    ready = state.standing(Standing.READY)
    return Decision(
        Stop(StopKind.TIMED_OUT),
        f"waited {waited_s:.1f} s for {_size(rules.min_nodes, rules.max_nodes)} nodes in round {state.round}, "
        f"{len(ready)} ready: {_names(state, ready)}" + (f"; {_awaited(state)}" if _awaited(state) else ""),
    )


def _round_is_complete(case: _Case) -> Decision | None:
    state, me = case.state, case.seat.node_id
    if state.phase is not Phase.COMPLETE:
        return None
    size, most = len(state.members), state.max_nodes
    if me in state.members and me in state.nodes:
        return Decision(_join(case), f"round {state.round} is behind this node, it asks for the next")
    if size < most:
        return Decision(_join(case), f"round {state.round} has {size} of {most} nodes, there is room")
    return _stand_by(case, f"round {state.round} has {size} of {most} nodes, standing by")


def _not_in_yet(case: _Case) -> Decision | None:
    state, me = case.state, case.seat.node_id
    if case.standing is Standing.READY or me in state.members:
        return None
    returning = state.returning
    if me in returning:
        return Decision(_join(case), f"back for round {state.round}")
    taken = max(len(state.standing(Standing.READY)), len(state.members)) + len(returning)
    if taken < state.max_nodes:
        return Decision(_join(case), f"round {state.round} has {taken} of {state.max_nodes} places taken")
    awaited = _awaited(state)
    return _stand_by(
        case, f"all {state.max_nodes} places of round {state.round} are taken" + (f" ({awaited})" if awaited else "")
    )


def _acknowledge(case: _Case) -> Decision | None:
    state, me = case.state, case.seat.node_id
    if state.phase is not Phase.PROPOSED:
        return None
    missing = state.unacknowledged
    if me in missing:
        place = f"rank {state.members[me]} of {len(state.members)}"
        return Decision(Acknowledge(state.proposal), f"proposed as {place} for round {state.round}")
    waited_for = f"{len(missing)} of {len(state.members)} acknowledgements missing: {_names(state, missing)}"
    return Decision(Wait(), f"round {state.round} is proposed, {waited_for}")


def _gather(case: _Case) -> Decision:
    """Propose a world, or say what it waits for. Only nodes that are ready come here."""
    state, rules = case.state, case.rules
    size = _size(state.min_nodes, state.max_nodes)
    returning = state.returning
    chosen = choose_members(state, reserved=len(returning))
    if len(chosen) == state.max_nodes:
        return _propose(state, chosen, f"{len(chosen)} of {size} nodes, all places are taken")
    survivors = [node_id for node_id in chosen if node_id in state.previous]
    is_whole = bool(survivors) and not returning and len(chosen) <= len(state.previous)
    if is_whole and len(chosen) >= state.min_nodes:
        return _propose(state, chosen, f"{len(chosen)} of {size} nodes, everybody who lives is back")
    since = case.view.enough_since
    if since is not None and case.now - since >= rules.last_call_s:
        chosen = choose_members(state, reserved=0)
        return _propose(
            state, chosen, f"{len(chosen)} of {size} nodes, the last call of {rules.last_call_s:g} s is over"
        )
    awaited = f" ({_awaited(state)})" if returning else ""
    if since is None:
        missing = state.min_nodes - len(chosen)
        return Decision(Wait(), f"{len(chosen)} of {size} nodes, waiting for {missing}{awaited}")
    return Decision(
        Wait(), f"{len(chosen)} of {size} nodes, the last call of {rules.last_call_s:g} s is running{awaited}"
    )


_JOINING: tuple[_Rule, ...] = (
    _run_is_closed,
    _other_bounds,
    _admitted,
    _drop_the_dead,
    _out_of_time,
    _round_is_complete,
    _not_in_yet,
    _acknowledge,
    _gather,
)


# --- what rules are made of ------------------------------------------------------------------------------


def _is_beat_due(case: _Case) -> bool:
    return case.standing is not None and case.view.silent_s(case.seat.node_id) >= case.rules.keep_alive_interval_s


def _join(case: _Case) -> Join:
    return Join(case.seat.card, case.rules.min_nodes, case.rules.max_nodes)


def _stand_by(case: _Case, why: str) -> Decision:
    return Decision(Wait() if case.standing is Standing.SPARE else StandBy(case.seat.card), why)


def _propose(state: State, chosen: list[str], why: str) -> Decision:
    return Decision(Propose(place_ranks(state, chosen)), why)


def _size(min_nodes: int, max_nodes: int) -> str:
    return str(min_nodes) if min_nodes == max_nodes else f"{min_nodes} to {max_nodes}"


def _names(state: State, node_ids: Iterable[str]) -> str:
    labels = sorted(label_of(state, node_id) for node_id in node_ids)
    more = f" and {len(labels) - NAMES_SHOWN_MAX} more" if len(labels) > NAMES_SHOWN_MAX else ""
    return (", ".join(labels[:NAMES_SHOWN_MAX]) or "nobody") + more


def _awaited(state: State) -> str:
    returning = state.returning
    return f"{_names(state, returning)} of the last round still to come back" if returning else ""
