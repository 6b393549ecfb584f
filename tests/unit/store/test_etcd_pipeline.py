"""A pipeline on etcd gives what the calls would have given, in their order."""

from __future__ import annotations

import pytest

from rallypoint.errors import DistStoreError, NotANumberError
from rallypoint.store.prefix import PrefixStore


def test_promises_are_what_the_calls_would_have_returned(etcd_stores):
    store = etcd_stores()
    with store.pipeline() as batch:
        batch.set("a", "1")
        batch.set("b", "x")
        count = batch.add("a", 2)
        batch.append("b", "y")
        swapped = batch.compare_set("b", "xy", "z")
        read, absent = batch.read("b"), batch.read("c")
        is_done = batch.swap("c", 0, "new")
        gone, none = batch.delete_key("b"), batch.delete_key("b")
        batch.queue_push("q", "item")
        assert len(batch) == 11
        with pytest.raises(DistStoreError, match="not sent yet"):
            assert count.value
    assert (count.value, swapped.value, read.value, absent.value) == (3, b"z", b"z", None)
    assert (is_done.value[0], gone.value, none.value) == (True, True, False)
    assert store.queue_pop("q") == b"item"


def test_a_run_of_sets_is_one_write(etcd_stores):
    store = etcd_stores()
    with store.pipeline() as batch:
        for number in range(500):
            batch.set(f"k{number}", "v")
    assert len({entry.revision for entry in store.read_prefix("k")}) == 1


def test_the_first_error_is_raised_and_the_rest_is_done(etcd_stores):
    store = etcd_stores()
    store.set("text", "no number")
    batch = store.pipeline()
    wrong, right = batch.add("text", 1), batch.add("n", 1)
    with pytest.raises(NotANumberError):
        batch.flush()
    assert isinstance(wrong.error, NotANumberError)
    assert right.value == 1


def test_under_a_prefix(etcd_stores):
    store = etcd_stores()
    with PrefixStore("p", store).pipeline() as batch:
        batch.set("k", "v")
    assert store.get("p/k") == b"v"


def test_leases_begin_and_live_on(etcd_stores):
    store = etcd_stores()
    with store.pipeline() as batch:
        timed, bound = batch.lease_grant(60), batch.lease_grant(None)
    with store.pipeline() as batch:
        left = batch.lease_renew(timed.value)
        batch.swap("k", 0, "v", lease=bound.value)
    assert left.value > 0
    assert store.get("k") == b"v"
