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

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from rallypoint.rendezvous.change import Acknowledge, Beat, Drop, Hear
from rallypoint.rendezvous.decision import Decision, Enter, Rules, Seat, Stop, StopKind, Wait
from rallypoint.rendezvous.gathering import (
    ENDED,
    Bid,
    find_place,
    gather,
    missing_acknowledgements,
    name_awaited,
    name_nodes,
    name_size,
    refuse_other_bounds,
    take_census,
)
from rallypoint.rendezvous.state import Phase, Standing, State
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

    @property
    def bid(self) -> Bid:
        return Bid(self.seat.node_id, self.seat.card, self.rules.min_nodes, self.rules.max_nodes)


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
        return Decision(Stop(StopKind.NOT_NEEDED), f"the run {ENDED.get(closure.outcome, 'ended')}: {closure.why}")
    return Decision(Stop(StopKind.CLOSED), f"the run {ENDED.get(closure.outcome, 'ended')}: {closure.why}")


def _other_bounds(case: _Case) -> Decision | None:
    return refuse_other_bounds(case.state, case.bid)


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
        return Decision(Drop(dead), f"no beat for more than {limit_s:g} s: {name_nodes(state, dead)}")
    if state.phase is not Phase.PROPOSED or case.now - case.view.proposed_since <= limit_s:
        return None
    mute = {
        node_id: f"it did not acknowledge the proposal for round {state.round} within {limit_s:g} s"
        for node_id in state.unacknowledged
        if node_id != case.seat.node_id
    }
    return Decision(Drop(mute), f"no acknowledgement for {limit_s:g} s: {name_nodes(state, mute)}") if mute else None


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
        f"waited {waited_s:.1f} s for {name_size(rules.min_nodes, rules.max_nodes)} nodes in round {state.round}, "
        f"{len(ready)} ready: {name_nodes(state, ready)}" + (f"; {name_awaited(state)}" if name_awaited(state) else ""),
    )


def _has_no_place(case: _Case) -> Decision | None:
    return find_place(case.state, case.bid, take_census(case.state))


def _acknowledge(case: _Case) -> Decision | None:
    state, me = case.state, case.seat.node_id
    if state.phase is not Phase.PROPOSED:
        return None
    node = state.nodes.get(me)
    if me in state.members and (node is None or node.acknowledged != state.proposal):
        place = f"rank {state.members[me]} of {len(state.members)}"
        return Decision(Acknowledge(state.proposal), f"proposed as {place} for round {state.round}")
    return Decision(Wait(), missing_acknowledgements(state))


def _gather(case: _Case) -> Decision:
    """Propose a world, or say what it waits for. Only nodes that are ready come here."""
    since = case.view.enough_since
    return gather(case.state, None if since is None else case.now - since, case.rules.last_call_s)


_JOINING: tuple[_Rule, ...] = (
    _run_is_closed,
    _other_bounds,
    _admitted,
    _drop_the_dead,
    _out_of_time,
    _has_no_place,
    _acknowledge,
    _gather,
)


# --- what rules are made of ------------------------------------------------------------------------------


def _is_beat_due(case: _Case) -> bool:
    return case.standing is not None and case.view.silent_s(case.seat.node_id) >= case.rules.keep_alive_interval_s
