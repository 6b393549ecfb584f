from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest
from tests.support.agents import observed
from tests.support.launcher import until
from tests.support.stores import making_stores

from rallypoint.clock import SYSTEM_CLOCK
from rallypoint.errors import DistNetworkError, SessionLostError
from rallypoint.rendezvous.board import Board
from rallypoint.rendezvous.contact import Contact
from rallypoint.rendezvous.decision import Rules, StopKind
from rallypoint.rendezvous.follower import Follower
from rallypoint.rendezvous.follower_moves import AllSucceeded, Leaving, Stop, Wanted
from rallypoint.rendezvous.following import Following
from rallypoint.rendezvous.reports import Notice, Order, OrderKind, decode_report, encode_notice, encode_order
from rallypoint.rendezvous.state import Card, News
from rallypoint.rendezvous.verdict import VerdictKind
from rallypoint.store.session_calls import Changed
from rallypoint.types import Endpoint

ME, OTHER = "a" * 32, "b" * 32
JOIN_S = 20
HERE = Endpoint("node", 4242)


class Stage:
    """A node that follows, and a test that coordinates."""

    def __init__(self, stack, interval_s=0.1, attempts=100, serve=None, join_s=JOIN_S):
        store = stack.enter_context(making_stores())(dialect="session")
        self.own = store.clone()
        self.board = Board(store, "run")
        self.office = self.board.grant(3600)
        self.watch = stack.enter_context(self.board.watch_reports())
        self.served = []
        rules = Rules(1, 2, join_timeout_s=join_s, keep_alive_interval_s=interval_s, keep_alive_max_attempt=attempts)
        self.follower = Follower(ME, Card(host="h", address="h"), rules)
        self.following = Following(
            Board(self.own, "run"),
            self.follower,
            ME,
            rules.dead_after_s,
            interval_s,
            serve or self.serve,
            Contact("the store", 60.0, SYSTEM_CLOCK),
            "run",
        )
        self.numbers = iter(range(1, 100))
        stack.callback(self.own.close)
        stack.callback(self.following.stop, JOIN_S)
        self.following.start()

    def serve(self, proposal, number):
        self.served.append((proposal, number))
        return HERE

    def report(self, is_it=lambda report: True):
        """Give the first report that is so."""
        while True:
            event = self.watch.next(JOIN_S)
            if isinstance(event, Changed) and event.value:
                report = decode_report(event.value)
                if is_it(report):
                    return report

    def order(self, kind, **fields):
        order = Order(term=1, number=next(self.numbers), kind=kind, **({"why": "as told"} | fields))
        self.board.send([(ME, encode_order(order))], self.office)

    def join(self, number=0, rank=0):
        self.following.forget_entry()
        self.following.tell(Wanted())
        wish = self.report(lambda report: report.wants_in)
        place = {"report": wish.number, "round": number, "proposal": number + 1, "rank": rank, "size": 2}
        self.order(OrderKind.PROPOSED, **place)
        agreed = self.report(lambda report: report.acknowledged == number + 1)
        self.order(OrderKind.ADMITTED, **place, endpoint=HERE)
        return agreed, self.following.await_entry()


@pytest.fixture
def stage():
    with ExitStack() as stack:
        yield Stage(stack)


def test_a_node_reports_serves_and_enters(stage):
    agreed, entry = stage.join()
    assert stage.served == [(1, 0)]
    assert agreed.endpoint == HERE
    assert (entry.kind, entry.rank, entry.endpoint) == (OrderKind.ADMITTED, 0, HERE)
    assert stage.report().entered == 0
    assert stage.following.verdict()[0].kind is VerdictKind.CURRENT


def test_the_end_of_the_round_wakes_who_waits_for_it(stage):
    stage.join(rank=1)
    teller = threading.Timer(0.05, stage.order, (OrderKind.OVER,), {"why": "a worker failed"})
    teller.start()
    stage.following.await_verdict(JOIN_S)
    verdict, trouble = stage.following.verdict()
    teller.join()
    assert (verdict.kind, verdict.why, trouble) == (VerdictKind.OVER, "a worker failed", None)
    assert stage.join(number=1, rank=1)[1].round == 1


def test_what_a_node_has_to_say_is_up_when_it_was_waited_for(stage):
    stage.join()
    stage.following.tell(AllSucceeded())
    assert stage.following.await_published(JOIN_S)
    (posted,) = stage.board.reports()
    assert decode_report(posted.data).done == 0


@pytest.fixture
def quiet(monkeypatch):
    """A node that reads its orders for an hour at a time, unless one comes."""
    monkeypatch.setattr("rallypoint.rendezvous.mailbox.LOOK_S", 3600.0)
    with ExitStack() as stack:
        yield lambda **rest: Stage(stack, interval_s=3600.0, **rest)


def test_what_is_said_while_the_last_one_to_help_ends_is_put_up_at_once(quiet):
    stage, may_end = quiet(), threading.Event()
    stage.join()
    assert stage.following.await_published(JOIN_S)
    ending = stage.following._hand = threading.Thread(target=may_end.wait)
    ending.start()
    stage.following.tell(AllSucceeded())
    is_up = stage.following.await_published(JOIN_S)
    may_end.set()
    ending.join()
    assert is_up


def test_what_could_not_be_put_up_is_put_up_after_a_pause_while_orders_are_read(quiet, monkeypatch):
    stage = quiet()
    stage.join()
    assert stage.following.await_published(JOIN_S)
    board, failures = stage.following._board, [DistNetworkError("no"), DistNetworkError("no, again")]
    post = board.post_report

    def fail_twice(*arguments):
        if failures:
            raise failures.pop()
        return post(*arguments)

    monkeypatch.setattr(board, "post_report", fail_twice)
    stage.following.tell(AllSucceeded())
    assert stage.following.await_published(JOIN_S)
    assert not failures


def test_who_gives_up_waiting_says_so_at_once(quiet):
    stage = quiet(join_s=0.3)
    stage.following.tell(Wanted())
    assert stage.report(lambda report: report.wants_in)
    outcome = stage.following.await_entry()
    assert isinstance(outcome, Stop)
    assert outcome.kind is StopKind.TIMED_OUT
    assert stage.following.await_published(JOIN_S)
    assert stage.report(lambda report: not report.wants_in).leaving


def test_who_stops_following_leaves_nothing_behind(stage):
    stage.join()
    stage.following.tell(Leaving("told to"))
    assert stage.following.await_published(JOIN_S)
    assert stage.report(lambda report: report.leaving).leaving == "told to"
    stage.following.stop(JOIN_S)
    stage.own.close()
    assert stage.board.reports() == []
    assert stage.following.await_entry() is None or True


def test_a_lease_that_ended_fences_and_the_node_is_there_again(stage):
    stage.join()
    before = stage.follower.report.number
    leases = [one for one in stage.own.status("leases")["leases"] if one["ttl_s"] == 10.0]
    stage.board.revoke(leases[0]["lease"])
    stage.following.await_verdict(JOIN_S)
    assert stage.following.verdict()[0].kind is VerdictKind.FENCED
    assert stage.report(lambda report: report.number > before).node == ME


def test_a_mark_that_is_gone_is_the_loss_of_the_lease(stage):
    stage.join()
    before = stage.follower.report.number
    (lease,) = [one["lease"] for one in stage.own.status("leases")["leases"] if one["ttl_s"] is None]
    stage.board.revoke(lease)
    stage.following.await_verdict(JOIN_S)
    assert stage.following.verdict()[0].kind is VerdictKind.FENCED
    assert "connection" in stage.following.verdict()[0].why
    stage.report(lambda report: report.number > before)
    assert stage.board.is_marked(ME)


def test_a_store_that_is_gone_for_good_ends_a_wait(stage):
    stage.following.tell(Wanted())
    stage.report()
    uplink = stage.own._client.trunk._uplink
    uplink.fail(SessionLostError, "has ended, and what it held with it")
    assert isinstance(stage.following.await_entry(), SessionLostError)
    assert isinstance(stage.following.verdict()[1], SessionLostError)


def test_a_node_that_cannot_renew_is_cut_off_although_its_threads_are_stuck(monkeypatch):
    with ExitStack() as stack:
        stage = Stage(stack, interval_s=0.1, attempts=10)
        stage.join()
        stuck = threading.Event()
        stack.callback(stuck.set)
        monkeypatch.setattr(Board, "renew_place", lambda *_: stuck.wait(JOIN_S))
        stage.following.await_verdict(JOIN_S)
        assert stage.following.verdict()[0].kind is VerdictKind.CUT_OFF


def test_a_store_that_cannot_be_served_is_told_and_tried_again():
    failures = [DistNetworkError("no port is free")]

    def serve(proposal, number):
        if failures:
            raise failures.pop()
        return HERE

    with ExitStack() as stack, observed() as events:
        entry = Stage(stack, serve=serve).join()[1]
    assert entry.endpoint == HERE
    assert any("no port is free" in event.message for event in events if event.name == "rendezvous.trouble")


def test_why_a_node_does_not_get_in_is_told(stage):
    stage.following.tell(Wanted())
    wish = stage.report()
    stage.order(OrderKind.REFUSED, why="2 to 3 nodes", report=wish.number)
    outcome = stage.following.await_entry()
    assert isinstance(outcome, Stop)
    assert (outcome.kind, outcome.why) == (StopKind.REFUSED, "2 to 3 nodes")


def test_news_of_others_that_the_order_does_not_say_are_told_once(stage):
    def news(message, node=OTHER):
        return News(kind="failed", round=0, node=node, host="far", message=message, rank=1, exit_code=-9)

    with observed() as events:
        stage.join()
        for _ in range(2):
            stage.order(OrderKind.OVER, why="x failed: late", news=(news("early"), news("late")))
        stage.following.await_verdict(JOIN_S)
        stage.join(number=1)
    told = [event for event in events if event.name == "rendezvous.news"]
    assert [event.message for event in told] == ["a worker of far (node 1) failed in round 0 by signal 9: early"]
    assert told[0].fields["host"] == "far"


def test_who_waits_for_others_says_how_far_they_are(stage):
    with observed() as events:
        stage.following.tell(Wanted())
        stage.order(OrderKind.WAIT, why="1 of 2", report=stage.report().number)
        stage.board.tell_progress(encode_notice(Notice(term=1, number=9, text="2 of 2")), stage.office)
        until("it is said", lambda: "2 of 2" in [event.message for event in events])
    assert [event.message for event in events if event.name == "rendezvous.wait"] == ["1 of 2", "2 of 2"]


def test_an_order_that_cannot_be_read_is_left_out(stage):
    with observed() as events:
        stage.following.tell(Wanted())
        stage.report()
        stage.board.send([(ME, b"{}")], stage.office)
        stage.join()
    assert any(event.message.startswith("an order is left out") for event in events)


def test_after_the_end_of_the_run_a_store_that_goes_is_no_trouble(stage):
    stage.join()
    stage.order(OrderKind.CLOSED, outcome="succeeded")
    stage.following.await_verdict(JOIN_S)
    assert stage.following.verdict()[0].kind is VerdictKind.CLOSED
    assert stage.following.await_published(JOIN_S)
    with observed() as events:
        stage.own._client.trunk._uplink.fail(SessionLostError, "has ended")
        stage.following.tell(Leaving("told to"))
        assert not stage.following.await_published(JOIN_S)
    assert not [event for event in events if event.name == "rendezvous.trouble"]


def test_an_order_that_is_older_than_its_term_hides_no_other(stage):
    stage.join(rank=1)
    far = Order(term=2**53, number=2**53, kind=OrderKind.WAIT, why="I am a stranger")
    with observed() as events:
        stage.board.send([(ME, encode_order(far))], stage.office)
        stage.order(OrderKind.OVER, why="a worker failed")
        stage.following.await_verdict(JOIN_S)
    assert stage.following.verdict()[0].kind is VerdictKind.OVER
    assert all(
        "left out: its coordinator began" in event.message for event in events if event.name == "rendezvous.trouble"
    )


def test_a_node_whose_session_may_have_ended_is_cut_off_although_its_lease_lasts(stage, monkeypatch):
    stage.join(rank=1)
    monkeypatch.setattr(Board, "session_ends_at", lambda _: SYSTEM_CLOCK.now() - 1.0)
    stage.following.await_verdict(JOIN_S)
    verdict, _ = stage.following.verdict()
    assert verdict.kind is VerdictKind.CUT_OFF
    assert "the connection to the store was lost" in verdict.why
