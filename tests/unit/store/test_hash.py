"""HashStore."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from rallypoint.errors import DistStoreError, ForkedStoreError, LeaseLostError, QueueEmptyError, StoreTimeoutError
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
    with pytest.raises(DistStoreError, match="not the decimal text"):
        store.add("n", 1)
    assert store.get("n") == b"many"
    store.set("n", "")
    assert store.add("n", 2) == 2
    with pytest.raises(TypeError):
        store.add("n", 1.5)


CALLS = {
    "set": ("k", "v"),
    "get": ("k",),
    "add": ("k", 1),
    "compare_set": ("k", "", "v"),
    "check": (["k"],),
    "wait": (["k"],),
    "delete_key": ("k",),
    "num_keys": (),
    "list_keys": (),
    "append": ("k", "v"),
    "multi_get": (["k"],),
    "multi_set": (["k"], ["v"]),
    "queue_push": ("q", "v"),
    "queue_pop": ("q",),
    "queue_len": ("q",),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer Pythons warn of any fork beside threads
def test_a_forked_child_is_refused_at_once_even_if_the_lock_was_held():
    store = HashStore()
    store.set("k", "v")
    is_held, may_end = threading.Event(), threading.Event()

    def hold():
        with store._locked():
            is_held.set()
            may_end.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert is_held.wait(30)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        refused = 0
        for name, arguments in CALLS.items():
            try:
                getattr(store, name)(*arguments)
            except ForkedStoreError as error:  # noqa: PERF203 - each call is refused
                refused += error.owner_pid == os.getppid() and "inherited it by a fork" in str(error)
        os._exit(refused)
    _, status = os.waitpid(child, 0)
    may_end.set()
    holder.join(30)
    assert os.waitstatus_to_exitcode(status) == len(CALLS)
    assert store.get("k") == b"v"


def test_revisions_and_prefixes_need_no_server():
    store = HashStore()
    assert store.read("k") is None
    assert store.swap("k", 0, "a") == (True, 1)
    assert store.swap("k", 0, "b") == (False, 1)
    store.set("k2", "x")
    assert store.read("k") == ("k", b"a", 1)
    assert sorted(store.read_prefix("k")) == [("k", b"a", 1), ("k2", b"x", 2)]
    assert sorted(store.list_prefix("k")) == ["k", "k2"]
    assert [store.delete_prefix("k"), store.delete_prefix("k")] == [2, 0]


def test_there_are_no_leases_and_no_sessions():
    store = HashStore()
    with pytest.raises(LeaseLostError, match="there is no lease 3"):
        store.swap("k", 0, "a", lease=3)
    assert not store.has_sessions()
    with pytest.raises(NotImplementedError):
        store.lease_grant(1)


def test_a_swap_wakes_who_waits():
    store = HashStore()
    waiting = threading.Thread(target=store.wait, args=(["k"],))
    waiting.start()
    store.swap("k", 0, "a")
    waiting.join(60)
    assert not waiting.is_alive()
