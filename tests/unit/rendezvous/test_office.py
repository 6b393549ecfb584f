from __future__ import annotations

import time

import pytest
from msgspec.structs import replace

from rallypoint.errors import RendezvousStateError
from rallypoint.rendezvous.decision import Rules
from rallypoint.rendezvous.minutes import decode_minutes
from rallypoint.rendezvous.office import WAIT_S, Office
from rallypoint.rendezvous.office_moves import (
    DropKeySpaces,
    Effect,
    Gone,
    Progress,
    PutAway,
    Record,
    Recorded,
    Reported,
    Send,
    Ticked,
    TookOffice,
)
from rallypoint.rendezvous.policy import Policy
from rallypoint.rendezvous.reports import Failure, Notice, Order, OrderKind, Report
from rallypoint.rendezvous.state import Card, Phase
from rallypoint.types import Endpoint

A, B, C = "a" * 32, "b" * 32, "c" * 32
HOME = Endpoint("h", 1)


def wish(node: str, number: int = 1, **rest: object) -> Report:
    fields: dict[str, object] = {"card": Card(host=f"host-{node[0]}", address="h"), "min_nodes": 2, "max_nodes": 2}
    return Report(node=node, number=number, wants_in=True, joining=1, **(fields | rest))  # type: ignore[arg-type]


def record_of(effects: list[Effect]) -> Record:
    (record,) = [effect for effect in effects if isinstance(effect, Record)]
    return record


def orders(effects: list[Effect]) -> dict[str, Order]:
    return {effect.node: effect.order for effect in effects if isinstance(effect, Send)}


def begun(rules: Rules = Rules(2, 2)) -> Office:  # noqa: B008 - frozen
    office = Office(rules)
    office.step(Recorded(record_of(office.step(TookOffice(5, None, ()), 0.0)).number), 0.0)
    return office


def proposed() -> Office:
    office = begun()
    effects = office.step_all([Reported(wish(A)), Reported(wish(B))], 0.0)
    assert [order.kind for order in orders(office.step(Recorded(record_of(effects).number), 0.0)).values()] == [
        OrderKind.PROPOSED
    ] * 2
    return office


def running() -> Office:
    office = proposed()
    acks = [Reported(wish(A, 2, acknowledged=1, endpoint=HOME)), Reported(wish(B, 2, acknowledged=1))]
    effects = office.step_all(acks, 0.0)
    told = orders(office.step(Recorded(record_of(effects).number), 0.0))
    assert {node: (order.kind, order.rank) for node, order in told.items()} == {
        A: (OrderKind.ADMITTED, 0),
        B: (OrderKind.ADMITTED, 1),
    }
    office.step_all([Reported(inside(A, 3)), Reported(inside(B, 3))], 0.0)
    return office


def inside(node: str, number: int, **rest: object) -> Report:
    return replace(wish(node, number, entered=0, acknowledged=1, **rest), wants_in=False)


def test_nothing_is_decided_before_office_is_taken() -> None:
    office = Office(Rules(1, 1))
    assert office.step(Reported(wish(A)), 0.0) == []
    assert office.next_deadline() is None


def test_who_takes_office_writes_its_term_down_and_then_tells() -> None:
    office = Office(Rules(2, 2))
    effects = office.step(TookOffice(5, None, (wish(A),)), 0.0)
    record = record_of(effects)
    assert decode_minutes(record.minutes).term == 5
    assert orders(effects) == {}
    assert orders(office.step(Recorded(record.number), 0.0)) == {}
    (order,) = orders(office.step(Ticked(), WAIT_S)).values()
    assert (order.term, order.kind, order.report) == (5, OrderKind.WAIT, 1)


def test_who_has_to_wait_is_told_after_a_moment_once_and_nothing_is_recorded() -> None:
    office = begun(Rules(3, 3))
    for node, at in ((A, 0.0), (B, 0.5)):
        effects = office.step(Reported(wish(node, max_nodes=3, min_nodes=3)), at)
        assert orders(effects) == {}
        assert not any(isinstance(effect, Record) for effect in effects)
    assert office.next_deadline() == WAIT_S
    effects = office.step(Ticked(), WAIT_S)
    assert {node: (order.kind, order.why) for node, order in orders(effects).items()} == dict.fromkeys(
        (A, B), (OrderKind.WAIT, "2 of 3 nodes, waiting for 1")
    )
    assert orders(office.step(Ticked(), 2 * WAIT_S)) == {}


def test_who_is_told_better_meanwhile_or_has_gone_is_not_told_to_wait() -> None:
    office = begun(Rules(2, 2))
    office.step(Reported(wish(A)), 0.0)
    effects = office.step(Reported(wish(B)), 0.5)
    told = orders(office.step(Recorded(record_of(effects).number), 0.5))
    assert {order.kind for order in told.values()} == {OrderKind.PROPOSED}
    assert orders(office.step(Ticked(), WAIT_S)) == {}
    office = begun(Rules(2, 2))
    office.step(Reported(wish(A)), 0.0)
    office.step(Gone(A, "its connection was lost"), 0.5)
    assert orders(office.step(Ticked(), WAIT_S)) == {}


def test_nobody_is_told_before_the_minutes_are_stored_and_what_comes_meanwhile_waits() -> None:
    office = begun()
    effects = office.step_all([Reported(wish(A)), Reported(wish(B))], 0.0)
    assert orders(effects) == {}
    assert office.step(Gone(B, "its connection was lost"), 0.0) == []
    assert office.step(Recorded(999), 0.0) == []
    assert office.next_deadline() is None
    effects = office.step(Recorded(record_of(effects).number), 0.0)
    assert set(orders(effects)) == {A, B}  # what was written down
    assert record_of(effects)  # and now B is gone
    assert office.state.phase is Phase.GATHERING


def test_a_repeated_or_older_report_changes_nothing() -> None:
    office = running()
    for old in (wish(A), wish(A, 2, acknowledged=1, endpoint=HOME), inside(A, 3)):
        effects = office.step(Reported(old), 1.0)
        assert not [effect for effect in effects if isinstance(effect, (Send, Record))]


def test_old_key_spaces_are_dropped_when_a_round_is_complete() -> None:
    office = proposed()
    acks = [Reported(wish(A, 2, acknowledged=1, endpoint=HOME)), Reported(wish(B, 2, acknowledged=1))]
    effects = office.step(Recorded(record_of(office.step_all(acks, 0.0)).number), 0.0)
    assert DropKeySpaces(0) in effects


def test_a_new_run_begins_with_nothing_of_an_earlier_one_and_a_successor_drops_nothing() -> None:
    effects = Office(Rules(1, 1)).step(TookOffice(5, None, ()), 0.0)
    assert effects[0] == DropKeySpaces(None)
    minutes = record_of(effects).minutes
    assert DropKeySpaces(None) not in Office(Rules(1, 1)).step(TookOffice(6, minutes, ()), 0.0)
    runs = (inside(A, 3), inside(B, 3))  # the minutes are lost, and these nodes' workers still use what they share
    assert DropKeySpaces(None) not in Office(Rules(2, 2)).step(TookOffice(5, None, runs), 0.0)


def test_a_run_is_put_away_when_all_who_are_there_have_heard_of_its_end() -> None:
    office = running()
    effects = office.step_all([Reported(inside(node, 4, done=0)) for node in (A, B)], 1.0)
    effects = office.step(Recorded(record_of(effects).number), 1.0)
    assert {order.kind for order in orders(effects).values()} == {OrderKind.CLOSED}
    effects += office.step(Reported(inside(A, 5, done=0, has_heard=True)), 1.0)
    assert not [effect for effect in effects if isinstance(effect, PutAway)]
    assert office.is_awaited
    effects = office.step(Reported(inside(B, 5, done=0, leaving="its work is done")), 1.0)
    (away,) = [effect for effect in effects if isinstance(effect, PutAway)]
    assert decode_minutes(away.minutes).state.closure is not None
    assert away.round == 0
    assert not office.is_awaited
    assert not [effect for effect in office.step(Gone(B, "it left"), 1.0) if isinstance(effect, PutAway)]
    successor = Office(Rules(2, 2))
    effects = successor.step(TookOffice(6, away.minutes, (wish(C),)), 2.0)
    assert orders(effects)[C].kind is OrderKind.CLOSED
    effects += successor.step(Reported(wish(C, 2, has_heard=True)), 2.0)
    assert not [effect for effect in effects if isinstance(effect, (PutAway, Record))]  # its time goes on
    assert not successor.is_awaited


def test_progress_is_told_at_most_once_a_second() -> None:
    office = begun(Rules(9, 9))
    told = []
    for number in range(4):
        report = wish(f"{number:032x}", min_nodes=9, max_nodes=9)
        told += [effect for effect in office.step(Reported(report), 1.0 + number / 100) if isinstance(effect, Progress)]
    assert [effect.notice.text for effect in told] == ["1 of 9 nodes, waiting for 8"]
    assert office.next_deadline() == 2.0
    assert Progress(Notice(term=5, number=4, text="4 of 9 nodes, waiting for 5")) in office.step(Ticked(), 2.0)


def test_a_successor_tells_no_progress_before_it_has_counted_those_who_are_there() -> None:
    office = Office(Rules(3, 3))
    effects = office.step(TookOffice(5, None, ()), 0.0)
    effects += office.step(Recorded(record_of(effects).number), 0.0)
    assert not [effect for effect in effects if isinstance(effect, Progress)]
    reports = [Reported(wish(node, min_nodes=3, max_nodes=3)) for node in (A, B)]
    effects = office.step_all(reports, 0.0)
    (told,) = [effect.notice for effect in effects if isinstance(effect, Progress)]
    assert told == Notice(term=5, number=0, text="2 of 3 nodes, waiting for 1")


def test_who_is_done_is_written_down_within_a_second_and_not_one_by_one() -> None:
    office = running()
    assert not any(isinstance(effect, Record) for effect in office.step(Reported(inside(A, 4, done=0)), 5.0))
    assert office.next_deadline() == 6.0
    assert decode_minutes(record_of(office.step(Ticked(), 6.0)).minutes).state.done == (A,)


def test_a_failure_ends_the_round_once_and_is_told_with_the_next_proposal() -> None:
    office = running()
    report = replace(inside(B, 4), failure=Failure(number=1, round=0, message="boom", exit_code=-9))
    effects = office.step(Reported(report), 5.0)
    told = orders(office.step(Recorded(record_of(effects).number), 5.0))
    assert {order.kind for order in told.values()} == {OrderKind.OVER}
    assert told[A].news[-1].exit_code == -9
    assert told[A].proposal == 2
    again = office.step(Reported(replace(report, number=5)), 6.0)
    assert not any(isinstance(effect, Record) for effect in again)


def test_a_successor_leaves_a_round_alone_whose_members_report_it() -> None:
    office = Office(Rules(2, 2))
    minutes = record_of(running_minutes()).minutes
    effects = office.step(TookOffice(6, minutes, (inside(A, 3), inside(B, 3))), 100.0)
    assert orders(office.step(Recorded(record_of(effects).number), 100.0)) == {}
    assert (office.state.phase, office.state.round) == (Phase.COMPLETE, 0)


def running_minutes() -> list[Effect]:
    office = proposed()
    acks = [Reported(wish(A, 2, acknowledged=1, endpoint=HOME)), Reported(wish(B, 2, acknowledged=1))]
    return office.step_all(acks, 0.0)


def test_a_successor_fences_who_is_in_no_minutes_and_drops_who_has_no_report() -> None:
    office = Office(Rules(2, 2))
    minutes = record_of(running_minutes()).minutes
    effects = office.step(TookOffice(6, minutes, (inside(A, 3), inside(C, 3))), 100.0)
    told = orders(office.step(Recorded(record_of(effects).number), 100.0))
    assert {node: order.kind for node, order in told.items()} == {A: OrderKind.OVER, C: OrderKind.FENCED}


def test_rounds_that_nodes_speak_of_are_not_used_again_when_the_minutes_are_lost() -> None:
    office = Office(Rules(2, 2))
    office.step(TookOffice(6, None, (inside(A, 3),)), 0.0)
    assert office.state.round == 1
    assert office.state.proposal == 1


def test_minutes_that_cannot_be_read_are_refused() -> None:
    with pytest.raises(RendezvousStateError, match="minutes"):
        Office(Rules(1, 1)).step(TookOffice(1, b"{}", ()), 0.0)


def test_an_unknown_placement_is_refused_before_anything_is_decided() -> None:
    with pytest.raises(RendezvousStateError, match=r"and here there is no placement .near.; known are .*: each node"):
        Office(Rules(1, 1), Policy(placement="near")).step(TookOffice(1, None, ()), 0.0)


def test_a_thousand_nodes_cost_so_little_that_a_round_is_a_matter_of_messages() -> None:
    count = 1000
    office = begun(Rules(count, count))
    wishes = [wish(f"{number:032x}", min_nodes=count, max_nodes=count) for number in range(count)]
    began = time.process_time()
    effects = office.step_all(map(Reported, wishes), 0.0)
    sent = orders(office.step(Recorded(record_of(effects).number), 0.0))
    acks = [Reported(replace(report, number=2, acknowledged=1, endpoint=HOME)) for report in wishes]
    effects = office.step_all(acks, 0.0)
    admitted = orders(office.step(Recorded(record_of(effects).number), 0.0))
    spent_s = time.process_time() - began
    assert len(sent) == len(admitted) == count
    assert spent_s < 2.0  # some 30 ms; generous, for sanitized and crowded machines


def test_no_world_is_complete_within_a_moment_after_a_loss() -> None:
    office = Office(Rules(1, 2, last_call_s=0.0), hold_s=0.1)
    office.step(Recorded(record_of(office.step(TookOffice(5, None, ()), 0.0)).number), 0.0)
    one = {"min_nodes": 1, "max_nodes": 2}
    effects = office.step_all([Reported(wish(A, **one)), Reported(wish(B, **one))], 0.0)
    office.step(Recorded(record_of(effects).number), 0.0)
    effects = office.step(Gone(B, "its connection was lost"), 1.0)
    office.step(Recorded(record_of(effects).number), 1.0)
    proposal = office.state.proposal
    assert office.state.members == {A: 0}
    said = wish(A, number=2, **one, acknowledged=proposal, endpoint=HOME)
    assert record_of_any(office.step(Reported(said), 1.05)) is None
    assert office.state.phase is Phase.PROPOSED
    due = office.next_deadline()
    assert due == pytest.approx(1.1)
    assert record_of_any(office.step(Ticked(), due)) is not None
    assert office.state.phase is Phase.COMPLETE


def record_of_any(effects: list[Effect]) -> Record | None:
    return next((effect for effect in effects if isinstance(effect, Record)), None)


def test_acknowledgements_that_are_held_up_count_although_nobody_waits_for_acknowledgements_any_more() -> None:
    rules = Rules(2, 3, last_call_s=1.0)
    office, now = begun(rules), 0.0

    def settle(effects: list[Effect]) -> dict[str, Order]:
        nonlocal now
        told = orders(effects)
        while records := [effect for effect in effects if isinstance(effect, Record)]:
            now += 0.01  # what is recorded takes its time
            effects = office.step(Recorded(records[0].number), now)
            told |= orders(effects)
        return told

    straggler = replace(wish(C, min_nodes=2, max_nodes=3), wants_in=False, entered=0)
    settle(office.step_all([Reported(wish(node, min_nodes=2, max_nodes=3)) for node in (A, B)], now))
    now = office.next_deadline() or 0.0
    told = settle(office.step_all([Reported(straggler), Ticked()], now))
    proposal = told[A].proposal
    assert (told[A].kind, told[C].kind) == (OrderKind.PROPOSED, OrderKind.FENCED)
    said = [
        wish(node, 2, min_nodes=2, max_nodes=3, acknowledged=proposal, endpoint=HOME if told[node].rank == 0 else None)
        for node in (A, B)
    ]
    assert settle(office.step_all(map(Reported, said), now)) == {}
    now = office.next_deadline() or 0.0
    for _ in range(3):
        told |= settle(office.step(Ticked(), now))
        now = max(now, office.next_deadline() or 0.0)
    assert (told[A].kind, told[B].kind) == (OrderKind.ADMITTED, OrderKind.ADMITTED)


def settle(office: Office, effects: list[Effect], now: float) -> list[Effect]:
    """Store what is to be stored; give all that follows."""
    told = list(effects)
    while (record := record_of_any(effects)) is not None:
        effects = office.step(Recorded(record.number), now)
        told += effects
    return told


def test_a_node_that_is_going_ends_the_round_at_once_and_the_next_waits_until_it_has_left() -> None:
    office = begun(Rules(1, 2))
    one = {"min_nodes": 1, "max_nodes": 2}
    settle(office, office.step_all([Reported(wish(A, **one)), Reported(wish(B, **one))], 0.0), 0.0)
    acks = [Reported(wish(node, 2, **one, acknowledged=1, endpoint=HOME)) for node in (A, B)]
    settle(office, office.step_all(acks, 0.0), 0.0)
    settle(office, office.step_all([Reported(inside(node, 3, **one)) for node in (A, B)], 0.0), 0.0)

    told = orders(settle(office, office.step(Reported(inside(B, 4, **one, going="SIGTERM received")), 2.0), 2.0))
    assert {node: order.kind for node, order in told.items()} == {A: OrderKind.OVER}
    assert told[A].why == "host-b#bbbbbb (node 1) is going: SIGTERM received"
    said = settle(office, office.step(Reported(wish(A, 4, **one, entered=0)), 2.1), 2.1)
    (proposed,) = orders(said).values()
    assert (proposed.kind, proposed.size) == (OrderKind.PROPOSED, 1)
    ack = wish(A, 5, **one, entered=0, acknowledged=proposed.proposal, endpoint=HOME)
    assert record_of_any(office.step(Reported(ack), 2.2)) is None
    (notice,) = [effect.notice for effect in office.step(Ticked(), 3.5) if isinstance(effect, Progress)]
    assert notice.text.endswith("waits for the workers of host-b#bbbbbb to end, which is going")
    assert office.next_deadline() is None
    assert office.step(Ticked(), 1000.0) == []

    gone = inside(B, 5, **one, leaving="SIGTERM received")
    told = orders(settle(office, office.step(Reported(gone), 1001.0), 1001.0))
    assert {node: order.kind for node, order in told.items()} == {A: OrderKind.ADMITTED}
    assert [news.kind for news in office.state.news] == ["left"]


def test_a_node_that_is_done_and_going_ends_no_round() -> None:
    office = running()
    settle(office, office.step(Reported(inside(B, 4, done=0, going="SIGTERM received")), 0.0), 0.0)
    settle(office, office.step(Reported(inside(B, 5, done=0, leaving="SIGTERM received")), 0.0), 0.0)
    assert (office.state.phase, office.state.round, office.state.done) == (Phase.COMPLETE, 0, (B,))


def test_no_world_is_complete_within_a_moment_after_taking_over_because_of_who_was_going_and_was_lost() -> None:
    rules = Rules(1, 2, last_call_s=0.0)
    office = Office(rules, hold_s=0.1)
    one = {"min_nodes": 1, "max_nodes": 2}
    settle(office, office.step(TookOffice(5, None, ()), 0.0), 0.0)
    told = settle(office, office.step(Reported(wish(A, **one)), 0.0), 0.0)
    record = [effect for effect in told if isinstance(effect, Record)][-1]
    proposal = office.state.proposal
    successor = Office(rules, hold_s=0.1)
    ack = wish(A, 2, **one, acknowledged=proposal, endpoint=HOME)
    settle(successor, successor.step(TookOffice(6, record.minutes, (ack,)), 10.0), 10.0)
    assert successor.state.phase is Phase.PROPOSED
    due = successor.next_deadline()
    assert due == pytest.approx(10.1)
    settle(successor, successor.step(Ticked(), due), due)
    assert successor.state.phase is Phase.COMPLETE
