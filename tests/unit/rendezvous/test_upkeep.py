from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
from tests.support.agents import observed
from tests.support.stores import making_stores

from rallypoint.errors import DistNetworkError, LeaseLostError
from rallypoint.rendezvous.board import Board
from rallypoint.rendezvous.contact import Contact
from rallypoint.rendezvous.follower_moves import Granted, LeaseLost, Progressed, Publish, Renewed, Serve, Served
from rallypoint.rendezvous.reports import Notice, Report, decode_report, encode_notice
from rallypoint.rendezvous.state import Card
from rallypoint.rendezvous.upkeep import PAUSE_MAX_S, PAUSE_MIN_S, Upkeep, longer_pause_s
from rallypoint.testing import ManualClock
from rallypoint.types import Endpoint

ME = "a" * 32
INTERVAL_S = 1.0
TTL_S = 3600.0
HERE = Endpoint("node", 4242)


def report(number):
    return Report(node=ME, number=number, card=Card(host="h", address="h"), min_nodes=1, max_nodes=2)


class Stage:
    """A node's place in a real store, worked on by the test."""

    def __init__(self, stack, serve=lambda _proposal, _round: HERE):
        self.store = stack.enter_context(making_stores())(dialect="session")
        self.board = Board(self.store, "run")
        self.clock = ManualClock()
        self.changed = threading.Condition(threading.RLock())
        self.steps = []
        self.failures = []
        self.stood = 0
        self.is_wanting = True
        self.contact = Contact("the store", 60.0, self.clock)
        self.upkeep = Upkeep(
            self.board,
            ME,
            TTL_S,
            INTERVAL_S,
            serve,
            self.contact,
            self.changed,
            step=self.steps.append,
            is_wanting=lambda: self.is_wanting,
            fail=self.fail,
            stand=self.stand,
            clock=self.clock,
        )

    def fail(self, error):
        self.failures.append(error)
        return True

    def stand(self):
        self.stood += 1

    def open(self):
        self.upkeep.is_open = True
        self.upkeep.work()

    def kinds(self):
        kinds, self.steps[:] = [type(step) for step in self.steps], []
        return kinds

    def posted(self):
        return [decode_report(posted.data).number for posted in self.board.reports() if posted.data is not None]


@pytest.fixture
def stage():
    with ExitStack() as stack:
        yield Stage(stack)


def test_nothing_is_written_before_orders_can_be_heard(stage):
    stage.upkeep.want(Publish(report(1)))
    assert not stage.upkeep.needs_hand
    stage.upkeep.work()
    assert stage.board.reports() == []


def test_a_place_is_taken_with_the_report_and_the_first_stands_for_the_office(stage):
    stage.upkeep.want(Publish(report(1)))
    assert not stage.upkeep.is_published
    stage.open()
    assert stage.posted() == [1]
    assert stage.kinds() == [Granted, Renewed]
    assert stage.stood == 1
    assert stage.upkeep.is_published


def test_of_several_reports_the_last_is_put_up_and_a_renewal_comes_before_it(stage):
    stage.open()
    stage.kinds()
    stage.clock.advance(INTERVAL_S)
    for number in (1, 2):
        stage.upkeep.want(Publish(report(number)))
    stage.upkeep.work()
    assert stage.posted() == [2]
    assert stage.kinds() == [Renewed]


def test_a_lease_is_renewed_in_time_and_nothing_is_done_before(stage):
    stage.open()
    stage.kinds()
    stage.clock.advance(INTERVAL_S / 2)
    stage.upkeep.work()
    assert stage.kinds() == []
    assert stage.upkeep.due_at() == stage.clock.now() + INTERVAL_S / 2
    stage.upkeep.hurry()
    stage.upkeep.work()
    assert stage.kinds() == [Renewed]
    assert stage.stood == 2, "nobody coordinates here, which each look shows"


def test_who_waits_reads_how_far_the_others_are(stage):
    stage.open()
    stage.kinds()
    notice = Notice(term=1, number=1, text="1 of 2")
    stage.board.tell_progress(encode_notice(notice), stage.board.grant(TTL_S))
    for stage.is_wanting in (True, False):
        stage.clock.advance(INTERVAL_S)
        stage.upkeep.work()
    assert stage.steps == [Renewed(INTERVAL_S), Progressed(notice), Renewed(2 * INTERVAL_S)]


def test_a_store_is_served_and_the_machine_is_told():
    with ExitStack() as stack:
        stage = Stage(stack, serve=lambda proposal, number: Endpoint("node", 1000 * proposal + number))
        stage.upkeep.want(Serve(2, 7))
        stage.open()
        assert stage.steps[-1] == Served(2, Endpoint("node", 2007))


def test_a_lease_that_ended_is_begun_anew_with_the_same_report(stage):
    stage.upkeep.want(Publish(report(1)))
    stage.open()
    (lease,) = [one["lease"] for one in stage.store.status("leases")["leases"] if one["ttl_s"] == TTL_S]
    stage.board.revoke(lease)
    assert stage.posted() == []
    stage.upkeep.want(Publish(report(2)))
    stage.kinds()
    stage.upkeep.work()
    assert stage.kinds() == [LeaseLost, Granted, Renewed]
    assert stage.posted() == [2]


def test_a_store_that_refuses_every_lease_is_not_asked_without_a_pause(stage, monkeypatch):
    asked = []

    def refuse(*_):
        asked.append(1)
        raise LeaseLostError("no", lease=1)

    monkeypatch.setattr(stage.board, "take_place", refuse)
    stage.open()
    assert len(asked) == 1
    stage.clock.advance(PAUSE_MIN_S)
    stage.upkeep.work()
    assert len(asked) == 2


def test_what_fails_is_told_once_and_done_again_after_longer_and_longer_pauses(stage, monkeypatch):
    stage.open()

    def fail(*_):
        raise DistNetworkError("the cable is out")

    with monkeypatch.context() as patch, observed() as events:
        patch.setattr(stage.board, "post_report", fail)
        stage.upkeep.want(Publish(report(1)))
        for pause_s in (PAUSE_MIN_S, 2 * PAUSE_MIN_S):
            stage.upkeep.work()
            assert stage.upkeep.due_at() == pytest.approx(stage.clock.now() + pause_s)
            assert not stage.upkeep.needs_hand
            stage.clock.advance(pause_s)
    assert [event.message for event in events] == ["keeping this node's place failed, trying again: the cable is out"]
    assert "the cable is out" in str(stage.contact.trouble())
    assert len(stage.failures) == 2
    stage.upkeep.work()
    assert stage.posted() == [1]
    assert stage.contact.trouble() is None


def test_two_threads_never_write_at_once_and_nothing_stays_behind(stage, monkeypatch):
    stage.open()
    entered, may_go = threading.Event(), threading.Event()
    post = stage.board.post_report

    def slow(*arguments):
        entered.set()
        may_go.wait(60)
        return post(*arguments)

    monkeypatch.setattr(stage.board, "post_report", slow)
    stage.upkeep.want(Publish(report(1)))
    worker = threading.Thread(target=stage.upkeep.work)
    worker.start()
    assert entered.wait(60)
    stage.upkeep.want(Publish(report(2)))
    assert not stage.upkeep.needs_hand
    stage.upkeep.work()
    assert stage.posted() == []
    may_go.set()
    worker.join(60)
    assert stage.posted() == [2]


def test_who_gives_up_writes_no_more(stage):
    stage.open()
    assert stage.upkeep.give_up() > 0
    stage.upkeep.want(Publish(report(1)))
    stage.upkeep.work()
    assert stage.posted() == []
    assert stage.upkeep.give_up() == 0


def test_a_lease_that_is_begun_while_somebody_gives_up_is_ended(stage, monkeypatch):
    take = stage.board.take_place

    def slow(*arguments):
        assert stage.upkeep.give_up() == 0
        return take(*arguments)

    monkeypatch.setattr(stage.board, "take_place", slow)
    stage.upkeep.want(Publish(report(1)))
    stage.open()
    assert stage.kinds() == [Granted]
    assert stage.posted() == []
    assert stage.upkeep.give_up() == 0


def test_what_has_failed_is_behind_until_it_is_done(stage, monkeypatch):
    stage.open()
    assert not stage.upkeep.is_behind
    with monkeypatch.context() as patch:
        patch.setattr(stage.board, "post_report", lambda *_: 1 / 0)
        stage.upkeep.want(Publish(report(1)))
        stage.upkeep.work()
    assert (stage.upkeep.is_behind, stage.upkeep.needs_hand) == (True, False)
    stage.clock.advance(PAUSE_MAX_S)
    stage.upkeep.work()
    assert not stage.upkeep.is_behind
    assert stage.posted() == [1]


def test_pauses_grow_to_a_limit():
    pause_s, pauses = 0.0, []
    for _ in range(10):
        pause_s = longer_pause_s(pause_s)
        pauses.append(pause_s)
    assert pauses[0] == PAUSE_MIN_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_MAX_S
