from __future__ import annotations

import os
import threading
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
    attend(store._client)
    attend(store._client)
    pong(server)
    pong(server)
    server.close()
    again = peer.meet(is_resumed=1)
    pong(again)
    (caller,) = [thread for thread in threading.enumerate() if thread.name == "rallypoint-session"]
    store.close()
    caller.join(JOIN_S)
    assert not caller.is_alive()


def test_a_session_that_somebody_reads_is_left_alone_until_nobody_does(line):
    store, server, _ = line
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.wait, ["k"])
        number = server.expect(SessionVerb.WAIT, [b"/k"])
        attend(store._client)
        looked = threading.Event()
        looks = []

        def look(charge, *, is_read):
            looks.append(is_read)
            looked.set()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(attendant._Charge, "note", look)
            assert looked.wait(JOIN_S)
        assert looks[0]
        server.ok(SessionVerb.WAIT, number)
        waiting.result(JOIN_S)
        pong(server)


def test_one_thread_looks_after_all_that_are_read_and_a_forked_child_has_one_of_its_own(line):
    store, server, _ = line
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.wait, ["k"])
        number = server.expect(SessionVerb.WAIT, [b"/k"])
        attend(store._client)
        assert len([thread for thread in threading.enumerate() if thread.name == "rallypoint-sessions"]) == 1
        before = attendant._rounds
        child = os.fork()
        if not child:
            os._exit(int(attendant._rounds is before))
        assert os.waitpid(child, 0)[1] == 0
        server.ok(SessionVerb.WAIT, number)
        waiting.result(JOIN_S)


def test_a_thread_that_cannot_be_started_is_tried_again(line, monkeypatch):
    store, server, _ = line
    to_refuse = ["rallypoint-sessions", "rallypoint-session", "rallypoint-session"]

    def start(thread):
        if thread.name in to_refuse:
            to_refuse.remove(thread.name)
            raise RuntimeError("can't start new thread")
        begin(thread)

    begin = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(attendant, "_rounds", attendant._Rounds())
    with pytest.raises(RuntimeError):
        attend(store._client)
    attend(store._client)
    pong(server)
    assert not to_refuse


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
