"""Queues on etcd: first in first out over stores and threads, each item to one."""

from __future__ import annotations

import pytest

from rallypoint.errors import QueueEmptyError, StoreTimeoutError

LONG_S = 60.0


def test_order_holds_over_stores(etcd_stores):
    stores = [etcd_stores() for _ in range(3)]
    for number in range(30):
        stores[number % 3].queue_push("q", str(number))
    assert stores[0].queue_len("q") == 30
    assert [stores[number % 2].queue_pop("q") for number in range(30)] == [b"%d" % number for number in range(30)]


def test_each_item_goes_to_one_of_many(etcd_stores, pool):
    stores = [etcd_stores() for _ in range(4)]
    popping = [pool.submit(lambda store=store: [store.queue_pop("q") for _ in range(10)]) for store in stores]
    pushing = [pool.submit(lambda n=n: [stores[n].queue_push("q", f"{n}.{i}") for i in range(10)]) for n in range(4)]
    for one in pushing:
        one.result(LONG_S)
    items = [item for one in popping for item in one.result(LONG_S)]
    assert sorted(items) == sorted(b"%d.%d" % (n, i) for n in range(4) for i in range(10))


def test_queues_whose_names_begin_alike_are_apart(etcd_stores):
    store = etcd_stores()
    for name in (b"q", b"q/", b"q\0", b"\xff"):
        store.queue_push(name, name)
    assert [store.queue_pop(name) for name in (b"\xff", b"q\0", b"q/", b"q")] == [b"\xff", b"q\0", b"q/", b"q"]
    assert store.num_keys() == 0


def test_an_empty_queue_says_so_at_once_or_in_its_time(etcd_stores):
    store = etcd_stores()
    with pytest.raises(QueueEmptyError):
        store.queue_pop("q", False)
    store.set_timeout(0.05)
    with pytest.raises(StoreTimeoutError):
        store.queue_pop("q")
