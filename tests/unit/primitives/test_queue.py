"""The queue."""

from __future__ import annotations

import threading

import pytest
from tests.support.session_store import FakeServer, PlainStore

from rallypoint.errors import QueueEmptyError, StoreTimeoutError
from rallypoint.primitives.queue import Queue, QueueStatistics
from rallypoint.store.base import Store

LONG_S = 30.0


@pytest.fixture(params=[PlainStore, lambda: FakeServer().connect()], ids=["plain", "sessions"])
def store(request):
    return request.param()


def test_items_come_out_oldest_first(store):
    queue = Queue(store, "q")
    for item in ("a", b"b", "c"):
        queue.put(item)
    assert len(queue) == 3
    assert [queue.get(), queue.get(0), queue.get(LONG_S)] == [b"a", b"b", b"c"]
    assert (len(queue), bool(queue)) == (0, True)


def test_nothing_to_take(store):
    queue = Queue(store, "q")
    with pytest.raises(QueueEmptyError):
        queue.get(0)
    with pytest.raises(StoreTimeoutError):
        queue.get(0.02)
    assert queue.statistics() == QueueStatistics("q", put=0, got=0, empty=2)


def test_each_item_goes_to_one_of_several_consumers(store):
    taken = []

    def consume():
        queue = Queue(store, "q")
        while (item := queue.get(LONG_S)) != b"end":
            taken.append(item)

    threads = [threading.Thread(target=consume) for _ in range(3)]
    for thread in threads:
        thread.start()
    queue = Queue(store, "q")
    for number in range(100):
        queue.put(str(number))
    for _ in threads:
        queue.put("end")
    for thread in threads:
        thread.join(LONG_S)
    assert sorted(map(int, taken)) == list(range(100))
    assert queue.statistics() == QueueStatistics("q", put=103, got=0, empty=0)


def test_a_store_without_queues_says_so():
    queue = Queue(Store(), "q")
    with pytest.raises(NotImplementedError, match="queue support"):
        queue.put("x")
    with pytest.raises(NotImplementedError, match="queue support"):
        queue.get(0)
    assert repr(queue) == "Queue('q')"
