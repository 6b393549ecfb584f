from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
from tests.support.agents import observed
from tests.support.stores import making_stores

from rallypoint.errors import LocalProtocolError, RendezvousStateError
from rallypoint.rendezvous import liquidator, term
from rallypoint.rendezvous.board import Board, Holder
from rallypoint.rendezvous.coordinator import Coordinator
from rallypoint.rendezvous.office_moves import (
    DropKeySpaces,
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
from rallypoint.rendezvous.reports import Notice, Order, OrderKind, Report, decode_order, encode_report, read_notice
from rallypoint.rendezvous.state import Card
from rallypoint.rendezvous.term import ENDED_S

A, B = "a" * 32, "b" * 32
NEVER_S = 3600.0
JOIN_S = 10


def report(node, number=1, leaving=""):
    card = Card(host="h", address="h")
    return encode_report(Report(node=node, number=number, card=card, min_nodes=1, max_nodes=2, leaving=leaving))


def order(number, why="as told"):
    return Order(term=1, number=number, kind=OrderKind.WAIT, why=why)


class ScriptedOffice:
    """Writes down what happens; answers with what a test has laid out for it."""

    is_awaited = False

    def __init__(self):
        self.seen = []
        self.answers = {}  # type of event -> effects
        self.due_at = None
        self.changed = threading.Condition()

    def step_all(self, events, now):
        effects = []
        with self.changed:
            for event in events:
                self.seen.append(event)
                if isinstance(event, Ticked):
                    self.due_at = None
                effects += self.answers.pop(type(event), [])
            self.changed.notify_all()
        return effects

    def next_deadline(self):
        return self.due_at

    def await_event(self, kind, count=1):
        with self.changed:
            found = []

            def has_come():
                found[:] = [event for event in self.seen if isinstance(event, kind)]
                return len(found) >= count

            assert self.changed.wait_for(has_come, JOIN_S), f"{kind.__name__} did not come: {self.seen}"
            return found[count - 1]


class Stage:
    """A server, and candidates for its office."""

    def __init__(self, stack):
        build = stack.enter_context(making_stores())
        self.stack = stack
        self.store = build(dialect="session", session_timeout=0.1)
        self.board = Board(self.store, "run")
        self.lease = self.board.grant(NEVER_S)
        self.connections = []

    def open_board(self):
        own = self.store.clone()
        self.connections.append(own)
        return Board(own, "run"), own.close

    def candidate(self, node=A, ttl_s=NEVER_S, office=None):
        office = office or ScriptedOffice()
        candidate = Coordinator(self.open_board, lambda: office, Holder(node, node[:1]), ttl_s, "run")
        self.stack.callback(candidate.stop, JOIN_S)
        candidate.start()
        return candidate, office

    def post(self, node, number=1):
        self.board.mark(node)
        self.board.post_report(node, report(node, number), self.lease)


@pytest.fixture
def stage():
    with ExitStack() as stack:
        yield Stage(stack)


def test_who_is_elected_reads_what_is_there_and_hears_what_comes(stage):
    stage.board.record(b"minutes", 0)
    stage.post(A)
    _, office = stage.candidate()
    began = office.await_event(TookOffice)
    assert began.minutes == b"minutes"
    assert [found.node for found in began.reports] == [A]
    assert began.term > 0
    stage.post(B)
    assert office.await_event(Reported).report.node == B
    stage.post(B, 2)
    assert office.await_event(Reported, 2).report.number == 2
    stage.board.revoke(stage.lease)
    gone = {office.await_event(Gone, count).node for count in (1, 2)}
    assert gone == {A, B}


def test_nobody_is_told_before_it_is_recorded(stage):
    office = ScriptedOffice()
    office.answers = {
        TookOffice: [Record(7, b"decided")],
        Recorded: [
            Send(A, order(1)),
            Send(B, order(1)),
            Progress(Notice(term=1, number=1, text="1 of 2")),
            DropKeySpaces(2),
        ],
    }
    seen = []
    stage.board.spaces.of_agents(1).set("k", "v")
    watch = stage.stack.enter_context(stage.board.watch_order(A))
    stage.candidate(office=office)
    seen.append(watch.next(JOIN_S))
    assert decode_order(seen[0].value).number == 1
    assert stage.board.minutes().data == b"decided"
    assert office.await_event(Recorded) == Recorded(7)
    stage.post(B)  # by the time that this was heard, all that came before it is done
    office.await_event(Reported)
    assert read_notice(stage.board.progress()).text == "1 of 2"
    assert not stage.board.spaces.of_agents(1).check(["k"])
    assert decode_order(stage.board.order(B)[0]).kind is OrderKind.WAIT


def test_another_takes_the_office_when_its_holder_goes(stage):
    first, office = stage.candidate(A)
    began = office.await_event(TookOffice)
    second, other = stage.candidate(B)
    stage.post(A)
    office.await_event(Reported)
    assert first.is_in_office
    assert not second.is_in_office
    first.stop(JOIN_S)
    assert other.await_event(TookOffice).term > began.term
    assert stage.board.holder().node == B


def test_a_node_that_was_marked_before_the_election_may_report_after_it(stage):
    stage.board.mark(A)
    _, office = stage.candidate()
    assert office.await_event(TookOffice).reports == ()
    stage.post(B)
    office.await_event(Reported)
    stage.board.post_report(A, report(A), stage.lease)
    assert office.await_event(Reported, 2).report.node == A


def test_a_node_that_is_cut_off_is_gone_until_it_is_back(stage):
    _, office = stage.candidate()
    office.await_event(TookOffice)
    own = stage.store.clone()
    other = Board(own, "run")
    other.mark(A)
    other.post_report(A, report(A), stage.lease)
    office.await_event(Reported)
    own.close()
    assert office.await_event(Gone) == Gone(A, "its connection was lost")
    stage.board.post_report(A, report(A, 2), stage.lease)  # it has not found out yet
    stage.post(B)
    assert office.await_event(Reported, 2).report.node == B
    stage.post(A, 3)
    assert office.await_event(Reported, 3).report.number == 3


def test_the_office_of_who_is_cut_off_is_free(stage):
    own = stage.store.clone()
    away = Board(own, "run")
    away.take_office(Holder(B, "b"), away.grant(NEVER_S))
    candidate, office = stage.candidate()
    stage.post(A)
    own.close()
    office.await_event(TookOffice)
    assert candidate.is_in_office or stage.board.holder().node == A


def test_who_finds_that_another_has_recorded_stands_down(stage):
    office = ScriptedOffice()
    office.answers = {Reported: [Record(1, b"mine")]}
    with observed() as events:
        stage.candidate(office=office)
        office.await_event(TookOffice)
        stage.board.record(b"theirs", 0)
        stage.post(A)
        office.await_event(TookOffice, 2)
    assert any(event.name == "coordinator.deposed" for event in events)
    assert not any(isinstance(event, Recorded) for event in office.seen)
    assert office.await_event(TookOffice, 2).minutes == b"theirs"


def test_a_lease_that_ended_ends_the_term(stage):
    office = ScriptedOffice()
    office.answers = {Reported: [Send(A, order(1))]}
    candidate, _ = stage.candidate(office=office)
    office.await_event(TookOffice)
    stage.board.revoke(stage.board.holder().lease)
    stage.post(A)
    assert office.await_event(TookOffice, 2).term > office.await_event(TookOffice).term
    assert candidate is not None


def test_the_lease_is_renewed_while_nothing_happens(stage):
    candidate, office = stage.candidate(ttl_s=0.3)
    office.await_event(TookOffice)
    with office.changed:
        office.changed.wait_for(lambda: len(office.seen) > 1, 1.0)
    assert candidate.is_in_office
    assert len(office.seen) == 1


def test_what_is_due_is_told_in_time(stage):
    office = ScriptedOffice()
    office.due_at = 0.0
    stage.candidate(office=office)
    office.await_event(Ticked)


def test_a_report_that_cannot_be_read_is_told_and_left_out(stage):
    _, office = stage.candidate()
    office.await_event(TookOffice)
    with observed() as events:
        stage.board.mark(A)
        stage.board.post_report(A, b"{}", stage.lease)
        stage.board.post_report(A, report(B), stage.lease)
        stage.post(B)
        office.await_event(Reported)
    troubles = [event.message for event in events if event.name == "coordinator.trouble"]
    assert len(troubles) == 2
    assert "signed by bbbbbb" in troubles[1]


def test_after_missed_changes_everything_is_read_again(stage, monkeypatch):
    monkeypatch.setattr(term, "BATCH_MAX", 1)
    _, office = stage.candidate()
    office.await_event(TookOffice)
    stage.post(A)
    office.await_event(Reported)
    from rallypoint.store import watch as watches

    monkeypatch.setattr(watches, "EVENTS_MAX", 0)  # the next event overflows the queue
    stage.post(B)
    assert office.await_event(Reported, 2).report.node == B


def test_a_candidate_that_cannot_connect_says_so_once_and_tries_again():
    tried = threading.Semaphore(0)

    def open_board():
        tried.release()
        raise ConnectionError("no way")

    with observed() as events:
        candidate = Coordinator(open_board, ScriptedOffice, Holder(A, "a"), 1.0, "run")
        candidate.start()
        for _ in range(3):
            assert tried.acquire(timeout=JOIN_S)
        candidate.stop(JOIN_S)
    assert [event.name for event in events] == ["coordinator.trouble"]


def test_a_farewell_is_heard_by_the_own_coordinator_that_retires(stage):
    candidate, office = stage.candidate()
    office.await_event(TookOffice)
    candidate.retire()
    stage.post(B)
    stage.post(A)
    stage.board.post_report(A, report(A, 2, "told to"), stage.lease)
    candidate.join(JOIN_S)
    assert office.await_event(Reported, 3).report.leaving == "told to"
    assert not candidate.is_in_office
    assert stage.board.holder() is None


def test_an_office_that_somebody_else_holds_without_a_lease_is_taken_back(stage):
    stage.board._store.set("coordinator", '{"node": "x", "label": "x", "lease": 0}')
    _, office = stage.candidate()
    office.await_event(TookOffice)


def test_minutes_that_nobody_can_decide_on_end_the_run_with_a_reason(stage, monkeypatch):
    class Stumped(ScriptedOffice):
        def step_all(self, events, now):
            super().step_all(events, now)
            raise RendezvousStateError("the minutes cannot be read: garbage")

    monkeypatch.setattr(liquidator, "UNDECIDED_MAX", 2)
    stage.board.record(b"garbage", 0)
    stage.post(A)
    watches = [stage.stack.enter_context(stage.board.watch_order(node)) for node in (A, B)]
    _, office = stage.candidate(office=Stumped())
    office.await_event(TookOffice, 2)
    assert_over(watches[0].next(JOIN_S))
    stage.post(B)
    assert_over(watches[1].next(JOIN_S))
    assert len(office.seen) == 2
    assert stage.board.minutes().data == b"garbage"


def assert_over(event):
    order = decode_order(event.value)
    assert (order.kind, order.outcome) == (OrderKind.CLOSED, "failed")
    assert order.why.endswith("the minutes cannot be read: garbage")


def test_who_cannot_decide_leaves_the_office_to_who_can_and_says_why(stage, monkeypatch):
    class Stumped(ScriptedOffice):
        def step_all(self, events, now):
            super().step_all(events, now)
            raise RendezvousStateError("here there is no placement 'near'")

    monkeypatch.setattr(liquidator, "UNDECIDED_MAX", 1_000_000)  # however late the other comes on this machine
    stage.board.record(b"minutes", 0)
    with observed() as events:
        first, stumped = stage.candidate(A, office=Stumped())
        stumped.await_event(TookOffice)
        second, able = stage.candidate(B)
        able.await_event(TookOffice)
        assert second.is_in_office
        assert not first.is_in_office
    assert any(
        "there is no placement 'near'" in event.message for event in events if event.name == "coordinator.trouble"
    )


def test_the_lease_is_renewed_between_a_long_thought_and_what_comes_of_it(stage, monkeypatch):
    class Slow(ScriptedOffice):
        def step_all(self, events, now):
            told = super().step_all(events, now)
            stage.done.append("thought")
            return told

    stage.done = []
    monkeypatch.setattr(term, "RENEWALS_IN_TTL", 10**9)  # a renewal is due at once
    renew, record = Board.renew, Board.record
    monkeypatch.setattr(Board, "renew", lambda *args: (stage.done.append("renewed"), renew(*args)))
    monkeypatch.setattr(Board, "record", lambda *args: (stage.done.append("recorded"), record(*args))[1])
    office = Slow()
    office.answers = {TookOffice: [Record(1, b"decided")]}
    stage.candidate(office=office)
    office.await_event(Recorded)
    assert stage.done[:4] == ["renewed", "thought", "renewed", "recorded"]


def test_minutes_that_the_store_does_not_take_end_the_run_with_a_reason(stage, monkeypatch):
    def refuse(*_):
        raise LocalProtocolError("a request of 2000000 bytes is too large")

    class Deciding(ScriptedOffice):
        def step_all(self, events, now):
            super().step_all(events, now)
            return [Record(1, b"much")]

    monkeypatch.setattr(liquidator, "UNDECIDED_MAX", 2)
    monkeypatch.setattr(Board, "record", refuse)
    stage.post(A)
    watch = stage.stack.enter_context(stage.board.watch_order(A))
    stage.candidate(office=Deciding())
    told = decode_order(watch.next(JOIN_S).value)
    assert (told.kind, told.outcome) == (OrderKind.CLOSED, "failed")
    assert told.why.endswith("what was decided cannot be stored: a request of 2000000 bytes is too large")


def test_a_run_that_is_put_away_is_remembered_and_its_workers_keys_are_not(stage):
    stage.store.set(f"{stage.board.spaces.of_workers(2)}/k", "v")
    stage.board.spaces.of_agents(7).set("of", "an earlier run")
    office = ScriptedOffice()
    office.answers = {TookOffice: [DropKeySpaces(None), Record(1, b"decided")], Recorded: [PutAway(b"the end", 2)]}
    candidate, _ = stage.candidate(office=office)
    office.await_event(Recorded)
    candidate.stop(JOIN_S)
    assert stage.board.minutes().data == b"the end"
    assert stage.store.list_prefix("rallypoint.rendezvous.run/rounds/") == []
    kept = [one["ttl_s"] for one in stage.store.status("leases")["leases"] if one["ttl_s"] not in (None, NEVER_S)]
    assert kept == [ENDED_S]


def test_who_has_not_stood_yet_can_be_told_to_go_and_does_not_stand_later(stage):
    candidate = Coordinator(stage.open_board, ScriptedOffice, Holder(A, "a"), NEVER_S, "run")
    candidate.retire()
    candidate.join(JOIN_S)
    candidate.stop(JOIN_S)
    candidate.start()
    assert not stage.connections


def test_a_candidate_that_is_told_to_stand_again_goes_on(stage):
    candidate, office = stage.candidate()
    candidate.start()
    office.await_event(TookOffice)
    candidate.stop(JOIN_S)
    assert len(stage.connections) == 1
