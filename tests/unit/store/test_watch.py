from __future__ import annotations

import threading

import pytest
from tests.support.session_peer import SessionPeer
from tests.support.stores import HOST, JOIN_S, make_session_store

from rallypoint.errors import ConnectionLostError, RefusedError, StoreTimeoutError
from rallypoint.net.stream import Stream
from rallypoint.protocol.session.spec import EventKind, SessionVerb
from rallypoint.protocol.spec import CloseReason
from rallypoint.store import watch as module
from rallypoint.store.session_calls import Changed, Deleted, Missed

V = SessionVerb


make = make_session_store


def test_changes_come_in_order_also_those_of_ones_own(make):
    store = make()
    other = make(HOST, store.port)
    with store.watch("job/", is_prefix=True) as watch:
        other.set("job/a", "1")
        store.set("elsewhere", "2")
        store.delete_key("job/a")
        assert watch.next() == Changed("job/a", b"1", watch.revision + 1)
        assert watch.next() == Deleted("job/a", watch.revision + 3)
        with pytest.raises(StoreTimeoutError, match=r"^watch timeout after 0ms, key: job/ \(nothing happened"):
            watch.next(0)


def test_what_happened_since_a_revision_is_told_at_least_as_missed(make):
    store = make()
    store.set("k", "1")
    before = store.read("k").revision
    store.set("k", "2")
    with store.watch("k", since=before) as watch:
        assert isinstance(watch.next(), (Missed, Changed))


def test_a_thread_waits_for_events_while_others_call(make, pool):
    store = make()
    with store.watch("k") as watch:
        waiting = pool.submit(watch.next)
        for number in range(20):
            store.add("n", number)
        store.set("k", "v")
        assert waiting.result(JOIN_S)[:2] == ("k", b"v")


def test_closing_ends_the_wait_and_the_watch(make, pool):
    store = make()
    watch = store.watch("k")
    waiting = pool.submit(watch.next)
    watch.close()
    watch.close()
    with pytest.raises(ValueError, match="the watch of 'k' is closed"):
        waiting.result(JOIN_S)
    store.set("k", "v")
    with pytest.raises(ValueError, match="is closed"):
        watch.next(0)


def test_closing_rouses_who_sleeps_until_something_comes(make, pool, monkeypatch):
    sleeps, wait = threading.Event(), Stream.wait

    def note(stream, until, **rest):
        sleeps.set()
        return wait(stream, until, **rest)

    monkeypatch.setattr("rallypoint.store.leading.READ_S", 3.0 * JOIN_S)
    monkeypatch.setattr(Stream, "wait", note)
    watch = make().watch("k")
    waiting = pool.submit(watch.next, 3600)
    assert sleeps.wait(JOIN_S)
    watch.close()
    with pytest.raises(ValueError, match="is closed"):
        waiting.result(JOIN_S)


def test_a_closed_store_ends_its_watches(make, pool):
    store = make()
    watch = store.watch("k")
    waiting = pool.submit(watch.next)
    store.close()
    with pytest.raises(ConnectionLostError):
        waiting.result(JOIN_S)
    watch.close()


def begin(peer, pool, make):
    making = pool.submit(make, HOST, peer.port)
    server = peer.meet()
    store = making.result(JOIN_S)
    watching = pool.submit(store.watch, "k")
    number = server.expect(V.WATCH, b"/k", 0, -1)
    return store, server, watching, number


def test_events_that_come_with_the_answer_are_not_lost(make, pool):
    with SessionPeer() as peer:
        _, server, watching, number = begin(peer, pool, make)
        server.ok(V.WATCH, number, 5)
        server.tell(number, EventKind.SET, b"/k", b"v", 6)
        watch = watching.result(JOIN_S)
        assert (watch.revision, watch.next()) == (5, Changed("k", b"v", 6))


def test_more_than_are_kept_become_one_missed(make, pool, monkeypatch):
    monkeypatch.setattr(module, "EVENTS_MAX", 3)
    with SessionPeer() as peer:
        store, server, watching, number = begin(peer, pool, make)
        server.ok(V.WATCH, number, 5)
        watch = watching.result(JOIN_S)
        for revision in range(6, 10):
            server.tell(number, EventKind.SET, b"/k", b"v", revision)
        adding = pool.submit(store.add, "n", 1)
        server.ok(V.ADD, server.expect(V.ADD, b"/n", 1), 1)
        adding.result(JOIN_S)
        assert watch.next() == Missed(9)
        server.tell(number, EventKind.MISSED, b"", b"", 12)
        assert watch.next() == Missed(12)


def test_a_watch_outlives_its_connection(make, pool):
    with SessionPeer() as peer:
        _, server, watching, number = begin(peer, pool, make)
        server.ok(V.WATCH, number, 5)
        watch = watching.result(JOIN_S)
        waiting = pool.submit(watch.next)
        server.tell(number, EventKind.SET, b"/k", b"v", 6)
        waiting.result(JOIN_S)
        waiting = pool.submit(watch.next)
        server.close()
        again = peer.meet(is_resumed=1)
        assert again.expect(V.WATCH, b"/k", 0, 6) == number
        again.ok(V.WATCH, number, 8)
        again.tell(number, EventKind.MISSED, b"", b"", 8)
        assert waiting.result(JOIN_S) == Missed(8)


def test_a_watch_that_is_not_gone_on_with_says_so(make, pool):
    with SessionPeer() as peer:
        _, server, watching, number = begin(peer, pool, make)
        server.ok(V.WATCH, number, 5)
        waiting = pool.submit(watching.result(JOIN_S).next)
        server.close()
        again = peer.meet(is_resumed=1)
        again.expect(V.WATCH, b"/k", 0, 5)
        again.refuse(number, CloseReason.TOO_MANY_WATCHES, "no")
        with pytest.raises(RefusedError, match="does not go on with the watch of 'k'"):
            waiting.result(JOIN_S)


def test_a_watch_that_is_refused_is_none(make, pool):
    with SessionPeer() as peer:
        _, server, watching, number = begin(peer, pool, make)
        server.refuse(number, CloseReason.TOO_MANY_WATCHES, "no")
        with pytest.raises(RefusedError, match="no"):
            watching.result(JOIN_S)
