"""Standing in line, on both kinds of store."""

from __future__ import annotations

import threading

import pytest
from tests.support.session_store import FakeServer, PlainStore

from rallypoint.clock import Deadline
from rallypoint.errors import DistStoreError, LeaseLostError
from rallypoint.primitives.line import Front, PlainLine, ServedLine, Standing, line_for
from rallypoint.testing import ManualClock

LONG_S = 30.0


@pytest.fixture
def clock():
    return ManualClock(jumps=False)


@pytest.fixture(params=["plain", "sessions"])
def connect(request, clock):
    store = PlainStore()
    return (lambda: store) if request.param == "plain" else FakeServer(clock).connect


def now():
    return Deadline(0)


def standing(label, clock, ttl_s=10.0):
    return Standing(label, ttl_s, None, clock)


def test_the_kind_is_what_the_store_can_do_and_all_agree_on_it():
    session = FakeServer().connect()
    assert isinstance(line_for(session, "L"), ServedLine)
    assert isinstance(line_for(session, "L"), ServedLine)
    store = PlainStore()
    assert isinstance(line_for(store, "L"), PlainLine)
    store.set("M/kind", "sessions")
    with pytest.raises(DistStoreError, match=r"'M' is used by members of kind 'sessions', .* makes it 'plain'"):
        line_for(store, "M")


def test_places_are_served_in_the_order_of_coming(connect, clock):
    line = line_for(connect(), "L")
    places = [line_for(connect(), "L").join(standing(label, clock)) for label in "abc"]
    tokens = [place.token for place in places]
    assert tokens == sorted(set(tokens))
    for place, label in zip(places, "abc", strict=True):
        assert [other.wait_front(now()) for other in places if other.token > place.token] == [False] * (
            len([other for other in places if other.token > place.token])
        )
        assert place.wait_front(now())
        assert line.front(clock) == Front(label, place.token)
        place.leave()
    assert line.front(clock) is None


def test_who_leaves_the_middle_of_the_line_is_passed_over(connect, clock):
    first, second, third = (line_for(connect(), "L").join(standing(label, clock)) for label in "abc")
    assert first.wait_front(now())
    second.leave()
    assert not third.wait_front(now())
    first.leave()
    assert third.wait_front(now())


def test_who_waits_is_woken(connect, clock):
    first, second = (line_for(connect(), "L").join(standing(label, clock, 1000.0)) for label in "ab")
    assert first.wait_front(now())
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(second.wait_front(Deadline(LONG_S))))
    thread.start()
    first.leave()
    thread.join(LONG_S)
    assert outcome == [True]


def test_the_dead_leave_the_line_when_their_time_is_over(connect, clock):
    first, second, third = (line_for(connect(), "L").join(standing(label, clock)) for label in "abc")
    assert first.wait_front(now())
    for _ in range(8):  # first and second are not renewed
        clock.advance(9)
        third.lease.renew()
        if third.wait_front(now()):
            break
    else:
        raise AssertionError("the dead were never passed over")
    assert not first.lease.is_alive
    with pytest.raises(LeaseLostError):
        second.wait_front(now())


def test_a_place_that_others_have_ended_says_so(connect, clock):
    first, second = (line_for(connect(), "L").join(standing(label, clock)) for label in "ab")
    if isinstance(line_for(connect(), "L"), PlainLine):
        connect().set("L/place/2", "-5")
    else:
        connect().lease_revoke(second.lease.id)
    first.leave()
    with pytest.raises(LeaseLostError):
        second.wait_front(now())


def test_what_a_plain_line_leaves_behind_is_a_handful_of_keys(clock):
    store = PlainStore()
    for turn in range(20):
        place = line_for(store, "L").join(standing(str(turn), clock))
        assert place.wait_front(now())
        place.leave()
    assert sorted(store.list_keys()) == ["L/floor", "L/kind", "L/over/20", "L/place/count"]


def test_a_waiter_goes_by_the_other_ones_time_to_live(clock):
    store = PlainStore()
    slow = line_for(store, "L").join(standing("slow", clock, 100.0))
    assert slow.wait_front(now())
    quick = line_for(store, "L").join(standing("quick", clock, 1.0))
    for _ in range(140):
        assert not quick.wait_front(now())
        clock.advance(0.9)
        quick.lease.renew()
    assert not slow.lease.is_alive  # by its own clock, first
    for _ in range(100):
        if quick.wait_front(now()):
            return
        clock.advance(0.9)
        quick.lease.renew()
    raise AssertionError("the dead was never passed over")


def test_who_slept_through_its_own_end_finds_the_floor_above_it(clock):
    store = PlainStore()
    line = PlainLine(store, "L")
    assert store.add("L/place/count", 1) == 1  # ticket 1 sleeps here, before its first beat
    second = line.join(standing("b", clock))
    assert not second.wait_front(now())
    clock.advance(9)
    second.lease.renew()
    clock.advance(9)
    assert second.wait_front(now())
    store.set("L/place/count", "0")
    with pytest.raises(LeaseLostError, match="ticket 1 of 'L' is over"):
        line.join(standing("a", clock))


def test_who_comes_to_the_front_is_observed(connect, clock):
    line = line_for(connect(), "L")
    first, second = (line_for(connect(), "L").join(standing(label, clock, 1000.0)) for label in "ab")
    assert first.wait_front(now())
    seen = line.front(clock)
    assert line.wait_change(seen, now(), clock) == seen
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(line.wait_change(seen, Deadline(LONG_S), clock)))
    thread.start()
    first.leave()
    thread.join(LONG_S)
    assert outcome in ([None], [Front("b", second.token)])
    assert second.wait_front(now())
    assert line.wait_change(None, Deadline(LONG_S), clock) == Front("b", second.token)


def test_a_plain_line_names_a_dead_front_until_it_was_quiet_for_its_time(clock):
    line = PlainLine(PlainStore(), "L")
    assert line.front(clock) is None
    place = line.join(standing("a", clock))
    assert line.front(clock) is None  # it stands there, but has not seen so
    assert place.wait_front(now())
    assert line.front(clock) == Front("a", 1)
    clock.advance(15)
    assert line.front(clock) == Front("a", 1)
    clock.advance(1)
    assert line.front(clock) is None
