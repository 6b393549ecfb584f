from __future__ import annotations

import pytest
from tests.support.stores import making_stores

from rallypoint.errors import DistStoreError, LeaseLostError, NotANumberError
from rallypoint.server import native as server_native
from rallypoint.store import pipeline as module
from rallypoint.store.session_calls import ABSENT, ANY_REVISION


@pytest.fixture
def store(monkeypatch):
    monkeypatch.setattr(server_native, "native", lambda: None)
    with making_stores() as build:
        yield build(dialect="session")


def test_requests_are_applied_in_order_and_their_results_are_kept(store):
    store.set("old", "v")
    with store.pipeline() as batch:
        batch.set("k", "a")
        batch.append("k", b"b")
        count = batch.add("n", 5)
        swapped = batch.compare_set("k", "ab", "c")
        is_deleted = batch.delete_key("old")
        batch.queue_push("q", "item")
        here, nowhere = batch.read("k"), batch.read("old")
        assert len(batch) == 8
        with pytest.raises(DistStoreError, match="was not sent yet"):
            _ = count.value
    assert (count.value, swapped.value, is_deleted.value) == (5, b"c", True)
    assert (here.value, nowhere.value) == (b"c", None)
    assert store.queue_pop("q") == b"item"


def test_swaps_go_by_revision_and_under_a_lease(store):
    lease = store.lease_grant(60)
    with store.pipeline() as batch:
        created = batch.swap("k", ABSENT, "a", lease=lease)
        late = batch.swap("k", ABSENT, "b")
        forced = batch.swap("k", ANY_REVISION, "c", lease=lease)
    assert created.value[0]
    assert late.value == (False, created.value[1])
    assert forced.value == (True, store.read("k").revision)
    store.lease_revoke(lease)
    batch = store.pipeline()
    refused = batch.swap("k", ANY_REVISION, "d", lease=lease)
    with pytest.raises(LeaseLostError):
        batch.flush()
    assert isinstance(refused.error, LeaseLostError)
    assert store.read("k") is None


def test_one_bad_request_does_not_hold_up_the_others(store):
    store.set("text", "x")
    batch = store.pipeline()
    bad = batch.add("text", 1)
    batch.set("k", "v")
    with pytest.raises(NotANumberError):
        batch.flush()
    with pytest.raises(NotANumberError):
        _ = bad.value
    assert store.get("k") == b"v"


def test_a_block_that_fails_sends_nothing(store):
    def fail() -> None:
        with store.pipeline() as batch:
            batch.set("k", "v")
            raise KeyError("mine")

    with pytest.raises(KeyError):
        fail()
    assert not store.check(["k"])


def test_many_and_large_requests_go_in_batches(store, monkeypatch):
    monkeypatch.setattr(module, "REQUESTS_MAX", 10)
    monkeypatch.setattr(module, "SIZE_MAX", 1000)
    with store.pipeline() as batch:
        counts = [batch.add("n", 1) for _ in range(35)]
        for number in range(5):
            batch.set(f"k{number}", bytes(600))
    assert [count.value for count in counts] == list(range(1, 36))
    assert store.num_keys() == 6


def test_a_pipeline_may_be_flushed_amid_its_block(store):
    with store.pipeline() as batch:
        count = batch.add("n", 1)
        batch.flush()
        assert count.value == 1
    assert store.add("n", 0) == 1


def test_types_are_the_callers_error_at_once(store):
    batch = store.pipeline()
    with pytest.raises(TypeError):
        batch.add("n", 1.5)
    with pytest.raises(TypeError):
        batch.set("k", 1)
    assert len(batch) == 0


def test_leases_begin_and_live_on(store):
    with store.pipeline() as batch:
        timed, bound = batch.lease_grant(60), batch.lease_grant(None)
    with store.pipeline() as batch:
        left = batch.lease_renew(timed.value)
        batch.swap("k", ABSENT, "v", lease=bound.value)
    assert 0 < left.value <= 60_000
    assert store.get("k") == b"v"
    store.lease_revoke(timed.value)
    batch = store.pipeline()
    batch.lease_renew(timed.value)
    with pytest.raises(LeaseLostError):
        batch.flush()
