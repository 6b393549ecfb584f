from __future__ import annotations

import pytest

from rallypoint.agent.moves import CutOff, Event, Fenced, RoundOver, RunClosed, StoreBack, StoreLost
from rallypoint.agent.round_looks import LOOK_S, PAUSE_MAX_S, PAUSE_MIN_S, Found, RoundLooks, event_of
from rallypoint.rendezvous.handler import RoundNews, RoundStatus
from rallypoint.rendezvous.lifeline import RESUME_S

CURRENT = RoundNews(RoundStatus.CURRENT, "it goes on")
OVER = RoundNews(RoundStatus.OVER, "b came")
FENCED = RoundNews(RoundStatus.FENCED, "they went on")
CUT_OFF = RoundNews(RoundStatus.CUT_OFF, "nobody answers")
CLOSED = RoundNews(RoundStatus.CLOSED, "b failed", "failed")


def looks(*, tells_by_itself: bool = True) -> RoundLooks:
    return RoundLooks(tells_by_itself=tells_by_itself)


@pytest.mark.parametrize(
    ("news", "event"),
    [
        (OVER, RoundOver("b came")),
        (FENCED, Fenced("they went on")),
        (CUT_OFF, CutOff("nobody answers")),
        (CLOSED, RunClosed("failed", "b failed")),
    ],
)
def test_each_end_of_a_round_has_its_event(news: RoundNews, event: Event) -> None:
    assert event_of(news) == event
    assert looks().take(news).event == event


def test_a_round_that_goes_on_is_looked_at_again_at_once() -> None:
    assert looks().take(CURRENT) == Found(None, 0.0)


@pytest.mark.parametrize("news", [FENCED, CUT_OFF, CLOSED])
def test_nothing_worse_can_come_than_these(news: RoundNews) -> None:
    assert looks().take(news).pause_s is None


@pytest.mark.parametrize("worse", [FENCED, CUT_OFF])
def test_a_round_that_is_over_is_told_once_and_looked_at_for_worse(worse: RoundNews) -> None:
    round_ = looks()

    assert round_.take(OVER) == Found(RoundOver("b came"), LOOK_S)
    assert round_.take(OVER) == Found(None, LOOK_S)
    assert round_.fail("no answer") == Found(None, LOOK_S)
    assert round_.take(worse) == Found(event_of(worse), None)


def test_the_end_of_the_run_is_left_to_the_next_rendezvous_where_the_round_was_over_before() -> None:
    round_ = looks()
    round_.take(OVER)

    assert round_.take(CLOSED) == Found(None, None)


def test_a_handler_that_cannot_tell_by_itself_is_not_asked_after_the_end_of_a_round() -> None:
    assert looks(tells_by_itself=False).take(OVER) == Found(RoundOver("b came"), None)


def test_trouble_is_told_once_and_so_is_its_end() -> None:
    round_ = looks()

    assert round_.fail("refused").event == StoreLost("refused")
    assert round_.fail("refused").event is None
    assert round_.take(CURRENT) == Found(StoreBack(), 0.0)
    assert round_.take(CURRENT).event is None
    assert round_.fail("timed out").event == StoreLost("timed out")


def test_a_handler_that_tells_by_itself_is_looked_at_often_enough_in_trouble_to_stop_in_time() -> None:
    round_ = looks()

    assert [round_.fail("refused").pause_s for _ in range(9)] == [LOOK_S] * 9
    assert LOOK_S <= RESUME_S / 2


def test_a_handler_that_may_ask_a_store_is_left_alone_for_longer_and_longer() -> None:
    round_ = looks(tells_by_itself=False)

    pauses = [round_.fail("refused").pause_s for _ in range(9)]

    assert pauses[:3] == [PAUSE_MIN_S, 2 * PAUSE_MIN_S, 4 * PAUSE_MIN_S]
    assert pauses[-1] == PAUSE_MAX_S
    round_.take(CURRENT)
    assert round_.fail("refused").pause_s == PAUSE_MIN_S
