"""The rules one by one; how they play together is in ``tests/scenarios``."""

from __future__ import annotations

from dataclasses import replace as with_fields

import pytest
from msgspec.structs import replace

from rallypoint.rendezvous.change import Acknowledge, Action, Beat, Drop, Hear, Join, Propose, StandBy, change
from rallypoint.rendezvous.decide import Decision, Enter, Rules, Seat, Stop, StopKind, Wait, decide, tend
from rallypoint.rendezvous.state import Card, Closure, Standing, State, new_state
from rallypoint.rendezvous.view import View
from rallypoint.types import Endpoint

A, B, C = "a" * 32, "b" * 32, "c" * 32
RULES = Rules(min_nodes=2, max_nodes=3, join_timeout_s=60.0, last_call_s=30.0)
WHERE = Endpoint("host-a", 29500)


def card(node_id: str) -> Card:
    return Card(host=f"host-{node_id[0]}", address=f"host-{node_id[0]}")


def join(node_id: str) -> Join:
    return Join(card(node_id), 2, 3)


def after(state: State, *steps: tuple[str, Action]) -> State:
    for node_id, action in steps:
        state = change(state, action, node_id)
    return state


def ready(*node_ids: str) -> State:
    return after(new_state("0" * 32, 2, 3), *((node_id, join(node_id)) for node_id in node_ids))


def proposed() -> State:
    return after(ready(A, B), (A, Propose({A: 0, B: 1})))


def complete() -> State:
    return after(proposed(), (B, Acknowledge(1)), (A, Acknowledge(1, WHERE)))


def ask(state: State, node_id: str, view: View | None = None, *, now: float = 0.0, **fields: object) -> Decision:
    """Ask the rules of joining, after one look at ``now``."""
    seat = with_fields(Seat(node_id, card(node_id)), **fields)
    view = (view or View()).observe(state, node_id, RULES.keep_alive_interval_s, now)
    return decide(state, seat, view, RULES, now)


def watch(state: State, node_id: str, times: list[float], view: View | None = None) -> View:
    view = view or View()
    for now in times:
        view = view.observe(state, node_id, RULES.keep_alive_interval_s, now)
    return view


def test_dead_after_is_interval_times_attempts() -> None:
    assert Rules(1, 1, keep_alive_interval_s=0.2, keep_alive_max_attempt=3).dead_after_s == pytest.approx(0.6)


# --- closed, refused ---


@pytest.mark.parametrize(
    ("outcome", "words"), [("succeeded", "has succeeded"), ("failed", "has failed"), ("odd", "ended")]
)
def test_a_closed_run_takes_nobody(outcome: str, words: str) -> None:
    state = replace(ready(B), closure=Closure(outcome=outcome, why="so it is"))
    assert ask(state, A) == (Stop(StopKind.CLOSED), f"the run {words}: so it is")


def test_a_spare_is_not_needed_any_more_when_the_run_is_closed() -> None:
    state = replace(after(complete(), (C, StandBy(card(C)))), closure=Closure(outcome="failed", why="so it is"))
    assert ask(state, C) == (Stop(StopKind.NOT_NEEDED), "the run has failed: so it is")


def test_a_node_that_was_told_other_bounds_is_refused_with_both() -> None:
    state = replace(ready(B), min_nodes=1, max_nodes=1)
    action, why = ask(state, A)
    assert action == Stop(StopKind.REFUSED)
    assert why == "this node was told 2 to 3 nodes, the run has 1, as told to host-b#bbbbbb"


def test_a_node_that_finds_nobody_brings_its_own_bounds() -> None:
    assert ask(new_state("0" * 32, 7, 9), A).action == join(A)


# --- getting in ---


def test_a_newcomer_joins_while_there_is_room() -> None:
    assert ask(ready(B), A) == (join(A), "round 0 has 1 of 3 places taken")


def test_a_newcomer_ends_a_round_that_has_room() -> None:
    assert ask(complete(), C) == (join(C), "round 0 has 2 of 3 nodes, there is room")


def test_a_newcomer_stands_by_when_a_round_is_full() -> None:
    full = replace(complete(), max_nodes=2)
    rules = with_fields(RULES, max_nodes=2)
    decision = decide(full, Seat(C, card(C)), View(), rules, 0.0)
    assert decision == (StandBy(card(C)), "round 0 has 2 of 2 nodes, standing by")
    waiting = after(full, (C, StandBy(card(C))))
    assert decide(waiting, Seat(C, card(C)), View(), rules, 0.0).action == Wait()


def test_a_place_is_kept_for_a_member_that_is_on_its_way_back() -> None:
    state = after(complete(), (A, join(A)))  # B still stops its workers, one place is free
    assert isinstance(ask(state, C).action, Join)
    state = replace(state, max_nodes=2, min_nodes=2)
    decision = decide(state, Seat(C, card(C)), View(), with_fields(RULES, max_nodes=2), 0.0)
    assert decision.action == StandBy(card(C))
    assert decision.why == "all 2 places of round 1 are taken (host-b#bbbbbb of the last round still to come back)"


def test_a_member_comes_back() -> None:
    assert ask(after(complete(), (A, join(A))), B, entered=0) == (join(B), "back for round 1")


def test_a_member_that_asks_for_the_next_round_leaves_the_present_one() -> None:
    assert ask(complete(), A, entered=0) == (join(A), "round 0 is behind this node, it asks for the next")


def test_a_member_of_a_complete_round_enters_it() -> None:
    assert ask(complete(), A) == (Enter(), "round 0 is complete: rank 0 of 2")


def test_a_node_that_was_dropped_does_not_enter() -> None:
    state = replace(complete(), done=(A,), nodes={B: complete().nodes[B]})
    assert isinstance(ask(state, A).action, Join)


# --- gathering ---


def test_too_few_nodes_wait_and_say_for_how_many() -> None:
    assert ask(ready(A), A) == (Wait(), "1 of 2 to 3 nodes, waiting for 1")


def test_a_full_house_is_proposed_at_once() -> None:
    assert ask(ready(A, B, C), A) == (Propose({A: 0, B: 1, C: 2}), "3 of 2 to 3 nodes, all places are taken")


def test_enough_nodes_wait_for_the_last_call() -> None:
    state = ready(A, B)
    view = watch(state, A, [0.0, 4.0, 8.0])
    assert ask(state, A, view, now=9.0).why == "2 of 2 to 3 nodes, the last call of 30 s is running"
    view = with_fields(view, enough_since=0.0, silences={})
    assert ask(state, A, view, now=30.0) == (
        Propose({A: 0, B: 1}), "2 of 2 to 3 nodes, the last call of 30 s is over",
    )  # fmt: skip


def test_those_who_lost_nobody_but_the_dead_do_not_wait_for_the_last_call() -> None:
    state = after(replace(complete(), max_nodes=3), (A, join(A)), (B, join(B)))
    assert ask(state, A) == (Propose({A: 0, B: 1}), "2 of 2 to 3 nodes, everybody who lives is back")


def test_newcomers_only_wait_for_the_last_call_although_an_older_round_was_larger() -> None:
    state = replace(ready(A, B), round=1, previous={C: 0, "d" * 32: 1})
    assert ask(state, A).action == Wait()


# --- agreeing ---


def test_a_member_agrees_to_a_proposal_and_then_waits_for_the_others_by_name() -> None:
    assert ask(proposed(), B) == (Acknowledge(1), "proposed as rank 1 of 2 for round 0")
    state = after(proposed(), (B, Acknowledge(1)))
    assert ask(state, B) == (Wait(), "round 0 is proposed, 1 of 2 acknowledgements missing: host-a#aaaaaa")


def test_a_node_that_comes_while_a_proposal_is_open_and_has_room_joins() -> None:
    assert ask(proposed(), C) == (join(C), "round 0 has 2 of 3 places taken")


def test_a_member_that_does_not_agree_in_time_is_dropped() -> None:
    state = after(proposed(), (B, Acknowledge(1)))
    view = with_fields(watch(state, B, [100.0]), proposed_since=80.0)
    action, why = ask(state, B, view, now=100.0)
    assert action == Drop({A: "it did not acknowledge the proposal for round 0 within 15 s"})
    assert why == "no acknowledgement for 15 s: host-a#aaaaaa"


# --- time ---


def test_a_silent_node_is_dropped_after_more_than_the_limit() -> None:
    state = ready(A, B)
    view = watch(state, A, [0.0, 5.0, 10.0])
    assert not isinstance(ask(state, A, view, now=15.0).action, Drop)
    action, why = ask(state, A, view, now=15.1)
    assert not isinstance(action, Drop), "a gap counts for one interval at most"
    action, why = ask(state, A, watch(state, A, [15.0], view), now=15.1)
    assert action == Drop({B: "its beat has not moved for 15.1 s"})
    assert why == "no beat for more than 15 s: host-b#bbbbbb"


def test_a_node_does_not_drop_itself() -> None:
    state = ready(A)
    assert ask(state, A, watch(state, A, [0.0, 5.0, 10.0, 15.0, 20.0]), now=25.0).action == Beat()


def test_a_waiting_node_beats_when_its_beat_is_due_and_the_why_stays() -> None:
    state = ready(A)
    view = watch(state, A, [0.0])
    assert ask(state, A, view, now=4.9).action == Wait()
    assert ask(state, A, view, now=5.0) == (Beat(), "1 of 2 to 3 nodes, waiting for 1")


def test_who_waits_too_long_for_too_few_is_told_who_came() -> None:
    action, why = ask(ready(A), A, now=60.0)
    assert action == Stop(StopKind.TIMED_OUT)
    assert why == "waited 60.0 s for 2 to 3 nodes in round 0, 1 ready: host-a#aaaaaa"


def test_the_time_of_a_spare_does_not_count_when_it_gets_in() -> None:
    view = View(born="0" * 32, spare_until=50.0)
    assert ask(ready(A), A, view, now=100.0).action != Stop(StopKind.TIMED_OUT)
    assert ask(ready(A), A, view, now=110.0).action == Stop(StopKind.TIMED_OUT)


def test_a_spare_stands_by_as_long_as_it_was_told() -> None:
    state = after(replace(complete(), max_nodes=2), (C, StandBy(card(C))))
    rules = with_fields(RULES, max_nodes=2, spare_timeout_s=100.0)
    view = View(spare_since=0.0, spare_until=99.0)
    seat = Seat(C, card(C))
    assert decide(state, seat, view, rules, 99.0).action == Wait()
    assert decide(state, seat, view, rules, 100.0) == (
        Stop(StopKind.NOT_NEEDED), "stood by for 100.0 s and was not needed",
    )  # fmt: skip


def test_a_long_list_of_names_is_cut() -> None:
    state = ready(A)
    node = state.nodes[A]
    state = replace(state, nodes={f"{n:032x}": node for n in range(20)} | {A: node})
    why = ask(state, A, now=99.0).why
    assert why.endswith("and 13 more")


# --- keeping a place ---


def tended(state: State, view: View, now: float) -> Decision:
    view = view.observe(state, A, RULES.keep_alive_interval_s, now)
    return tend(state, Seat(A, card(A)), view, RULES, now)


def test_keeping_a_place_is_beating_and_dropping() -> None:
    state = complete()
    assert tended(state, View(), 0.0).action == Wait()
    assert tended(state, watch(state, A, [0.0]), 5.0).action == Beat()
    assert isinstance(tended(state, watch(state, A, [0.0, 5.0, 10.0, 15.0]), 20.0).action, Drop)


def test_a_node_without_a_place_keeps_none() -> None:
    assert tended(replace(complete(), done=(A,), nodes={}), View(), 0.0).action == Wait()


def test_the_closing_is_heard_once() -> None:
    state = replace(complete(), closure=Closure(outcome="closed", why="told to"))
    assert tended(state, View(), 0.0) == (Hear(), "told to")
    assert tended(change(state, Hear(), A), View(), 0.0) == (Wait(), "told to")


def test_every_standing_in_every_phase_gets_an_answer() -> None:
    for state in (ready(A, B), proposed(), complete(), after(complete(), (A, join(A)))):
        for standing in Standing:
            node = replace(state.nodes[A], standing=standing)
            for node_id in (A, B, C):
                assert ask(replace(state, nodes={**state.nodes, A: node}), node_id).why
