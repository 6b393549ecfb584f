from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.session_peer import SessionPeer
from tests.support.stores import HOST, JOIN_S, making_stores

from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.server import native as server_native


@pytest.fixture
def make(monkeypatch):
    monkeypatch.setattr(server_native, "native", lambda: None)
    with making_stores() as build:
        yield build


def test_a_store_that_speaks_c10d_has_no_sessions(make):
    store = make(dialect="c10d")
    assert not store.has_sessions()
    assert store.session_ends_at() == math.inf
    for call in (lambda: store.read("k"), lambda: store.meet("b", 0, 1), store.pipeline, store.status):
        with pytest.raises(NotImplementedError, match=r"TCPStore speaks c10d with it: has_sessions\(\) tells"):
            call()
    store.post_set("k", "v")
    assert store.get("k") == b"v"


def test_both_dialects_lead_to_the_same_keys(make):
    plain = make(dialect="c10d")
    store = make(HOST, plain.port, dialect="session")
    assert store.has_sessions()
    assert store.session_ends_at() == math.inf
    plain.set("k", "v")
    assert plain.check(["k"])
    assert store.read("k").value == b"v"
    store.post_set("k", "w")
    assert store.check(["k"])
    assert plain.get("k") == b"w"


def test_a_meeting_has_its_own_timeout_or_the_stores(make):
    store = make(dialect="session")
    store.set_timeout(0)
    for timeout in (None, 0.01):
        with pytest.raises(TimeoutError):
            store.meet("b", 0, 2, timeout=timeout)
    with pytest.raises(ValueError, match="timeout must be 0 or more"):
        store.meet("b", 0, 2, timeout=-1)
    with pytest.raises(ValueError, match="ttl must be 0 or more"):
        store.lease_grant(-1)
    with pytest.raises(ValueError, match="ttl must be finite; None is as long as the session"):
        store.lease_grant(float("inf"))
    with pytest.raises(TypeError, match="rank must be an int, not float"):
        store.meet("b", 0.0, 2)
    with pytest.raises(TypeError, match="world_size must be an int, not str"):
        store.exchange("b", 0, "2", "v")
    for rank, world_size in ((-1, 2), (0, 0)):
        with pytest.raises(ValueError, match=rf"rank must be 0 or more .*, not {rank} and {world_size}$"):
            store.meet("b", rank, world_size)


def test_a_session_asks_for_the_time_that_its_store_was_given_and_so_do_clones_and_new_connections():
    with making_stores() as make, SessionPeer() as peer, ThreadPoolExecutor(1) as pool:
        making = pool.submit(make, HOST, peer.port, dialect="session", session_timeout=0.25)
        server = peer.meet(timeout_ms=250)
        store = making.result(JOIN_S)
        assert store._client.trunk.granted_s == 0.25
        cloning = pool.submit(store.clone)
        other = peer.meet(timeout_ms=250)
        twin = cloning.result(JOIN_S)
        server.close()
        asking = pool.submit(store.add, "k", 1)
        again = peer.meet(is_resumed=1, timeout_ms=250)
        again.ok(SessionVerb.ADD, again.expect(SessionVerb.ADD, b"/k", 1), 1)
        assert asking.result(JOIN_S) == 1
        assert [each.hello[-1] for each in (server, other, again)] == [250] * 3
        twin.close()


def test_a_sessions_time_has_its_bounds(make):
    with pytest.raises(ValueError, match="session_timeout must be 86400 seconds at most, not inf"):
        make(session_timeout=float("inf"))
