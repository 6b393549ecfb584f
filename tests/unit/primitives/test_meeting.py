"""What barriers and exchanges have in common."""

from __future__ import annotations

import threading

import pytest
from tests.support.session_store import FakeServer, PlainStore

from rallypoint.errors import BarrierBrokenError, BarrierTimeoutError, DistStoreError
from rallypoint.primitives.barrier import Barrier
from rallypoint.primitives.exchange import Exchange
from rallypoint.primitives.meeting import MeetingStatistics

LONG_S = 30.0


@pytest.fixture(params=["plain", "sessions"])
def connect(request):
    store = PlainStore()
    return (lambda: store) if request.param == "plain" else FakeServer().connect


def run(*calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("kind", [Barrier, Exchange])
def test_what_cannot_be_is_refused_before_anybody_is_asked(kind):
    with pytest.raises(ValueError, match="world_size must be 1 or more, got 0"):
        kind(PlainStore(), "m", 0, 0)
    with pytest.raises(ValueError, match="rank must be 0 to 2 for world_size=3, got 3"):
        kind(PlainStore(), "m", 3, 3)
    with pytest.raises(TypeError, match="rank must be an int, not str"):
        kind(PlainStore(), "m", "0", 3)
    with pytest.raises(TypeError, match="world_size must be an int, not float"):
        kind(PlainStore(), "m", 0, 3.0)


def test_statistics(connect):
    with Barrier(connect(), "m", 1, 2, label="host 1") as member:
        with pytest.raises(BarrierTimeoutError):
            member.wait(0.01)
        run(member.wait, lambda: Barrier(connect(), "m", 0, 2, ttl=None).wait(LONG_S))
        found = member.statistics()
        expected = MeetingStatistics("m", 1, "host 1", 2, met=1, timeouts=1, broken=0, waited_s=found.waited_s)
        assert found == expected
        assert found.waited_s >= 0.01
        assert repr(member) == "Barrier('m', rank 1 (host 1) of 2)"


def test_a_session_that_ends_breaks_the_meeting_by_name():
    server = FakeServer()
    dead = server.connect()
    alive = Barrier(server.connect(), "m", 0, 2)
    run(alive.wait, Barrier(dead, "m", 1, 2, label="host 1").wait)
    dead.die()
    with pytest.raises(BarrierBrokenError) as caught:
        alive.wait(LONG_S)
    assert caught.value.gone == ("host 1",)
    assert alive.statistics().broken == 1


def test_members_of_both_dialects_are_told():
    store = PlainStore()
    store.set("m/kind", "sessions")
    with pytest.raises(DistStoreError, match="all of them have to speak the same dialect"):
        Barrier(store, "m", 0, 1).wait(0)


def test_with_sessions_a_meeting_is_one_call():
    session = FakeServer().connect()
    with Barrier(session, "m", 0, 1) as barrier, Exchange(session, "x", 0, 1) as exchange:
        for _ in range(3):
            barrier.wait()
            exchange.give("v")
    assert session.calls == ["compare_set", "meet", "compare_set", "exchange", *["meet", "exchange"] * 2]
