"""HashStore."""

from __future__ import annotations

import pytest

from rallypoint.errors import DistStoreError, QueueEmptyError, StoreTimeoutError
from rallypoint.store.hash import HashStore
from rallypoint.testing import store_checks


@pytest.mark.parametrize("check", store_checks(), ids=str)
def test_it_behaves_as_a_store(check):
    check.run(HashStore)


def test_a_clone_is_the_same_store():
    store = HashStore()
    assert store.clone() is store
    assert store.has_extended_api() is True
    assert repr(store) == "HashStore(0 keys)"


def test_five_keys_are_counted_after_five_were_set():
    store = HashStore()
    for number in range(5):
        store.set(f"key{number}", "v")
    store.queue_push("q", "item")
    assert store.num_keys() == 5
    assert store.list_keys() == [f"key{number}" for number in range(5)]


def test_a_get_does_not_take_a_queue_for_a_key():
    store = HashStore()
    store.queue_push("q", "item")
    store.set_timeout(0)
    with pytest.raises(StoreTimeoutError, match="/q"):
        store.get("q")


def test_an_empty_queue_is_named():
    with pytest.raises(QueueEmptyError, match="queue is empty: 'q'"):
        HashStore().queue_pop("q", block=False)


def test_a_counter_that_is_no_number_is_refused_and_kept():
    store = HashStore()
    store.set("n", "many")
    with pytest.raises(DistStoreError, match="not a decimal number"):
        store.add("n", 1)
    assert store.get("n") == b"many"
    store.set("n", "")
    assert store.add("n", 2) == 2
    with pytest.raises(TypeError):
        store.add("n", 1.5)
