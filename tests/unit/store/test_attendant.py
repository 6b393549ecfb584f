from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.session_peer import SessionPeer
from tests.support.stores import HOST, JOIN_S, making_stores

from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.store import attendant
from rallypoint.store.attendant import PERIOD_S, PERIOD_S_MIN, attend, period_s
from rallypoint.store.reach import SESSION_TIMEOUT_S


@pytest.fixture
def line(monkeypatch):
    """A store, and its server played by hand."""
    monkeypatch.setattr(attendant, "PERIOD_S", 0.01)
    with making_stores() as make, SessionPeer() as peer, ThreadPoolExecutor(1) as pool:
        making = pool.submit(make, HOST, peer.port, dialect="session")
        server = peer.meet()
        yield making.result(JOIN_S), server, peer


def pong(server):
    server.ok(SessionVerb.PING, server.expect(SessionVerb.PING, 0), 0)


def test_it_calls_often_enough():
    assert PERIOD_S < SESSION_TIMEOUT_S / 2
    assert period_s(SESSION_TIMEOUT_S) == period_s(600.0) == PERIOD_S
    assert period_s(1.0) == 0.25
    assert period_s(0.1) == period_s(0.0) == PERIOD_S_MIN


def test_a_session_that_nobody_uses_is_kept_over_a_new_connection_and_ends_with_its_client(line):
    store, server, peer = line
    thread = attend(store._client)
    assert attend(store._client) is None
    pong(server)
    pong(server)
    server.close()
    again = peer.meet(is_resumed=1)
    pong(again)
    store.close()
    thread.join(JOIN_S)
    assert not thread.is_alive()


def test_a_lease_without_a_time_has_its_session_attended(line, monkeypatch):
    store, server, _ = line
    attended = []
    monkeypatch.setattr("rallypoint.store.tcp_sessions.attend", attended.append)
    with ThreadPoolExecutor(1) as pool:
        for ttl, milliseconds in ((5, 5000), (None, 0)):
            granting = pool.submit(store.lease_grant, ttl)
            number = server.expect(SessionVerb.LEASE_GRANT, milliseconds)
            server.ok(SessionVerb.LEASE_GRANT, number, 1)
            assert granting.result(JOIN_S) == 1
    assert attended == [store._client]
