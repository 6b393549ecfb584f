"""The election, on both kinds of store."""

from __future__ import annotations

import threading

import pytest
from tests.support.session_store import FakeServer, PlainStore

from rallypoint.errors import LeaseLostError, LockTimeoutError
from rallypoint.primitives.election import Election, ElectionStatistics, Leader
from rallypoint.testing import ManualClock

LONG_S = 30.0


@pytest.fixture(params=["plain", "sessions"])
def connect(request):
    store = PlainStore()
    return (lambda: store) if request.param == "plain" else FakeServer().connect


def test_one_leads_and_everybody_can_read_who(connect):
    one, two, observer = (Election(connect(), "E", label=label) for label in ("a", "b", ""))
    assert observer.leader() is None
    token = one.campaign()
    assert (one.is_leader, one.token, two.is_leader, two.token) == (True, token, False, 0)
    assert two.leader() == observer.leader() == Leader("a", token)
    with pytest.raises(LockTimeoutError, match="held by 'a'"):
        two.campaign(0)
    one.resign()
    assert two.campaign(0) > token
    assert observer.leader().label == "b"
    two.resign()
    assert observer.leader() is None


def test_the_next_in_line_follows(connect):
    one, two = Election(connect(), "E", label="a"), Election(connect(), "E", label="b")
    one.campaign()
    thread = threading.Thread(target=lambda: two.campaign(LONG_S))
    thread.start()
    one.resign()
    thread.join(LONG_S)
    assert two.is_leader
    two.resign()


def test_terms_are_observed(connect):
    observer = Election(connect(), "E")
    terms = observer.observe(LONG_S)
    assert next(terms) is None
    for label in ("a", "b"):
        with Election(connect(), "E", label=label) as candidate:
            assert next(terms) == Leader(label, candidate.token)
        assert next(terms) is None


def test_an_observation_ends_with_its_time(connect):
    assert list(Election(connect(), "E").observe(0.05)) == [None]


def test_an_office_that_was_lost_says_so(connect):
    clock = ManualClock(jumps=False)
    told = []
    candidate = Election(connect(), "E", on_lost=lambda: told.append("lost"), clock=clock)
    candidate.campaign()
    clock.advance(10)
    assert not candidate.is_leader
    candidate._tenure._place.lease.keep()
    assert told == ["lost"]
    with pytest.raises(LeaseLostError):
        candidate.resign()
    with pytest.raises(TypeError), candidate:
        clock.advance(10) or clock.advance("the block's own error")
    with pytest.raises(LeaseLostError), candidate:
        clock.advance(10)


def test_a_session_that_ends_ends_its_term():
    server = FakeServer()
    session = server.connect()
    observer = Election(server.connect(), "E")
    Election(session, "E", label="dead").campaign()
    assert observer.leader().label == "dead"
    session.die()
    assert observer.leader() is None


def test_statistics(connect):
    candidate = Election(connect(), "E", label="a")
    assert candidate.statistics() == ElectionStatistics(
        "E", "a", is_leader=False, token=0, terms=0, timeouts=0, lost=0, waited_s=0
    )
    assert repr(candidate) == "Election('E', 'a', does not lead)"
    with candidate:
        assert candidate.statistics().terms == 1
        assert repr(candidate) == "Election('E', 'a', leads)"
