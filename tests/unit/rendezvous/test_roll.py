from __future__ import annotations

import pytest
from tests.support.agents import observed

from rallypoint.rendezvous import roll as module
from rallypoint.rendezvous.board import Posted
from rallypoint.rendezvous.office_moves import Gone, Reported
from rallypoint.rendezvous.reports import Report, encode_report
from rallypoint.rendezvous.roll import Roll
from rallypoint.rendezvous.state import Card
from rallypoint.store.session_calls import Changed, Deleted
from rallypoint.testing import ManualClock

A, B = "a" * 32, "b" * 32


def report(node, number=1):
    card = Card(host="h", address="h")
    return encode_report(Report(node=node, number=number, card=card, min_nodes=1, max_nodes=2))


def mark(node, revision):
    return Changed(f"nodes/{node}/here", b"", revision)


def posted(node, revision, number=1, signed=""):
    return Changed(f"nodes/{node}", report(signed or node, number), revision)


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def roll(clock):
    return Roll(5.0, clock)


def told(events):
    return [(type(event), event.report.node if isinstance(event, Reported) else event.node) for event in events]


def test_a_node_is_there_while_its_mark_and_its_report_are(roll):
    assert roll.take(posted(A, 1)) == []  # nobody is connected who would mean it
    assert roll.take(mark(A, 2)) == []
    assert told(roll.take(posted(A, 3, 2))) == [(Reported, A)]
    assert roll.take(Deleted(f"nodes/{A}/here", 4)) == [Gone(A, "its connection was lost")]
    assert roll.take(Deleted(f"nodes/{A}", 5)) == []
    roll.take(mark(A, 6))
    roll.take(posted(A, 7))
    assert roll.take(Deleted(f"nodes/{A}", 8)) == [Gone(A, "it was silent for 5 s")]


def test_what_was_read_is_no_news_when_the_watch_tells_it(roll):
    assert told(roll.read_all([Posted(A, report(A), 7), Posted(B, None, 3)])) == [(Reported, A)]
    for old in (mark(A, 2), posted(A, 7), Deleted(f"nodes/{A}", 5)):
        assert roll.take(old) == []
    assert told(roll.take(posted(B, 8))) == [(Reported, B)]


def test_who_is_not_found_when_all_is_read_again_is_gone(roll):
    roll.read_all([Posted(A, report(A), 1), Posted(B, report(B), 2)])
    assert told(roll.read_all([Posted(A, report(A, 2), 9)])) == [(Gone, B), (Reported, A)]
    assert told(roll.read_all([Posted(A, None, 10)])) == [(Gone, A)]


def test_a_report_that_cannot_be_read_or_is_signed_by_another_is_told_and_left_out(roll):
    roll.take(mark(A, 1))
    with observed() as events:
        assert roll.take(Changed(f"nodes/{A}", b"{}", 2)) == []
        assert roll.take(posted(A, 3, signed=B)) == []
    assert [event.name for event in events] == ["coordinator.trouble"] * 2
    assert "signed by bbbbbb" in events[1].message


def test_such_reports_are_told_of_only_so_often(roll, clock):
    roll.take(mark(A, 1))
    with observed() as events:
        for revision in range(2, 32):
            roll.take(Changed(f"nodes/{A}", b"{}", revision))
        assert len(events) == module.LEFT_OUT_TOLD_MAX
        clock.advance(module.LEFT_OUT_S)
        roll.take(Changed(f"nodes/{A}", b"{}", 99))
    assert f"(and {30 - module.LEFT_OUT_TOLD_MAX} before, which were not told)" in events[-1].message


def test_nothing_is_kept_of_nodes_that_are_gone(roll):
    for number in range(10):
        node, revision = f"{number:032x}", 10 * number
        roll.take(mark(node, revision + 1))
        roll.take(posted(node, revision + 2))
        roll.take(Deleted(f"nodes/{node}", revision + 3))
        roll.take(Deleted(f"nodes/{node}/here", revision + 4))
    assert not roll._known
    assert not roll._here
    assert not roll._there
