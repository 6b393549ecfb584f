from __future__ import annotations

import pytest
from msgspec.structs import replace

from rallypoint.rendezvous.decision import Rules, StopKind
from rallypoint.rendezvous.follower import Follower
from rallypoint.rendezvous.follower_moves import (
    AllSucceeded,
    Closing,
    Doubted,
    Effect,
    Enter,
    Going,
    Granted,
    LeaseLost,
    Leaving,
    Ordered,
    Progressed,
    Publish,
    Renewed,
    Say,
    Serve,
    Served,
    Stop,
    Tell,
    Ticked,
    Wanted,
    WorkerFailed,
)
from rallypoint.rendezvous.lifeline import RESUME_S
from rallypoint.rendezvous.reports import Notice, Order, OrderKind, Report, Workers
from rallypoint.rendezvous.state import Card, News
from rallypoint.rendezvous.verdict import VerdictKind
from rallypoint.types import Endpoint

ME = "a" * 32
HOME = Endpoint("h", 1)
RULES = Rules(2, 3, join_timeout_s=60.0, spare_timeout_s=90.0, keep_alive_interval_s=5.0, keep_alive_max_attempt=2)


def order(number: int, kind: OrderKind, why: str = "because", term: int = 1, report: int = 99, **rest: object) -> Order:
    return Order(term=term, number=number, kind=kind, why=why, report=report, **rest)  # type: ignore[arg-type]


def progressed(text: str, number: int, term: int = 1) -> Progressed:
    return Progressed(Notice(term=term, number=number, text=text))


def published(effects: list[Effect]) -> Report:
    (found,) = [effect.report for effect in effects if isinstance(effect, Publish)]
    return found


def wanting() -> Follower:
    follower = Follower(ME, Card(host="h", address="h"), RULES, Workers(count=2))
    follower.step(Granted(), 0.0)
    follower.step(Renewed(0.0), 0.0)
    follower.step(Wanted(), 0.0)
    return follower


def running(now: float = 0.0) -> Follower:
    follower = wanting()
    follower.step(Ordered(order(1, OrderKind.PROPOSED, round=4, proposal=7, rank=1, size=2)), now)
    follower.step(Ordered(order(2, OrderKind.ADMITTED, round=4, proposal=7, rank=1, size=2, endpoint=HOME)), now)
    assert follower.report.entered == 4
    return follower


def test_a_wish_is_published_and_the_first_lease_alone_is_not() -> None:
    follower = Follower(ME, Card(host="h", address="h"), RULES)
    assert follower.step(Granted(), 0.0) == []
    report = published(follower.step(Wanted(), 0.0))
    assert (report.number, report.joining, report.wants_in, report.entered) == (1, 1, True, None)
    other = Follower(ME, Card(host="h", address="h"), RULES, worker_store="gateway")
    assert [report.worker_store, published(other.step(Wanted(), 0.0)).worker_store] == ["embedded", "gateway"]


def test_a_member_acknowledges_and_enters_by_the_order_for_that_proposal() -> None:
    follower = wanting()
    report = published(follower.step(Ordered(order(1, OrderKind.PROPOSED, proposal=7, rank=1, size=2)), 0.0))
    assert (report.acknowledged, report.endpoint) == (7, None)
    assert follower.step(Ordered(order(2, OrderKind.ADMITTED, proposal=6, size=2, endpoint=HOME)), 0.0) == []
    admission = order(3, OrderKind.ADMITTED, round=4, proposal=7, rank=1, size=2, endpoint=HOME)
    effects = follower.step(Ordered(admission), 0.0)
    assert Enter(admission) in effects
    assert published(effects).entered == 4
    assert not published(effects).wants_in
    (told,) = [effect.verdict for effect in effects if isinstance(effect, Tell)]
    assert told.kind is VerdictKind.CURRENT


def test_a_member_that_has_acknowledged_nothing_since_it_asked_asks_anew_when_it_is_taken_for_one() -> None:
    follower = wanting()
    before = follower.report
    admission = order(1, OrderKind.ADMITTED, round=4, proposal=7, rank=1, size=2, endpoint=HOME)
    report = published(follower.step(Ordered(admission), 0.0))
    assert (report.number, report.wants_in, report.acknowledged) == (before.number + 1, True, 0)


def test_a_proposal_for_a_later_round_says_that_the_present_one_is_over() -> None:
    follower = running()
    proposed = order(3, OrderKind.PROPOSED, round=5, proposal=8, rank=0, size=2)
    (told,) = [effect.verdict for effect in follower.step(Ordered(proposed), 0.0) if isinstance(effect, Tell)]
    assert told.kind is VerdictKind.OVER
    assert "round 4 is over, round 5 has begun" in told.why


def test_a_node_that_stops_its_workers_can_still_be_cut_off() -> None:
    follower = running()
    follower.step(Renewed(0.0), 0.0)
    follower.step(Ordered(order(3, OrderKind.OVER, round=4)), 0.0)
    due = follower.next_deadline()
    assert due is not None
    (told,) = [effect.verdict for effect in follower.step(Ticked(), due) if isinstance(effect, Tell)]
    assert told.kind is VerdictKind.CUT_OFF


def test_rank_0_serves_before_it_acknowledges() -> None:
    follower = wanting()
    proposed = order(1, OrderKind.PROPOSED, round=4, proposal=7, rank=0, size=2)
    assert Serve(7, 4) in follower.step(Ordered(proposed), 0.0)
    assert follower.report.acknowledged == 0
    assert follower.step(Served(6, HOME), 0.0) == []
    assert published(follower.step(Served(7, HOME), 0.0)).endpoint == HOME


def test_an_order_that_is_not_above_the_last_changes_nothing() -> None:
    follower = running()
    over = order(3, OrderKind.OVER, round=4)
    assert follower.step(Ordered(order(2, OrderKind.OVER, round=4)), 0.0) == []
    assert follower.step(Ordered(order(9, OrderKind.OVER, round=4, term=0)), 0.0) == []
    assert follower.step(Ordered(over), 0.0)
    assert follower.step(Ordered(over), 0.0) == []


def test_an_order_that_answers_an_older_report_is_no_answer() -> None:
    follower = wanting()
    assert follower.step(Ordered(order(1, OrderKind.PROPOSED, proposal=7, rank=1, size=2, report=0)), 0.0) == []


def test_the_end_of_a_round_is_told_once_with_the_news() -> None:
    follower = running()
    news = (News(kind="failed", round=4, node=ME, host="h", message="boom", rank=1, exit_code=-9),)
    (tell,) = follower.step(Ordered(order(3, OrderKind.OVER, "b failed", round=4, news=news)), 0.0)
    assert isinstance(tell, Tell)
    assert (tell.verdict.kind, tell.verdict.why, tell.verdict.news) == (VerdictKind.OVER, "b failed", news)
    assert follower.step(Ordered(order(4, OrderKind.OVER, round=4)), 0.0) == []
    assert follower.step(Ordered(order(5, OrderKind.FENCED, round=3)), 0.0) == []


def test_who_is_back_acknowledges_at_once_what_was_proposed_meanwhile() -> None:
    follower = running()
    follower.step(Ordered(order(3, OrderKind.OVER, round=4, proposal=8, rank=1, size=2)), 0.0)
    report = published(follower.step(Wanted(), 0.0))
    assert (report.wants_in, report.entered, report.acknowledged) == (True, 4, 8)
    follower = running()
    follower.step(Ordered(order(3, OrderKind.OVER, round=4, proposal=8, rank=0, size=2)), 0.0)
    effects = follower.step(Wanted(), 0.0)
    assert Serve(8, 5) in effects
    assert published(effects).acknowledged == 0


def test_a_node_gives_up_by_its_own_clock_and_says_what_it_heard_last() -> None:
    follower = wanting()
    assert follower.next_deadline() == 60.0
    follower.step(Ordered(order(1, OrderKind.WAIT, "1 of 2 nodes, waiting for 1")), 10.0)
    follower.step(progressed("1 of 2 nodes, waiting for 1 (still)", 1), 20.0)
    effects = follower.step(Ticked(), 60.0)
    why = "waited 60.0 s for 2 to 3 nodes: 1 of 2 nodes, waiting for 1 (still)"
    assert Stop(StopKind.TIMED_OUT, why) in effects
    assert published(effects).leaving == why
    assert follower.next_deadline() is None
    assert published(follower.step(Wanted(), 70.0)).leaving == ""


def test_progress_from_before_a_nodes_last_order_or_of_a_coordinator_that_gave_it_none_is_not_said() -> None:
    follower = wanting()
    assert follower.step(progressed("0 of 3", 0), 1.0) == []
    follower.step(Ordered(order(4, OrderKind.WAIT, "2 of 3")), 2.0)
    assert follower.step(progressed("1 of 3", 3), 3.0) == []
    assert follower.step(progressed("0 of 3", 9, term=2), 4.0) == []
    assert follower.step(progressed("3 of 3", 4), 5.0) == [Say("3 of 3")]
    follower.step(Ordered(order(1, OrderKind.WAIT, "2 of 3", term=2)), 6.0)
    assert follower.step(progressed("1 of 3", 9), 7.0) == []


def test_who_is_kept_out_or_stands_by_is_not_told_how_far_the_others_are() -> None:
    for kind in (OrderKind.QUARANTINED, OrderKind.STAND_BY):
        follower = wanting()
        assert follower.step(Ordered(order(1, kind, "kept out")), 1.0) == [Say("kept out")]
        assert follower.step(progressed("1 of 2", 2), 2.0) == []
        follower.step(Ordered(order(2, OrderKind.WAIT, "let in")), 3.0)
        assert follower.step(progressed("1 of 2", 2), 4.0) == [Say("1 of 2")]


def test_a_spare_has_a_limit_of_its_own_and_starts_anew_when_it_gets_a_place() -> None:
    follower = wanting()
    follower.step(Ordered(order(1, OrderKind.STAND_BY)), 50.0)
    assert follower.next_deadline() == 140.0
    follower.step(Ordered(order(2, OrderKind.WAIT)), 130.0)
    assert follower.next_deadline() == 190.0
    follower.step(Ordered(order(3, OrderKind.STAND_BY)), 150.0)
    effects = follower.step(Ticked(), 240.0)
    assert Stop(StopKind.NOT_NEEDED, "stood by for 90.0 s and was not needed") in effects


def test_what_is_waited_for_is_said_when_it_changes() -> None:
    follower = wanting()
    assert follower.step(Ordered(order(1, OrderKind.WAIT, "one")), 0.0) == [Say("one")]
    assert follower.step(Ordered(order(2, OrderKind.WAIT, "one")), 0.0) == []
    assert follower.step(Ordered(order(3, OrderKind.QUARANTINED, "two")), 0.0) == [Say("two")]


def test_refused_and_fenced_while_it_wants_in() -> None:
    follower = wanting()
    report = published(follower.step(Ordered(order(1, OrderKind.FENCED)), 0.0))
    assert (report.joining, report.wants_in, report.acknowledged) == (2, True, 0)
    assert Stop(StopKind.REFUSED, "because") in follower.step(Ordered(order(2, OrderKind.REFUSED)), 0.0)


@pytest.mark.parametrize(
    ("kind", "stop"), [(OrderKind.WAIT, StopKind.CLOSED), (OrderKind.STAND_BY, StopKind.NOT_NEEDED)]
)
def test_the_end_of_the_run_stops_who_wants_in(kind: OrderKind, stop: StopKind) -> None:
    follower = wanting()
    follower.step(Ordered(order(1, kind)), 0.0)
    closed = order(2, OrderKind.CLOSED, "all did", outcome="succeeded")
    effects = follower.step(Ordered(closed), 0.0)
    assert Stop(stop, "the run has succeeded: all did", "succeeded") in effects
    assert published(effects).has_heard
    assert follower.step(Wanted(), 1.0) == [Stop(StopKind.CLOSED, "the run has succeeded: all did", "succeeded")]


def test_who_stood_by_at_the_end_without_having_read_so_was_not_needed_all_the_same() -> None:
    closed = replace(order(1, OrderKind.CLOSED, "all did", outcome="succeeded"), stood_by=True)
    effects = wanting().step(Ordered(closed), 0.0)
    assert Stop(StopKind.NOT_NEEDED, "the run has succeeded: all did", "succeeded") in effects


def test_the_end_of_the_run_is_told_to_who_runs() -> None:
    effects = running().step(Ordered(order(3, OrderKind.CLOSED, "boom", outcome="failed")), 0.0)
    assert [effect.verdict[:3] for effect in effects if isinstance(effect, Tell)] == [
        (VerdictKind.CLOSED, "boom", "failed")
    ]


def test_a_node_is_cut_off_before_its_lease_can_have_ended() -> None:
    follower = running()
    assert follower.next_deadline() == 8.0
    follower.step(Renewed(5.0), 7.5)
    assert follower.next_deadline() == 13.0
    assert follower.step(Ticked(), 12.9) == []
    (tell,) = follower.step(Ticked(), 13.0)
    assert isinstance(tell, Tell)
    assert tell.verdict.kind is VerdictKind.CUT_OFF
    assert "in the last 8.0 s was acknowledged" in tell.verdict.why


@pytest.mark.parametrize("loss", [LeaseLost("it has ended"), Ordered(order(3, OrderKind.FENCED, round=4)), Ticked()])
def test_after_it_was_fenced_or_cut_off_a_node_does_not_act_on_that_round(loss: object) -> None:
    follower = running()
    assert isinstance(loss, (LeaseLost, Ordered, Ticked))
    assert any(isinstance(effect, Tell) for effect in follower.step(loss, 50.0))
    assert follower.step(WorkerFailed("boom", 1, final=True), 50.0) == []
    assert follower.step(AllSucceeded(), 50.0) == []
    assert follower.step(Renewed(50.0), 50.0) == []
    assert published(follower.step(Wanted(), 51.0)).entered is None


def test_who_has_done_its_part_cannot_be_cut_off() -> None:
    follower = running()
    assert published(follower.step(AllSucceeded(), 1.0)).done == 4
    assert follower.next_deadline() is None
    assert follower.step(Ticked(), 1000.0) == []
    assert follower.step(LeaseLost("it has ended"), 1000.0) == []


def test_an_admission_that_may_be_too_late_counts_once_the_lease_is_renewed() -> None:
    for last, is_in in ((Renewed(30.0), True), (LeaseLost("it has ended"), False)):
        follower = wanting()
        follower.step(Ordered(order(1, OrderKind.PROPOSED, round=4, proposal=7, rank=1, size=2)), 0.0)
        admission = order(2, OrderKind.ADMITTED, round=4, proposal=7, rank=1, size=2, endpoint=HOME)
        assert follower.step(Ordered(admission), 30.0) == []
        assert (Enter(admission) in follower.step(last, 30.0)) is is_in
    report = published(follower.step(Granted(), 31.0))
    assert (report.joining, report.acknowledged) == (2, 0)


def test_an_admission_that_is_read_after_the_lease_was_lost_lets_nobody_in() -> None:
    follower = wanting()
    follower.step(Ordered(order(1, OrderKind.PROPOSED, round=4, proposal=7, rank=1, size=2)), 0.0)
    follower.step(LeaseLost("the session has ended"), 1.0)
    admission = order(2, OrderKind.ADMITTED, round=4, proposal=7, rank=1, size=2, endpoint=HOME)
    assert follower.step(Ordered(admission), 1.0) == []
    assert published(follower.step(Granted(), 1.0)).acknowledged == 0
    assert follower.step(Renewed(1.0), 1.0) == []


def test_an_admission_that_another_session_may_have_read_counts_once_the_lease_is_renewed() -> None:
    for back_at, is_in in ((3.0, True), (3.1, False)):
        follower = wanting()
        follower.step(Ordered(order(1, OrderKind.PROPOSED, round=4, proposal=7, rank=1, size=2)), 0.0)
        follower.step(Doubted(3.1), 3.0)
        follower.step(Doubted(float("inf")), back_at)
        admission = order(2, OrderKind.ADMITTED, round=4, proposal=7, rank=1, size=2, endpoint=HOME)
        assert (Enter(admission) in follower.step(Ordered(admission), 3.2)) is is_in
        assert (Enter(admission) in follower.step(Renewed(3.2), 3.3)) is not is_in


def test_a_new_lease_has_the_report_written_again() -> None:
    follower = running()
    number = follower.report.number
    assert published(follower.step(Granted(), 1.0)).number == number + 1


def test_failures_are_numbered_and_say_of_which_round_they_are() -> None:
    follower = running()
    first = published(follower.step(WorkerFailed("boom", -9, final=False), 1.0)).failure
    second = published(follower.step(WorkerFailed("x" * 5000, 1, final=True), 1.0)).failure
    assert first is not None
    assert second is not None
    assert (first.number, first.round, first.exit_code, first.final) == (1, 4, -9, False)
    assert (second.number, second.final, len(second.message)) == (2, True, 1024)


def test_leaving_and_closing_are_published_and_what_becomes_of_the_round_is_no_news_then() -> None:
    follower = running()
    assert published(follower.step(Closing("told to"), 1.0)).closing == "told to"
    report = published(follower.step(Leaving(""), 1.0))
    assert (report.leaving, report.wants_in) == ("told to", False)
    assert follower.verdict is None
    assert follower.step(Ordered(order(3, OrderKind.OVER, round=4)), 1.0) == []


def test_a_node_that_is_asked_to_go_says_so_and_can_be_cut_off_until_it_leaves() -> None:
    follower = running()
    report = published(follower.step(Going("SIGTERM received"), 1.0))
    assert (report.going, report.leaving, report.entered, report.wants_in) == ("SIGTERM received", "", 4, False)
    assert follower.next_deadline() is not None
    assert published(follower.step(Granted(), 2.0)).going == "SIGTERM received"
    report = published(follower.step(Leaving("SIGTERM received"), 3.0))
    assert (report.going, report.leaving) == ("", "SIGTERM received")
    assert follower.next_deadline() is None
    assert follower.step(Going("again"), 4.0) == []


def test_who_runs_no_workers_that_matter_is_not_going() -> None:
    assert wanting().step(Going("told to"), 1.0) == []
    for before in (AllSucceeded(), LeaseLost("it has ended"), Ordered(order(3, OrderKind.CLOSED, outcome="closed"))):
        follower = running()
        follower.step(before, 1.0)
        assert follower.step(Going("told to"), 1.0) == []


def test_who_comes_back_is_not_going_any_more() -> None:
    follower = running()
    follower.step(Going(""), 1.0)
    assert follower.report.going == "told to"
    assert published(follower.step(Wanted(), 2.0)).going == ""


def test_a_connection_that_is_not_made_again_cuts_a_node_off_long_before_its_lease() -> None:
    follower = running()
    follower.step(Doubted(3.1), 3.0)
    assert follower.next_deadline() == 3.1 + RESUME_S
    assert follower.step(Doubted(float("inf")), 3.05) == []
    follower.step(Ticked(), 4.0)
    follower.step(Doubted(5.1), 5.0)
    (told,) = follower.step(Ticked(), 5.1 + RESUME_S)
    assert isinstance(told, Tell)
    assert told.verdict.kind is VerdictKind.CUT_OFF
    assert "the connection to the store was lost" in told.verdict.why
