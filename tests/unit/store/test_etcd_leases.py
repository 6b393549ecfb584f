"""Leases on etcd: numbers that rise, ends that are told, and those that last as long as their store."""

from __future__ import annotations

import math
from time import monotonic

import pytest

from rallypoint.clock import Deadline
from rallypoint.errors import LeaseLostError
from rallypoint.store.session_calls import ABSENT, ANY_REVISION, Deleted
from rallypoint.testing.conformance import JOIN_TIMEOUT_S

LONG_S = 60.0


def test_numbers_rise_over_all_stores(etcd_stores):
    stores = [etcd_stores(), etcd_stores()]
    numbers = [stores[turn % 2].lease_grant(30 if turn % 3 else None) for turn in range(6)]
    assert numbers == sorted(set(numbers))
    assert numbers[0] > 0


def test_a_lease_is_renewed_for_its_time_which_is_whole_seconds(etcd_stores):
    store = etcd_stores()
    assert store.lease_renew(store.lease_grant(29.5)) == 30.0


def test_a_lease_that_is_revoked_takes_its_keys_along(etcd_stores):
    store = etcd_stores()
    lease = store.lease_grant(60)
    assert store.swap("a", ABSENT, "1", lease=lease)[0]
    assert store.swap("b", ANY_REVISION, "1", lease=lease)[0]
    store.set("c", "stays")
    assert store.lease_revoke(lease) == 2
    assert store.list_keys() == ["c"]


def test_what_has_ended_is_lost_to_every_call(etcd_stores):
    store = etcd_stores()
    lease = store.lease_grant(60)
    store.lease_revoke(lease)
    store.set("k", "v")
    for call in (
        lambda: store.lease_renew(lease),
        lambda: store.lease_revoke(lease),
        lambda: store.swap("k", ANY_REVISION, "w", lease=lease),
        lambda: store.swap("k", 1, "w", lease=lease),
    ):
        with pytest.raises(LeaseLostError, match=f"there is no lease {lease}") as caught:
            call()
        assert caught.value.lease == lease
    assert store.get("k") == b"v"


def test_a_lease_that_nobody_renews_ends(etcd_stores):
    store = etcd_stores()
    store.swap("k", ABSENT, "v", lease=store.lease_grant(1))
    with store.watch("k") as watch:
        assert isinstance(watch.next(JOIN_TIMEOUT_S), Deleted)


def test_a_lease_of_the_store_lives_while_it_does_and_no_longer(etcd_stores):
    store, other = etcd_stores(session_ttl=1), etcd_stores()
    lease = store.lease_grant(None)
    store.swap("k", ABSENT, "v", lease=lease)
    with other.watch("k") as watch:
        short = other.lease_grant(1)  # one that is not renewed, and ends while the other lives on
        other.swap("clock", ABSENT, "", lease=short)
        with other.watch("clock") as clock:
            assert isinstance(clock.next(JOIN_TIMEOUT_S), Deleted)
        assert other.read("k") is not None
        store.close()
        assert isinstance(watch.next(JOIN_TIMEOUT_S), Deleted)


def test_a_write_of_its_own_takes_a_key_out_of_its_lease_but_append_does_not(etcd_stores):
    store = etcd_stores()
    lease = store.lease_grant(60)
    for key in ("set", "appended"):
        store.swap(key, ABSENT, "v", lease=lease)
    store.set("set", "w")
    store.append("appended", "w")
    assert store.lease_revoke(lease) == 1
    assert store.list_keys() == ["set"]


@pytest.mark.parametrize("ttl", [math.inf, -1, 1e10])
def test_times_that_cannot_be_are_refused(etcd_stores, ttl):
    with pytest.raises(ValueError, match="must be"):
        etcd_stores().lease_grant(ttl)


def test_the_stores_own_lease_is_made_once_and_anew_when_it_has_ended(etcd_stores):
    store = etcd_stores()
    deadline = Deadline(LONG_S)
    lease = store._leases.session(0, deadline)
    assert store._leases.session(0, deadline) == store._leases.session(lease, deadline) == lease
    store.lease_revoke(lease)
    assert store._leases.session(lease, deadline) != lease


def test_the_session_may_end_its_time_after_it_was_renewed(etcd_stores):
    store = etcd_stores()
    assert store.session_ends_at() == math.inf
    before = monotonic()
    lease = store.lease_grant(None)
    first = store.session_ends_at()
    assert first >= before + store.lease_renew(lease)
    store.lease_revoke(lease)
    assert store.session_ends_at() == math.inf
