from __future__ import annotations

from tests.support.agents import observed

from rallypoint.rendezvous.bulletin import Bulletin
from rallypoint.rendezvous.reports import Order, OrderKind
from rallypoint.rendezvous.state import News

ME, OTHER = "a" * 32, "b" * 32


def order(*news, why="as told"):
    return Order(term=1, number=1, kind=OrderKind.OVER, why=why, news=news)


def news(message, node=OTHER, kind="failed", **fields):
    return News(kind=kind, round=3, node=node, host="far", message=message, **fields)


def told_by(*orders):
    bulletin = Bulletin(ME, "run")
    with observed() as events:
        for each in orders:
            bulletin.pass_on(each)
    return [event.message for event in events]


def test_a_failure_names_node_host_rank_and_exit_code():
    told = told_by(order(news("boom", rank=1, exit_code=3), news("killed", exit_code=-9)))
    assert told == [
        "a worker of far (node 1) failed in round 3 with exit code 3: boom",
        "a worker of far failed in round 3 by signal 9: killed",
    ]


def test_a_node_that_was_lost_is_news():
    told = told_by(order(news("far#bbbbbb (node 0) is gone: its connection was lost", kind="dropped", rank=0)))
    assert told == ["round 3: far#bbbbbb (node 0) is gone: its connection was lost"]


def test_news_are_told_once_and_own_ones_never():
    twice = order(news("boom", exit_code=1), news("mine", node=ME))
    assert len(told_by(twice, twice)) == 1


def test_what_an_order_says_itself_is_not_repeated():
    assert told_by(order(news("boom", exit_code=1), why="it failed: boom"), order(news("boom", exit_code=1))) == []
