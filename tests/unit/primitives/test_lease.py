"""Leases, on both kinds of store."""

from __future__ import annotations

import os
import threading

import pytest
from tests.support.session_store import FakeServer, PlainStore

from rallypoint import events
from rallypoint.errors import ConnectionLostError, LeaseLostError
from rallypoint.primitives.lease import Lease, LeaseStatistics
from rallypoint.testing import ManualClock

LONG_S = 30.0


@pytest.fixture
def clock():
    return ManualClock(jumps=False)


@pytest.fixture(params=["plain", "sessions"])
def store(request, clock):
    return PlainStore() if request.param == "plain" else FakeServer(clock).connect()


def end(store, lease):
    """Let the others end a lease."""
    if store.has_sessions():
        store.lease_revoke(lease.id)
    else:
        store.set(f"rallypoint/lease/{lease.id}", "-5")


def test_a_lease_lives_for_its_time_and_longer_if_it_is_renewed(store, clock):
    lease = Lease(store, 10, clock=clock)
    clock.advance(9)
    assert (lease.is_alive, lease.left_s) == (True, 1)
    lease.renew()
    clock.advance(9)
    assert lease.is_alive
    clock.advance(1)
    assert not lease.is_alive
    with pytest.raises(LeaseLostError, match=rf"lease {lease.id} of 10 s has ended") as caught:
        lease.renew()
    assert caught.value.lease == lease.id


def test_time_counts_from_before_a_renewal_was_asked_for(store, clock):
    lease = Lease(store, 10, clock=clock)
    holding = lease._holding
    renew = holding.renew

    def slowly():
        renew()
        clock.advance(4)

    holding.renew = slowly
    lease.renew()
    assert lease.left_s == 6


def test_numbers_rise(store, clock):
    ids = [Lease(store, 10, clock=clock).id for _ in range(5)]
    assert ids == sorted(set(ids))
    assert ids[0] > 0


def test_a_lease_that_others_have_ended_is_lost_and_says_so_once(store, clock):
    told, seen = [], []
    events.subscribe(seen.append)
    try:
        lease = Lease(store, 10, on_lost=told.append, clock=clock)
        end(store, lease)
        lease.keep()
        lease.keep()
    finally:
        events.unsubscribe(seen.append)
    assert told == [lease]
    assert [event.name for event in seen] == ["lease.lost"]
    assert (lease.is_lost, lease.is_alive, lease.wait_lost(0)) == (True, False, True)


def test_a_renewal_that_fails_is_tried_again_until_the_time_is_up(store, clock):
    lease = Lease(store, 9, clock=clock)
    holding, renew = lease._holding, lease._holding.renew

    def fail():
        raise ConnectionLostError("the server is gone")

    holding.renew = fail
    clock.advance(3)
    lease.keep()
    assert (lease.is_alive, lease.due_at, lease.statistics().failures) == (True, 4, 1)
    holding.renew = renew
    clock.advance(1)
    lease.keep()
    assert (lease.left_s, lease.statistics().renewals) == (9, 1)
    holding.renew = fail
    clock.advance(10)
    lease.keep()
    assert lease.is_lost


def test_a_closed_lease_has_ended_without_being_lost(store, clock):
    told = []
    with Lease(store, 10, on_lost=told.append, clock=clock) as lease:
        pass
    lease.close()
    assert (lease.is_alive, lease.is_lost, told) == (False, False, [])
    with pytest.raises(LeaseLostError, match="was closed"):
        lease.renew()
    if store.has_sessions():
        assert store.server.leases == {}
    else:
        assert store.list_keys() == ["rallypoint/lease/count"]


def test_a_store_that_fails_does_not_keep_a_lease_from_being_closed(store, clock):
    lease = Lease(store, 10, clock=clock)

    def fail():
        raise ConnectionLostError("the server is gone")

    lease._holding.end = fail
    lease.close()
    assert not lease.is_alive


def test_keys_go_with_their_lease():
    session = FakeServer().connect()
    with Lease(session, 10) as lease:
        lease.put("k", "v")
        assert session.get("k") == b"v"
    assert not session.check(["k"])
    with pytest.raises(LeaseLostError):
        lease.put("k", "v")


def test_keys_do_not_go_with_their_lease_where_nobody_would_remove_them():
    with Lease(PlainStore(), 10) as lease, pytest.raises(NotImplementedError, match="need a store with sessions"):
        lease.put("k", "v")


def test_a_lease_keeps_itself_alive():
    session = FakeServer().connect()
    renewed = threading.Event()

    def renew(lease):
        renewed.set()
        return 1.0

    session.lease_renew = renew
    with Lease(session, 0.06):
        assert renewed.wait(LONG_S)


def test_statistics(store, clock):
    lease = Lease(store, 10, clock=clock)
    clock.advance(1)
    lease.renew()
    clock.advance(2)
    expected = LeaseStatistics(lease.id, is_alive=True, ttl_s=10, left_s=8, age_s=3, renewals=1, failures=0)
    assert lease.statistics() == expected
    assert repr(lease) == f"Lease({lease.id}, alive, ttl 10 s)"


@pytest.mark.parametrize("ttl", [0, 0.01, float("inf")])
def test_times_to_live_that_cannot_be(store, ttl):
    with pytest.raises(ValueError, match=r"ttl must be 0\.05 seconds or more and finite"):
        Lease(store, ttl)


def test_a_forked_child_has_no_lease_and_cannot_end_its_parents(store, clock):
    lease = Lease(store, 10, clock=clock)
    pid = os.fork()
    if pid == 0:
        lease.close()
        os._exit(0 if lease._holding is not None and not lease.is_alive else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert lease.is_alive


def test_a_number_whose_beat_was_sealed_before_it_began_is_not_used(clock):
    store = PlainStore()
    store.set("rallypoint/lease/1", "-5")
    assert Lease(store, 10, clock=clock).id == 2
