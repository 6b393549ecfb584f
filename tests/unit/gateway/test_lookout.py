from __future__ import annotations

import queue
import threading

import pytest
from tests.support.losing_store import LosingStore
from tests.support.stores import first_store, make_session_store

from rallypoint.clock import SYSTEM_CLOCK
from rallypoint.errors import AccessDeniedError
from rallypoint.gateway.lookout import Lookout

PATIENCE_S = 60

make, session_store = make_session_store, first_store


class Looked:
    def __init__(self, store):
        self.store = store
        self.released = queue.Queue()
        self.troubles = queue.Queue()
        self.lookout = Lookout(store, b"/", self.released.put, SYSTEM_CLOCK, self.trouble)

    def trouble(self, error):
        if error is not None:
            self.troubles.put(error)

    def next(self):
        return self.released.get(timeout=PATIENCE_S)


@pytest.fixture(params=["polled", "watched"])
def looked(request):
    store = LosingStore() if request.param == "polled" else request.getfixturevalue("session_store")
    looked = Looked(store)
    yield looked
    looked.lookout.end()


@pytest.fixture
def losing():
    looked = Looked(LosingStore())
    yield looked
    looked.lookout.end()


def test_a_key_that_others_set_releases_who_waits(looked):
    looked.lookout.wait(1, (b"/k",), b"/k")
    looked.lookout.wait(2, (b"/l",), b"/l")
    looked.store.set("k", "v")
    assert looked.next() == 1
    looked.store.set("l", "v")
    assert looked.next() == 2


def test_a_wait_for_several_keys_ends_with_the_last(looked):
    looked.lookout.wait(1, (b"/a", b"/b", b"/c"), b"/b")
    for key in ("b", "a"):
        looked.store.set(key, "v")
        looked.lookout.touch([b"/" + key.encode()])
    assert looked.released.empty()
    looked.store.set("c", "v")
    assert looked.next() == 1


def test_a_key_that_came_before_the_wait_is_seen(looked):
    looked.store.set("k", "v")
    looked.lookout.wait(1, (b"/k",), b"/k")
    assert looked.next() == 1


def test_a_barrier_ends_with_the_last_arrival(looked):
    looked.store.add("b", 1)
    looked.lookout.meet(1, b"/b", 2)
    looked.store.add("b", 1)
    looked.lookout.touch([b"/b"])
    assert looked.next() == 1


def test_an_item_releases_one(looked):
    for call in (1, 2):
        looked.lookout.wait(call, (b"/q",), b"/q")
    looked.store.queue_push("q", "item")
    looked.lookout.pushed(b"/q")
    assert looked.next() == 1
    looked.store.queue_pop("q")
    looked.lookout.popped(b"/q")
    looked.store.queue_push("q", "item")
    looked.lookout.pushed(b"/q")
    assert looked.next() == 2


def test_what_is_withdrawn_is_not_released(looked):
    looked.lookout.wait(1, (b"/k",), b"/k")
    assert looked.lookout.withdraw(1)
    assert not looked.lookout.withdraw(1)
    looked.lookout.wait(2, (b"/k",), b"/k")
    looked.store.set("k", "v")
    assert looked.next() == 2
    assert looked.released.empty()


def test_who_waits_waits_on_while_the_store_is_lost(losing):
    losing.lookout.wait(1, (b"/k",), b"/k")
    losing.store.lose()
    assert "it is lost" in str(losing.troubles.get(timeout=PATIENCE_S))
    losing.store.find()
    losing.store.set("k", "v")
    assert losing.next() == 1


def test_a_watch_that_ends_is_begun_again(make):
    looked = Looked(make())
    began, watch = threading.Semaphore(0), looked.store.watch
    watches = []

    def watching(*arguments, **options):
        watches.append(watch(*arguments, **options))
        began.release()
        return watches[-1]

    looked.store.watch = watching
    try:
        looked.lookout.wait(1, (b"/k",), b"/k")
        assert began.acquire(timeout=PATIENCE_S)
        watches[0].close()
        assert began.acquire(timeout=PATIENCE_S)
        looked.store.set("k", "v")
        assert looked.next() == 1
    finally:
        looked.lookout.end()


def test_a_watch_that_is_refused_is_not_tried_again_and_looking_goes_on(make):
    looked, tried, has_tried = Looked(make()), [], threading.Event()

    def watch(*arguments, **options):
        tried.append(arguments)
        has_tried.set()
        raise AccessDeniedError("you may not watch that")

    looked.store.watch = watch
    try:
        for call, key in enumerate("abc"):
            looked.lookout.wait(call, (b"/" + key.encode(),), b"/" + key.encode())
            looked.store.set(key, "v")
            assert looked.next() == call
            assert has_tried.wait(PATIENCE_S)
        assert len(tried) == 1
        assert looked.troubles.empty()
    finally:
        looked.lookout.end()


def test_the_end_ends_all_threads(looked):
    looked.lookout.wait(1, (b"/k",), b"/k")
    looked.lookout.end()
    assert not any(thread.is_alive() for thread in looked.lookout._threads)
    looked.lookout.wait(2, (b"/l",), b"/l")
    assert len(looked.lookout._waits) == 1
