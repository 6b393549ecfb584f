from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from tests.support.agents import ForeignHandler, ScriptedHandler, observed, round_info

from rallypoint.agent import membership as module
from rallypoint.agent import places
from rallypoint.agent.membership import Membership, RoundWatch, explain, knows_success
from rallypoint.agent.moves import (
    CutOff,
    Dismissed,
    Event,
    Fenced,
    RendezvousDone,
    RendezvousFailed,
    RoundOver,
    RunClosed,
    StoreBack,
    StoreLost,
)
from rallypoint.agent.places import NodeWorkers, Ranks
from rallypoint.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousGracefulExitError,
    RendezvousTimeoutError,
)
from rallypoint.rendezvous.handler import RendezvousHandler, RendezvousInfo, RoundStatus
from rallypoint.rendezvous.reports import Places
from rallypoint.store.hash import HashStore

MINE = NodeWorkers("trainer", 2)
PATIENCE_S = 60.0


class Posts:
    """What was posted, for a test to wait for."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.put = self.events.put

    def next(self) -> Event:
        return self.events.get(timeout=PATIENCE_S)


@contextmanager
def member(handler: RendezvousHandler, **settings: Any) -> Iterator[tuple[Membership, Posts]]:
    posts = Posts()
    membership = Membership(handler, MINE, posts.put, look_interval_s=0.001, **settings)
    try:
        yield membership, posts
    finally:
        membership.close(PATIENCE_S)


def test_a_joined_round_comes_with_the_ranks_of_this_nodes_workers() -> None:
    info = round_info(number=3)
    with member(ScriptedHandler(info)) as (membership, posts):
        membership.join()

        assert posts.next() == RendezvousDone(3, 0, 1)
        assert membership.joined is not None
        assert membership.joined.info is info
        assert membership.joined.ranks == Ranks(0, 2, 0, 2)


def test_rounds_that_a_handler_does_not_number_are_counted() -> None:
    with member(ForeignHandler(round_info(), round_info(), round_info())) as (membership, posts):
        numbers = []
        for _ in range(3):
            membership.join()
            numbers.append(posts.next())

    assert numbers == [RendezvousDone(number, 0, 1) for number in range(3)]


def test_identical_nodes_need_not_ask_each_other() -> None:
    store = HashStore()
    with member(ScriptedHandler(round_info(rank=1, count=3, store=store)), is_identical=True) as (membership, posts):
        membership.join()

        assert posts.next() == RendezvousDone(0, 1, 3)
        assert membership.joined is not None
        assert membership.joined.ranks == Ranks(2, 6, 2, 6)
    assert store.num_keys() == 0


def test_a_round_that_ends_before_the_ranks_are_known_is_told_as_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "LOOK_INTERVAL_S", 0.01)
    handler = ScriptedHandler(round_info(rank=1, count=2))
    handler.tell(RoundStatus.OVER)
    with member(handler) as (membership, posts):
        membership.join()

        assert isinstance(posts.next(), RoundOver)


@pytest.mark.parametrize(
    ("error", "event"),
    [
        (RendezvousClosedError("it ended", outcome="failed"), RunClosed("failed", "it ended")),
        (RendezvousGracefulExitError("not needed"), Dismissed("not needed")),
        (RendezvousTimeoutError("1 of 2 nodes"), RendezvousFailed("1 of 2 nodes")),
        (KeyError("bug"), RendezvousFailed("KeyError: 'bug'")),
    ],
)
def test_every_way_to_fail_has_its_event(error: Exception, event: Event) -> None:
    with member(ScriptedHandler(error)) as (membership, posts):
        membership.join()

        assert posts.next() == event


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RendezvousGracefulExitError("stood by"), "no worker of this node was needed: stood by"),
        (
            RendezvousClosedError("it succeeded", outcome="succeeded"),
            "run 'run-7' has ended without this node: it succeeded; a new run needs another name (--rdzv-id)",
        ),
        (
            RendezvousClosedError("it failed", outcome="failed"),
            "run 'run-7' has ended without this node: it failed; a new run needs another name (--rdzv-id)",
        ),
    ],
)
def test_a_node_that_ends_without_having_run_says_why(error: Exception, told: str) -> None:
    with observed() as events, member(ScriptedHandler(error)) as (membership, posts):
        membership.join()
        posts.next()

    assert [event.message for event in events if event.name == "agent.not_needed"] == [told]


def test_a_node_that_leaves_while_it_joins_says_no_more() -> None:
    with observed() as events, member(ScriptedHandler(RendezvousGracefulExitError("it left"))) as (membership, posts):
        membership.leave("SIGINT received")
        membership.join()
        posts.next()

    assert "agent.not_needed" not in {event.name for event in events}


def test_a_node_that_took_part_is_told_of_the_end_by_the_agent() -> None:
    handler = ScriptedHandler(round_info(), RendezvousClosedError("it failed", outcome="failed"))
    with observed() as events, member(handler) as (membership, posts):
        for _ in range(2):
            membership.join()
            posts.next()

    assert "agent.not_needed" not in {event.name for event in events}


def test_reports_reach_the_handler_in_order_and_before_the_end() -> None:
    handler = ScriptedHandler()
    with member(handler) as (membership, _):
        membership.report_failure("worker 0 failed", 42, final=False)
        membership.report_failure("worker 0 failed", -9, final=True)
        membership.report_success()
        membership.report_going("SIGTERM received")

    assert handler.calls == [
        "report_failure 42 again",
        "report_failure -9 final",
        "report_success",
        "report_going SIGTERM received",
    ]


def test_a_report_that_fails_is_told_and_ends_nothing() -> None:
    class Broken(ScriptedHandler):
        def report_success(self) -> None:
            raise RendezvousConnectionError("no store")

    handler = Broken(round_info())
    with observed() as events, member(handler) as (membership, posts):
        membership.report_success()
        membership.join()
        assert posts.next() == RendezvousDone(0, 0, 1)

    assert [event.message for event in events] == ["could not report success: RendezvousConnectionError: no store"]


def test_leaving_tells_the_handler_why() -> None:
    handler = ScriptedHandler()
    with member(handler) as (membership, _):
        membership.leave("SIGTERM received")

    assert handler.calls == ["leave SIGTERM received"]


@pytest.mark.parametrize(
    ("status", "event"),
    [
        (RoundStatus.OVER, RoundOver("told by the test")),
        (RoundStatus.FENCED, Fenced("told by the test")),
        (RoundStatus.CUT_OFF, CutOff("told by the test")),
        (RoundStatus.CLOSED, RunClosed("failed", "told by the test")),
    ],
)
def test_the_end_of_a_round_is_told_once(status: RoundStatus, event: Event) -> None:
    handler = ScriptedHandler(round_info())
    with member(handler) as (membership, posts):
        membership.join()
        posts.next()
        membership.watch(posts.put)
        handler.tell(status, outcome="failed" if status is RoundStatus.CLOSED else None)
        handler.tell(status)

        assert posts.next() == event
    assert posts.events.empty()


@pytest.mark.parametrize(
    ("status", "event"), [(RoundStatus.CURRENT, None), (RoundStatus.FENCED, Fenced("told by the test"))]
)
def test_whether_a_round_goes_on_can_be_asked_before_its_workers_start(
    status: RoundStatus, event: Event | None
) -> None:
    handler = ScriptedHandler(round_info())
    with member(handler) as (membership, posts):
        membership.join()
        posts.next()
        if event is not None:
            handler.tell(status)

        assert membership.end_of_round() == event


def test_trouble_is_no_end_of_a_round_and_a_handler_that_would_ask_somebody_is_not_asked() -> None:
    handler, foreign = ScriptedHandler(round_info()), ForeignHandler(round_info())
    handler.troubles.append(RendezvousConnectionError("no store"))
    foreign.is_over = True
    for one in (handler, foreign):
        with member(one) as (membership, posts):
            membership.join()
            posts.next()

            assert membership.end_of_round() is None


def test_looks_that_fail_are_told_once_and_repeated() -> None:
    handler = ScriptedHandler(round_info())
    with member(handler) as (membership, posts):
        membership.join()
        posts.next()
        handler.troubles += [RendezvousConnectionError("no store"), EOFError()]
        membership.watch(posts.put)

        assert posts.next() == StoreLost("no store")
        assert posts.next() == StoreBack()
        handler.tell(RoundStatus.OVER)
        assert posts.next() == RoundOver("told by the test")


def test_a_node_that_is_cut_off_is_not_told_that_the_rendezvous_answers_again() -> None:
    handler = ScriptedHandler(round_info())
    with member(handler) as (membership, posts):
        membership.join()
        posts.next()
        handler.troubles += [RendezvousConnectionError("no store")]
        handler.tell(RoundStatus.CUT_OFF)
        membership.watch(posts.put)

        assert posts.next() == StoreLost("no store")
        assert posts.next() == CutOff("told by the test")


def test_leaving_a_rendezvous_that_is_stuck_has_an_end_that_closing_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    freed = threading.Event()

    class Stuck(ScriptedHandler):
        def leave(self, why: str) -> None:
            freed.wait(60)

    monkeypatch.setattr(module, "FAREWELL_S", 0.01)
    with observed() as events, member(Stuck(round_info())) as (membership, _posts):
        membership.leave("SIGINT received")
        assert membership.farewell is not None
        assert membership.farewell.has_passed()
    freed.set()
    assert [event.message for event in events] == ["the rendezvous did not take this node's farewell within 0.01 s"]


def test_joining_again_ends_the_watch_of_the_last_round() -> None:
    handler = ForeignHandler(round_info(), round_info())
    with member(handler) as (membership, posts):
        membership.join()
        posts.next()
        membership.watch(posts.put)
        membership.join()

        assert posts.next() == RendezvousDone(1, 0, 1)
        handler.is_over = True
    assert posts.events.empty()


def look(handler: RendezvousHandler, info: RendezvousInfo) -> tuple[RoundWatch, Posts]:
    posts = Posts()
    watch = RoundWatch(handler, info, posts.put, look_interval_s=0.001)
    watch.start()
    return watch, posts


def test_a_node_that_is_fenced_while_it_stops_its_workers_hears_of_it() -> None:
    handler = ScriptedHandler()
    watch, posts = look(handler, round_info())
    handler.tell(RoundStatus.OVER)
    assert isinstance(posts.next(), RoundOver)
    handler.tell(RoundStatus.FENCED, "the others went on")

    assert posts.next() == Fenced("the others went on")
    watch.join(PATIENCE_S)
    assert not watch.is_alive()


def test_waiting_nodes_end_the_round_of_a_handler_that_knows_only_torchs_methods() -> None:
    handler = ForeignHandler()
    watch, posts = look(handler, round_info())
    handler.waiting = 1

    assert posts.next() == RoundOver("1 nodes wait to join")
    watch.join(PATIENCE_S)


def test_success_is_counted_for_a_handler_that_does_not() -> None:
    store = HashStore()
    first, first_posts = look(ForeignHandler(), round_info(rank=0, count=2, store=store))
    second, second_posts = look(ForeignHandler(), round_info(rank=1, count=2, store=store))

    first.count_success()
    store.wait(["rallypoint/succeeded/0"], PATIENCE_S)
    assert first_posts.events.empty()
    second.count_success()

    assert first_posts.next() == second_posts.next() == RunClosed("succeeded", "all 2 nodes ended well")
    first.join(PATIENCE_S)
    second.join(PATIENCE_S)


def test_a_run_closed_by_the_node_that_saw_the_last_success_has_succeeded() -> None:
    class ClosedMeanwhile(ForeignHandler):
        def is_closed(self) -> bool:
            store.set("rallypoint/succeeded/1", "1")
            return True

    store = HashStore()
    watch = RoundWatch(ClosedMeanwhile(), round_info(rank=0, count=2, store=store), (posts := Posts()).put, 0.001)
    watch.count_success()
    watch.start()

    assert posts.next() == RunClosed("succeeded", "all 2 nodes ended well")
    watch.join(PATIENCE_S)


def test_an_error_is_explained_by_the_one_behind_it() -> None:
    error = RendezvousConnectionError("See inner exception for details.")
    assert explain(error) == "See inner exception for details."

    error.__cause__ = ConnectionRefusedError("refused by host-a:1")
    assert explain(error) == "See inner exception for details. (refused by host-a:1)"

    error.__cause__ = ValueError("details")
    assert explain(error) == "See inner exception for details."
    assert explain(EOFError()) == "EOFError"


def test_who_reports_success_by_itself_is_known() -> None:
    assert knows_success(ScriptedHandler())
    assert not knows_success(ForeignHandler())


def test_a_member_of_one_object_counts_as_its_own_method() -> None:
    handler = ForeignHandler()
    handler.report_success = lambda: None  # type: ignore[method-assign]

    assert knows_success(handler)


def test_ranks_that_the_handler_gives_are_taken_and_it_knows_what_runs_here() -> None:
    info = round_info(rank=1, count=2)
    info._places = Places(first_rank=3, world_size=5, first_role_rank=1, role_world_size=3)
    handler = ScriptedHandler(info)
    with member(handler) as (membership, posts):
        membership.join()

        assert posts.next() == RendezvousDone(0, 1, 2)
        assert membership.joined is not None
        assert membership.joined.ranks == Ranks(3, 5, 1, 3)
    assert handler.expected == ("trainer", 2)
