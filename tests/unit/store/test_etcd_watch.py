"""Watches on etcd as people have them, and waits."""

from __future__ import annotations

import contextlib
import threading

import pytest
from tests.support.cutting_proxy import CuttingProxy
from tests.support.launcher import until

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectionLostError, StoreTimeoutError
from rallypoint.store import etcd_watch
from rallypoint.store.etcd import EtcdStore
from rallypoint.store.etcd_names import Span
from rallypoint.store.etcd_watch import Arrivals
from rallypoint.store.session_calls import Changed, Deleted, Missed

LONG_S = 60.0
SOON_S = 0.05


def test_a_watch_tells_every_change_with_its_revision(etcd_stores):
    store, other = etcd_stores(), etcd_stores()
    with store.watch("k") as watch:
        other.set("k", "1")
        other.add("n", 1)
        other.delete_key("k")
        first, second = watch.next(), watch.next()
    assert first == Changed("k", b"1", first.revision)
    assert second == Deleted("k", second.revision)
    assert watch.revision < first.revision < second.revision


def test_a_watch_of_a_prefix_tells_whose_change_it_was(etcd_stores):
    store = etcd_stores()
    with store.watch("nodes/", is_prefix=True) as watch:
        store.set("other", "x")
        store.set("nodes/a", "1")
        store.multi_set(["nodes/b", "nodes/c"], ["2", "3"])
        assert {(event.key, event.value) for event in (watch.next() for _ in range(3))} == {
            ("nodes/a", b"1"),
            ("nodes/b", b"2"),
            ("nodes/c", b"3"),
        }


def test_a_watch_since_a_revision_tells_what_came_after_it(etcd_stores):
    store = etcd_stores()
    store.set("k", "1")
    since = store.read("k").revision
    store.set("k", "2")
    with store.watch("k", since=since) as watch:
        assert watch.next().value == b"2"
    with store.watch("k", since=since - 1) as watch:
        assert [watch.next().value, watch.next().value] == [b"1", b"2"]


def test_a_watch_that_cannot_be_kept_says_why(etcd, etcd_url):
    with contextlib.ExitStack() as opened:
        with CuttingProxy(etcd.members[0].endpoint.port, lambda _: (None, None)) as proxy:
            url = f"etcd://127.0.0.1:{proxy.port}/{etcd_url.rpartition('/')[2]}"
            store = opened.enter_context(EtcdStore(url, timeout=LONG_S))
            watch = opened.enter_context(store.watch("k"))
        until("the watch is lost", lambda: "refused" in store._hub.trouble)
        with pytest.raises(StoreTimeoutError, match=r"\(etcd cannot be watched: .* connection refused; waited "):
            watch.next(SOON_S)


def test_a_watch_gives_up_in_its_time(etcd_stores):
    store = etcd_stores()
    with store.watch("k") as watch:
        with pytest.raises(StoreTimeoutError, match=r"watch timeout after 50ms, key: k \(nothing happened") as caught:
            watch.next(SOON_S)
        assert caught.value.keys == ("k",)


def test_a_slow_reader_is_told_of_a_gap(etcd_stores, monkeypatch):
    monkeypatch.setattr(etcd_watch, "EVENTS_MAX", 4)
    store = etcd_stores()
    with store.watch("k") as watch, store.watch("k") as other:
        for number in range(7):
            store.set("k", str(number))
            assert other.next().value == b"%d" % number
        last = store.read("k").revision
        event = watch.next()
        assert isinstance(event, Missed)
        while event.revision < last:
            event = watch.next()


def test_a_closed_watch_is_over_for_whoever_waits(etcd_stores, pool):
    store = etcd_stores()
    watch = store.watch("k")
    waiting = pool.submit(watch.next)
    watch.close()
    watch.close()
    with pytest.raises(ValueError, match="the watch of 'k' is closed"):
        waiting.result(LONG_S)


def test_the_end_of_the_store_ends_watches_and_waits(etcd_stores, pool):
    store = etcd_stores()
    watch = store.watch("k")
    waiting = [pool.submit(watch.next), pool.submit(store.wait, ["never"]), pool.submit(store.get, "never")]
    threading.Event().wait(SOON_S)  # they may as well not wait yet: then they are told at once
    store.close()
    for one in waiting:
        with pytest.raises(ConnectionLostError, match="was closed"):
            one.result(LONG_S)


def test_arrivals_come_in_any_order_and_as_many_as_are_needed(etcd_stores):
    store = etcd_stores()
    names = store._names
    with Arrivals(store._hub) as both, Arrivals(store._hub, needed=1) as one:
        revision = store._range(b"\x0a\x01k").revision
        expected = [both.expect(revision + 1, Span(names.key(key))) for key in (b"a", b"b")]
        other = [one.expect(revision + 1, Span(names.key(key))) for key in (b"a", b"b")]
        store.set("b", "1")
        assert one.wait(Deadline(LONG_S))
        assert [it.entry is None for it in other] == [True, False]
        assert not both.wait(Deadline(0))
        store.set("a", "2")
        assert both.wait(Deadline(LONG_S))
        assert [it.entry.value for it in expected] == [b"2", b"1"]
