"""The calls of a session, over a server of the Python twin; what they share with c10d's is tested in ``test_tcp``."""

from __future__ import annotations

import contextlib
import os
import random
import threading

import pytest
from tests.support.cutting_proxy import CuttingProxy
from tests.support.session_peer import SessionPeer
from tests.support.stores import HOST, JOIN_S, first_store, make_session_store

from rallypoint.errors import (
    BarrierBrokenError,
    BarrierTimeoutError,
    ForkedStoreError,
    LeaseLostError,
    NotANumberError,
    RefusedError,
    RemoteProtocolError,
)
from rallypoint.protocol.session.codec import encode_reply
from rallypoint.protocol.session.spec import DELETED_KEYS_MAX, SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.store import calls
from rallypoint.store.session_calls import ABSENT, ANY_REVISION, Entry

V = SessionVerb


make = make_session_store
store = first_store


@pytest.fixture
def line(make, pool):
    """A store, and its server played by hand."""
    with SessionPeer() as peer:
        making = pool.submit(make, HOST, peer.port)
        server = peer.meet()
        yield making.result(JOIN_S), server


def test_one_thread_waits_and_another_sets_on_the_same_object(store):
    found = []
    waiting = threading.Thread(target=lambda: found.append(store.get("k")))
    waiting.start()
    store.set("k", "v")
    waiting.join(JOIN_S)
    assert found == [b"v"]


def work(store, number, calls):
    """Make calls of all kinds, seeded; give how much was added to the common counter."""
    chance = random.Random(number)
    added = 0
    for step in range(calls):
        kind = chance.randrange(5)
        text = b"%d" % step
        if kind == 0:
            store.add("count", 1)
            added += 1
        elif kind == 1:
            store.set(f"k{number}", text)
            assert store.get(f"k{number}") == text
        elif kind == 2:
            store.queue_push(f"q{number}", text)
            assert store.queue_pop(f"q{number}") == text
        elif kind == 3:
            assert store.swap(f"s{number}/{step}", ABSENT, text)[0]
        else:
            with store.pipeline() as batch:
                for _ in range(10):
                    batch.add("count", 1)
            added += 10
    return added


@pytest.mark.parametrize("seed", range(3))
def test_each_call_is_applied_once_though_connections_break_anywhere(make, pool, seed):
    chance = random.Random(seed)

    def cut(_):
        return chance.choice([None, chance.randrange(250, 3000)]), chance.randrange(250, 2000)

    server = make()
    with CuttingProxy(server.port, cut) as proxy, contextlib.closing(make(HOST, proxy.port)) as store:
        working = [pool.submit(work, store, number, 40) for number in range(4)]
        added = sum(future.result(JOIN_S) for future in working)
        assert store.add("count", 0) == added
        assert proxy.connections > 10


def test_a_get_is_one_request(line, pool):
    store, server = line
    getting = pool.submit(store.get, "k")
    server.ok(V.GET, server.expect(V.GET, b"/k"), b"v")
    assert getting.result(JOIN_S) == b"v"


def test_writes_are_acknowledged(line, pool):
    store, server = line
    for call, arguments, verb, fields in (
        (store.set, ("k", "v"), V.SET, (b"/k", b"v")),
        (store.append, ("k", "v"), V.APPEND, (b"/k", b"v")),
        (store.multi_set, (["k"], ["v"]), V.MULTI_SET, ([(b"/k", b"v")],)),
        (store.queue_push, ("q", "i"), V.QUEUE_PUSH, (b"/q", b"i")),
    ):
        writing = pool.submit(call, *arguments)
        number = server.expect(verb, *fields)
        assert not writing.done()
        server.ok(verb, number, 1)
        assert writing.result(JOIN_S) is None


def test_nothing_to_ask_asks_nobody(line, pool):
    store, server = line
    store.multi_set([], [])
    store.wait([])
    assert store.multi_get([]) == []
    assert store.check([])
    adding = pool.submit(store.add, "n", 1)
    server.ok(V.ADD, server.expect(V.ADD, b"/n", 1), 1)
    assert adding.result(JOIN_S) == 1


def test_revisions_tell_who_wrote_last(store):
    assert store.read("k") is None
    assert store.swap("k", ABSENT, "a") == (True, 1)
    assert store.swap("k", ABSENT, "b") == (False, 1)
    assert store.swap("k", 1, b"c") == (True, 2)
    assert store.swap("k", ANY_REVISION, "d") == (True, 3)
    assert store.read("k") == Entry("k", b"d", 3)


def test_prefixes(store):
    for key in ("job/1", "job/2", "other"):
        store.set(key, key)
    assert sorted(store.list_prefix("job/")) == ["job/1", "job/2"]
    assert sorted(entry[:2] for entry in store.read_prefix("job/")) == [("job/1", b"job/1"), ("job/2", b"job/2")]
    assert [store.delete_prefix("job/"), store.delete_prefix("job/")] == [2, 0]
    assert store.list_keys() == ["other"]
    many = [f"many/{number}" for number in range(DELETED_KEYS_MAX + 1)]
    store.multi_set(many, many)
    assert [store.delete_prefix("many/"), store.delete_prefix("many/")] == [len(many), 0]


def test_keys_end_with_their_lease(store):
    lease = store.lease_grant(30)
    assert store.swap("k", ABSENT, "v", lease=lease)[0]
    assert 0 < store.lease_renew(lease) <= 30
    assert store.lease_revoke(lease) == 1
    assert not store.check(["k"])
    for call in (lambda: store.lease_renew(lease), lambda: store.swap("k", ABSENT, "v", lease=lease)):
        with pytest.raises(LeaseLostError) as caught:
            call()
        assert caught.value.lease == lease
    assert store.lease_grant(30) > lease


def test_a_lease_without_a_time_ends_with_its_session(store, make):
    other = make(HOST, store.port)
    other.swap("k", ABSENT, "v", lease=other.lease_grant(None))
    assert store.check(["k"])
    with store.watch("k") as watch:
        other.close()
        assert watch.next().key == "k"
    assert not store.check(["k"])


def test_members_meet_again_and_again(store, make, pool):
    others = [make(HOST, store.port) for _ in range(2)]
    for generation in (1, 2):
        meeting = [pool.submit(other.meet, "b", rank + 1, 3) for rank, other in enumerate(others)]
        assert store.meet("b", 0, 3) == generation
        assert [future.result(JOIN_S) for future in meeting] == [generation] * 2


def test_members_exchange_values_by_rank(store, make, pool):
    other = make(HOST, store.port)
    giving = pool.submit(other.exchange, "x", 1, 2, "one")
    assert store.exchange("x", 0, 2, b"zero") == [b"zero", b"one"]
    assert giving.result(JOIN_S) == [b"zero", b"one"]


def test_who_does_not_come_is_named(store):
    with pytest.raises(
        BarrierTimeoutError, match=r"^meet timeout after 20ms, name: b \(1 of 3 came, missing: "
    ) as caught:
        store.meet("b", 1, 3, label="me", timeout=0.02)
    assert caught.value.missing == ("rank 0", "rank 2")
    assert (caught.value.arrived, caught.value.expected) == (1, 3)


def test_who_is_gone_is_named(line, pool):
    store, server = line
    meeting = pool.submit(store.meet, "b", 0, 2)
    number = server.expect(V.MEET, b"/b", 0, 2, b"")
    server.reply(encode_reply(Status.LOST, V.MEET, number, [(1, b"node1", 5)]))
    with pytest.raises(BarrierBrokenError, match=r"^meet 'b' cannot become complete: rank 1 \(node1\) of 2 members is"):
        meeting.result(JOIN_S)


def test_members_that_do_not_agree_are_refused(line, pool):
    store, server = line
    meeting = pool.submit(store.meet, "b", 0, 2)
    server.refuse(server.expect(V.MEET, b"/b", 0, 2, b""), CloseReason.GROUP_MISMATCH, "2 are not 3")
    with pytest.raises(RefusedError, match=r"^2 are not 3 \(group_mismatch\)$"):
        meeting.result(JOIN_S)


def test_a_value_that_is_no_number_is_the_callers_error_and_the_connection_stays(store):
    store.set("k", "text")
    with pytest.raises(NotANumberError) as caught:
        store.add("k", 1)
    assert caught.value.key == "k"
    assert store.get("k") == b"text"


def test_a_refusal_has_its_reason(line, pool):
    store, server = line
    setting = pool.submit(store.set, "k", "v")
    server.refuse(server.expect(V.SET, b"/k", b"v"), CloseReason.STORE_FULL, "the store is full")
    with pytest.raises(RefusedError, match=r"^the store is full \(store_full\)$") as caught:
        setting.result(JOIN_S)
    assert caught.value.reason == "store_full"
    setting = pool.submit(store.set, "k", "v")
    server.refuse(server.expect(V.SET, b"/k", b"v"), CloseReason.FORBIDDEN, "not you")
    with pytest.raises(PermissionError, match="not you"):
        setting.result(JOIN_S)


@pytest.mark.parametrize(
    ("call", "arguments", "verb", "fields", "text"),
    [
        ("check", (["k"],), V.CHECK, (3,), "CHECK was answered 3, not 0 or 1"),
        ("multi_get", (["a", "b"],), V.MULTI_GET, ([b"1"],), "MULTI_GET of 2 keys was answered 1 values"),
        ("status", (), V.STATUS, (b"{",), "STATUS was answered by no JSON"),
        ("status", (), V.STATUS, (b"[]",), "STATUS was answered by a list"),
    ],
)
def test_answers_without_meaning_are_errors(line, pool, call, arguments, verb, fields, text):
    store, server = line
    calling = pool.submit(getattr(store, call), *arguments)
    server.next()
    server.ok(verb, server.last_id, *fields)
    with pytest.raises(RemoteProtocolError, match=text):
        calling.result(JOIN_S)


def test_what_the_server_says_of_itself_is_a_dictionary(line, pool):
    store, server = line
    asking = pool.submit(store.status, "peers")
    server.ok(V.STATUS, server.expect(V.STATUS, b"peers"), b'{"peers": []}')
    assert asking.result(JOIN_S) == {"peers": []}


def test_after_a_fork_nothing_is_sent(store, monkeypatch):
    monkeypatch.setattr(calls, "_forks", [calls._forks[0] + 1])
    for call in (lambda: store.get("k"), lambda: store.set("k", "v"), lambda: store.post_set("k", "v"), store.pipeline):
        with pytest.raises(ForkedStoreError, match=f"^this store belongs to process {os.getpid()}, process "):
            call()
