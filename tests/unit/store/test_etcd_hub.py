"""All watches on one stream: it goes on where it was after a lost connection, and tells of gaps."""

from __future__ import annotations

import queue

import pytest
from tests.support.cutting_proxy import CuttingProxy

from rallypoint.errors import ConnectionLostError
from rallypoint.store import etcd_wire as wire
from rallypoint.store.etcd import EtcdStore
from rallypoint.store.etcd_hub import Hub
from rallypoint.store.etcd_names import Span
from rallypoint.store.session_calls import Changed, Missed

LONG_S = 60.0


class Heard:
    """A listener that writes down what it is told."""

    def __init__(self):
        self.told = queue.SimpleQueue()

    def began(self, revision, /):
        self.told.put(("began", revision))

    def hear(self, events, /):
        self.told.put(("heard", [(event.is_deletion, event.entry.value) for event in events]))

    def missed(self, revision, /):
        self.told.put(("missed", revision))

    def over(self, error, /):
        self.told.put(("over", error))

    def next(self):
        return self.told.get(timeout=LONG_S)


def place(store, key):
    return Span(store._names.key(key))


def test_listeners_hear_what_they_asked_for(etcd_stores):
    store = etcd_stores()
    every, writes, deletions = Heard(), Heard(), Heard()
    hub = store._hub
    subscription = hub.subscribe(place(store, b"k"), 0, every)
    hub.subscribe(place(store, b"k"), 0, writes, is_deaf_to_deletions=True)
    hub.subscribe(place(store, b"k"), 0, deletions, is_deaf_to_writes=True)
    for listener in (every, writes, deletions):
        assert listener.next()[0] == "began"
    store.set("k", "1")
    store.delete_key("k")
    store.set("k", "2")
    assert [every.next() for _ in range(3)] == [
        ("heard", [(False, b"1")]),
        ("heard", [(True, b"")]),
        ("heard", [(False, b"2")]),
    ]
    assert [writes.next()[1], writes.next()[1]] == [[(False, b"1")], [(False, b"2")]]
    assert deletions.next()[1] == [(True, b"")]
    hub.unsubscribe(subscription)
    hub.unsubscribe(subscription)


def test_a_lost_connection_is_made_anew_and_nothing_is_missed(etcd, etcd_url):
    prefix = etcd_url.rpartition("/")[2]
    with CuttingProxy(etcd.members[0].endpoint.port, lambda number: (None, None)) as proxy:
        near = EtcdStore(f"etcd://127.0.0.1:{proxy.port}/{prefix}", timeout=LONG_S)
        other = EtcdStore(etcd_url, timeout=LONG_S)
        with near, other, near.watch("k", is_prefix=True) as watch:
            for number in range(20):
                other.set(f"k{number}", "v")
                if number % 5 == 0:
                    proxy.cut_all()
            assert [watch.next(LONG_S).key for _ in range(20)] == [f"k{number}" for number in range(20)]


def test_what_was_compacted_is_a_gap(etcd, etcd_stores):
    store = etcd_stores()
    store.set("k", "1")
    since = store.read("k").revision
    store.set("k", "2")
    store.set("k", "3")
    now = store.read("k").revision
    etcd.ask("KV/Compact", wire._number(1, now))
    with store.watch("k", since=since) as watch:
        event = watch.next(LONG_S)
        assert isinstance(event, Missed)
        assert event.revision >= now
        store.set("k", "4")
        assert watch.next(LONG_S) == Changed("k", b"4", store.read("k").revision)


def test_the_end_of_the_store_is_told(etcd_stores):
    store = etcd_stores()
    listener = Heard()
    store._hub.subscribe(place(store, b"k"), 0, listener)
    assert listener.next()[0] == "began"
    store.close()
    what, error = listener.next()
    assert what == "over"
    assert isinstance(error, ConnectionLostError)
    with pytest.raises(ConnectionLostError):
        store._hub.subscribe(place(store, b"k"), 0, listener)


def test_a_hub_that_nobody_listens_to_has_no_thread(etcd):
    cluster = etcd.cluster()
    hub = Hub(cluster)
    assert hub._thread is None
    hub.close(ConnectionLostError("is done"))
    hub.close(ConnectionLostError("is done"))
    cluster.close("is done")
