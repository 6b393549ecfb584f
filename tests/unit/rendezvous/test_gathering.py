from __future__ import annotations

import pytest
from msgspec.structs import replace

from rallypoint.rendezvous.actions import Join, Propose, StandBy, Withdraw
from rallypoint.rendezvous.change import change, draft
from rallypoint.rendezvous.decision import Stop, StopKind, Wait
from rallypoint.rendezvous.gathering import (
    Bid,
    choose_world,
    find_place,
    gather,
    refuse_other_bounds,
    refuse_other_store,
    take_census,
    tell_wait,
)
from rallypoint.rendezvous.state import Card, Phase, Standing, State, new_state

IDS = [f"{number:032x}" for number in range(20)]


def card(number: int) -> Card:
    return Card(host=f"h{number}", address="h")


def joined(count: int, min_nodes: int = 2, max_nodes: int = 3) -> State:
    state = new_state("0" * 32, min_nodes, max_nodes)
    for number in range(count):
        state = change(state, Join(card(number), min_nodes, max_nodes), IDS[number])
    return state


def bid(number: int, min_nodes: int = 2, max_nodes: int = 3) -> Bid:
    return Bid(IDS[number], card(number), min_nodes, max_nodes)


def running(count: int) -> State:
    state = joined(count)
    nodes = {node_id: replace(node, standing=Standing.RUNNING) for node_id, node in state.nodes.items()}
    members = {IDS[number]: number for number in range(count)}
    return replace(state, phase=Phase.COMPLETE, proposal=1, members=members, nodes=nodes, endpoint=("h", 1))


def ended(count: int) -> State:
    state = running(count)
    return replace(state, round=1, phase=Phase.GATHERING, previous=state.members, members={}, endpoint=None)


def test_a_census_that_is_kept_up_is_the_one_that_would_be_taken() -> None:
    state = draft(ended(3))
    census = take_census(state)
    for number in (1, 4, 0):
        before = state.nodes.get(IDS[number])
        state = change(state, Join(card(number), 2, 3), IDS[number])
        census.note(IDS[number], before.standing if before else None, state.nodes[IDS[number]].standing)
    assert census == take_census(state)
    assert (census.ready, census.spares, census.returning) == (3, 0, {IDS[2]})


def test_a_node_gets_a_place_while_there_is_one_and_stands_by_then() -> None:
    for count, kind in ((0, Join), (2, Join), (3, StandBy)):
        state = joined(count)
        decision = find_place(state, bid(9), take_census(state))
        assert decision is not None
        assert isinstance(decision.action, kind)
    assert find_place(joined(2), bid(1), take_census(joined(2))) is None


def test_a_place_is_found_without_a_look_at_every_node(monkeypatch: pytest.MonkeyPatch) -> None:
    state = joined(3)
    census = take_census(state)

    def look(*_: object) -> list[str]:
        raise AssertionError("for each of n nodes this makes n times n looks")

    monkeypatch.setattr(State, "standing", look)
    decision = find_place(state, bid(9), census)
    assert decision is not None
    assert isinstance(decision.action, StandBy)


def test_places_of_who_has_yet_to_come_back_are_kept_and_not_counted_twice() -> None:
    state = ended(3)
    decision = find_place(state, bid(9), take_census(state))
    assert decision is not None
    assert isinstance(decision.action, StandBy)
    again = change(ended(2), Propose({IDS[0]: 0, IDS[1]: 1}, is_in_place=True), "")
    assert again.phase is Phase.PROPOSED
    decision = find_place(again, bid(9), take_census(again))
    assert decision is not None
    assert isinstance(decision.action, Join)


def test_only_members_of_the_round_before_are_proposed_without_being_back() -> None:
    ranks = {IDS[0]: 0, IDS[1]: 1}
    assert change(ended(2), Propose(ranks), "").phase is Phase.GATHERING
    assert change(replace(ended(2), previous={}), Propose(ranks, is_in_place=True), "").phase is Phase.GATHERING
    proposed = change(ended(2), Propose(ranks, is_in_place=True), "")
    assert change(proposed, Withdraw(), "").phase is Phase.GATHERING


def test_other_bounds_are_refused_by_whoever_is_there() -> None:
    decision = refuse_other_bounds(joined(1), bid(9, 1, 1))
    assert decision is not None
    assert decision.action == Stop(StopKind.REFUSED)
    assert "told 1 nodes, the run has 2 to 3" in decision.why
    assert refuse_other_bounds(joined(0), bid(9, 1, 1)) is None
    assert refuse_other_bounds(joined(1), bid(0, 1, 1)) is None


def test_a_worker_store_of_another_kind_is_refused_with_both() -> None:
    assert refuse_other_store(joined(1), "gateway", "gateway") is None
    decision = refuse_other_store(joined(1), "gateway", "embedded")
    assert decision is not None
    assert decision.action == Stop(StopKind.REFUSED)
    for part in ("told worker_store=gateway", "has worker_store=embedded", "h0#000000", "told the same"):
        assert part in decision.why


def test_a_world_is_chosen_when_it_is_full_whole_or_the_last_call_is_over() -> None:
    assert choose_world(joined(2), 0.0, 30.0) is None
    full = choose_world(joined(3), 0.0, 30.0)
    assert full is not None
    assert full.why == "3 of 2 to 3 nodes, all places are taken"
    over = choose_world(joined(2), 30.0, 30.0)
    assert over is not None
    assert over.why == "2 of 2 to 3 nodes, the last call of 30 s is over"


def test_newcomers_are_not_waited_for_by_who_knows_everybody() -> None:
    state = replace(joined(3, 2, 4), round=1, previous={IDS[0]: 0, IDS[1]: 1})
    assert choose_world(state, 0.0, 30.0) is None
    assert choose_world(state, 0.0, 30.0, knows_everybody=True) is not None


def test_what_is_waited_for_is_told_as_gather_tells_it() -> None:
    for state, enough_s in ((joined(1), None), (joined(2), 1.0), (ended(2), None)):
        decision = gather(state, enough_s, 30.0)
        assert isinstance(decision.action, Wait)
        assert decision.why == tell_wait(state, take_census(state), enough_s, 30.0)
    assert gather(joined(1), None, 30.0).why == "1 of 2 to 3 nodes, waiting for 1"
