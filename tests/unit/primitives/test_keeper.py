"""The thread that keeps leases."""

from __future__ import annotations

import os
import threading

from tests.support.session_store import PlainStore

from rallypoint.clock import SYSTEM_CLOCK
from rallypoint.primitives import keeper
from rallypoint.primitives.keeper import Keeper

LONG_S = 30.0


class Due:
    """Something that wants to be kept at once, and then never again."""

    def __init__(self):
        self.due_at = SYSTEM_CLOCK.now()
        self.was_kept = threading.Event()

    def keep(self):
        self.due_at += 3600
        self.was_kept.set()


def wait_ended(keeping):
    thread = keeping._thread
    if thread is not None:
        thread.join(LONG_S)
    assert not keeping.is_running


def test_there_is_a_thread_while_there_is_something_to_keep():
    keeping = Keeper()
    assert not keeping.is_running
    first, second = Due(), Due()
    keeping.add(first)
    assert first.was_kept.wait(LONG_S)
    keeping.add(second)  # and the thread sleeps until then no longer
    assert second.was_kept.wait(LONG_S)
    assert (len(keeping), keeping.is_running) == (2, True)
    keeping.remove(first)
    keeping.remove(second)
    keeping.remove(second)
    wait_ended(keeping)


def test_a_keeper_serves_again_after_its_thread_has_ended():
    keeping = Keeper()
    for _ in range(3):
        lease = Due()
        keeping.add(lease)
        assert lease.was_kept.wait(LONG_S)
        keeping.remove(lease)
    wait_ended(keeping)


def test_each_store_has_a_keeper_and_loses_it_with_its_last_lease():
    stores, leases = [PlainStore(), PlainStore()], [Due(), Due()]
    for store, lease in zip(stores, leases, strict=True):
        keeper.keep(store, lease)
    one, two = (keeper._keepers[id(store)][1] for store in stores)
    assert one is not two
    for store, lease in zip(stores, leases, strict=True):
        keeper.forget(store, lease)
        keeper.forget(store, lease)
        assert id(store) not in keeper._keepers
    wait_ended(one)
    wait_ended(two)


def test_a_forked_child_begins_without_keepers():
    store, lease = PlainStore(), Due()
    keeper.keep(store, lease)
    pid = os.fork()
    if pid == 0:
        os._exit(len(keeper._keepers))
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert id(store) in keeper._keepers
    finally:
        keeper.forget(store, lease)
