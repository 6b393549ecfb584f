"""Rules with a fault put in on purpose: what the simulator is there to find."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rallypoint.agent import group, round_looks
from rallypoint.agent.moves import (
    CutOff,
    Decision,
    Fenced,
    GroupState,
    Rendezvous,
    ReportSuccess,
    RoundOver,
    RunClosed,
    StartFailed,
    StartWorkers,
    StopFinished,
    WorkerExited,
)
from rallypoint.rendezvous import admission, lifeline, office
from rallypoint.rendezvous.admission import Admission
from rallypoint.rendezvous.follower import Follower
from rallypoint.rendezvous.office import Office
from rallypoint.rendezvous.orders import Clerk
from rallypoint.rendezvous.outsiders import Outsiders
from rallypoint.rendezvous.reports import OrderKind
from rallypoint.rendezvous.state import State

__all__ = ["BROKEN_RULES"]

Break = Callable[[pytest.MonkeyPatch], None]


def never_cut_off(patch: pytest.MonkeyPatch) -> None:
    """A node trusts in its lease for ever."""
    patch.setattr(lifeline, "CUT_OFF_SHARE", 1e9)


def a_lost_connection_means_nothing(patch: pytest.MonkeyPatch) -> None:
    """A node whose connection is lost, and not made again, waits for the end of its lease."""
    patch.setattr(Follower, "_doubt", lambda self, event, now: None)


def the_next_world_comes_at_once(patch: pytest.MonkeyPatch) -> None:
    """Who is lost has no time to find that out."""
    patch.setattr(office, "HOLD_S", 0.0)


def complete_without_all(patch: pytest.MonkeyPatch) -> None:
    """A round is complete with the first acknowledgement that names a store."""
    patch.setattr(State, "unacknowledged", property(lambda self: [] if self.endpoint else self.ranked))
    acknowledge = office.acknowledge

    def acknowledge_for_all(state: State, proposal: int, said: Any) -> State:
        return acknowledge(state, proposal, dict.fromkeys(state.members, next(iter(said.values()))) if said else said)

    patch.setattr(office, "acknowledge", acknowledge_for_all)


def successor_without_minutes(patch: pytest.MonkeyPatch) -> None:
    """Who takes office does not read what was recorded."""
    take_office = Office._take_office
    patch.setattr(Office, "_take_office", lambda self, event: take_office(self, event._replace(minutes=None)))


def told_before_recorded(patch: pytest.MonkeyPatch) -> None:
    """Orders are sent, and nothing is written down."""
    patch.setattr(Office, "_is_recorded", lambda self: True)


def the_dead_are_kept(patch: pytest.MonkeyPatch) -> None:
    """That a node is gone changes nothing."""
    patch.setattr(Office, "_lose", lambda self, event: None)


def the_closing_is_not_told(patch: pytest.MonkeyPatch) -> None:
    """A run ends, and its nodes are not told."""
    order_for = Clerk.order_for

    def order_for_others(self: Any, *arguments: Any) -> Any:
        order = order_for(self, *arguments)
        return None if order is not None and order.kind is OrderKind.CLOSED else order

    patch.setattr(Clerk, "order_for", order_for_others)


def spares_are_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Who stands by is not taken in when a place is free."""
    patch.setattr(Admission, "seat_spares", lambda self, now: None)
    choose_world = admission.choose_world

    def choose_without_spares(state: State, *arguments: Any, **options: Any) -> Any:
        choice = choose_world(state, *arguments, **options)
        if choice is None:
            return None
        ready = [node for node in choice.node_ids if state.nodes[node].standing.value == "ready"]
        return choice._replace(node_ids=ready) if len(ready) >= state.min_nodes else None

    patch.setattr(admission, "choose_world", choose_without_spares)


def who_is_left_out_may_run_on(patch: pytest.MonkeyPatch) -> None:
    """A world without a node that has yet to stop its workers does not wait for it."""
    patch.setattr(Outsiders, "held_until", lambda self: float("-inf"))


def who_is_going_is_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    """A node that has said that it is going, and whose workers have yet to end, counts as one that has left."""
    may_run = Outsiders._may_run
    patch.setattr(Outsiders, "_may_run", lambda self, report: not report.going and may_run(self, report))


def who_is_going_is_waited_for_like_others(patch: pytest.MonkeyPatch) -> None:
    """A node that is going is waited for as long as one that does not answer, though its workers may take longer."""
    held_until = Outsiders.held_until

    def held_for_a_while(self: Outsiders) -> float:
        until = held_until(self)
        return self._until if until == float("inf") else until

    patch.setattr(Outsiders, "held_until", held_for_a_while)


def who_is_going_says_so_when_it_leaves(patch: pytest.MonkeyPatch) -> None:
    """The others hear of a node that was asked to go when its workers have ended."""
    patch.setattr(Follower, "_go", lambda self, event, now: None)


def everybody_has_rank_0(patch: pytest.MonkeyPatch) -> None:
    """Ranks are not what they should be."""
    patch.setattr(Admission, "_rank", lambda self, chosen: dict.fromkeys(chosen, 0))


# --- the worker group ------------------------------------------------------------------------------------


def _change(patch: pytest.MonkeyPatch, state: GroupState, event: type, rule: Any) -> None:
    """Let another rule stand for one of the group's."""
    patch.setitem(group._TABLE[state], event, rule)  # type: ignore[index]


def _forget(patch: pytest.MonkeyPatch, state: GroupState, *events: type) -> None:
    """Let events mean nothing in a state."""
    for event in events:
        patch.delitem(group._TABLE[state], event)  # type: ignore[arg-type]


def fenced_workers_run_on(patch: pytest.MonkeyPatch) -> None:
    """Who is fenced, or cut off, goes on."""
    _forget(patch, GroupState.HEALTHY, Fenced, CutOff)


def fenced_workers_are_asked(patch: pytest.MonkeyPatch) -> None:
    """The workers of who is fenced have time to end by themselves."""
    for event in (Fenced, CutOff):
        _change(patch, GroupState.HEALTHY, event, group._stop_for_next_round)


def fenced_workers_have_their_time(patch: pytest.MonkeyPatch) -> None:
    """Workers that are being stopped are not killed when their node is fenced."""
    _forget(patch, GroupState.STOPPING, Fenced, CutOff)


def workers_of_an_old_round_are_started(patch: pytest.MonkeyPatch) -> None:
    """A start that was called off, because the round is over, is made once more."""

    def start_again(m: Any, event: StartFailed) -> Decision:
        if m.plan is None:
            return group._fail_to_start(m, event)
        m.plan = None
        return m.become(GroupState.STARTING, event.why, StartWorkers(m.round, m.restarts_used))

    _change(patch, GroupState.STARTING, StartFailed, start_again)


def the_same_round_once_more(patch: pytest.MonkeyPatch) -> None:
    """Workers are started again without asking the others."""

    def start_again(m: Any, event: StopFinished) -> Decision:
        if m.plan.finish is not None:
            return group._after_stop(m, event)
        m.plan = None
        return m.become(GroupState.STARTING, "again", StartWorkers(m.round, m.restarts_used))

    _change(patch, GroupState.STOPPING, StopFinished, start_again)


def the_next_round_does_not_wait_for_the_stop(patch: pytest.MonkeyPatch) -> None:
    """A node asks for its place in the next round while its workers run."""

    def stop_and_join(m: Any, event: RoundOver) -> Decision:
        stopping = group._stop_for_next_round(m, event)
        return m.become(GroupState.RENDEZVOUS, event.why, *stopping.effects, Rendezvous())

    _change(patch, GroupState.HEALTHY, RoundOver, stop_and_join)


def who_is_done_hears_nothing(patch: pytest.MonkeyPatch) -> None:
    """A node whose workers ended well does not run a round again that fails elsewhere."""
    _forget(patch, GroupState.SUCCEEDED_WAITING, RoundOver)


def the_end_of_the_run_means_nothing(patch: pytest.MonkeyPatch) -> None:
    """A run ends, and its workers go on."""
    for state in (GroupState.HEALTHY, GroupState.SUCCEEDED_WAITING):
        _forget(patch, state, RunClosed)


def one_worker_speaks_for_all(patch: pytest.MonkeyPatch) -> None:
    """A node is done when the first of its workers has ended well."""

    def take_exit(m: Any, event: WorkerExited) -> Decision:
        decision = group._take_exit(m, event)
        if m.state is not GroupState.HEALTHY:
            return decision
        return m.become(GroupState.SUCCEEDED_WAITING, decision.why, ReportSuccess())

    _change(patch, GroupState.HEALTHY, WorkerExited, take_exit)


def news_are_looked_for_seldom(patch: pytest.MonkeyPatch) -> None:
    """Who stops its workers, or is in trouble, looks five times a second what becomes of its round."""
    patch.setattr(round_looks, "LOOK_S", 0.2)


BROKEN_RULES: tuple[Break, ...] = (
    never_cut_off,
    a_lost_connection_means_nothing,
    the_next_world_comes_at_once,
    complete_without_all,
    successor_without_minutes,
    told_before_recorded,
    the_dead_are_kept,
    the_closing_is_not_told,
    spares_are_forgotten,
    who_is_left_out_may_run_on,
    who_is_going_is_not_waited_for,
    who_is_going_is_waited_for_like_others,
    who_is_going_says_so_when_it_leaves,
    everybody_has_rank_0,
    fenced_workers_run_on,
    fenced_workers_are_asked,
    fenced_workers_have_their_time,
    workers_of_an_old_round_are_started,
    the_same_round_once_more,
    the_next_round_does_not_wait_for_the_stop,
    who_is_done_hears_nothing,
    the_end_of_the_run_means_nothing,
    one_worker_speaks_for_all,
    news_are_looked_for_seldom,
)
