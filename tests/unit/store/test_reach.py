from __future__ import annotations

import math
import os
import socket
from datetime import timedelta

import pytest
from tests.support.scripted_peer import ScriptedPeer
from tests.support.session_peer import LIFE, SESSION, SessionConversation, SessionPeer
from tests.support.stores import HOST, JOIN_S, making_stores

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectTimeoutError, DistNetworkError
from rallypoint.net.address import listen_unix
from rallypoint.protocol.session.spec import SESSION_TIMEOUT_MS_MAX, SessionVerb
from rallypoint.server import native as server_native
from rallypoint.store import reach
from rallypoint.store.reach import (
    DEFAULT_DIALECT,
    SESSION_TIMEOUT_S,
    Reacher,
    first_endpoint,
    other_endpoints,
    session_time_s,
    wanted_dialect,
)
from rallypoint.types import Endpoint

LONG_S = 60.0


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("RALLYPOINT_DIALECT", "RALLYPOINT_TOKEN", "RALLYPOINT_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_the_dialect_is_the_callers_or_the_environments_or_ours(monkeypatch):
    assert wanted_dialect(None, use_libuv=True) == DEFAULT_DIALECT
    monkeypatch.setenv("RALLYPOINT_DIALECT", "session")
    assert wanted_dialect(None, use_libuv=True) == "session"
    assert wanted_dialect("auto", use_libuv=True) == "auto"
    assert wanted_dialect("session", use_libuv=False) == "c10d"
    with pytest.raises(ValueError, match="dialect must be 'auto', 'session' or 'c10d', not 'torch'"):
        wanted_dialect("torch", use_libuv=True)
    monkeypatch.setenv("RALLYPOINT_DIALECT", "x")
    with pytest.raises(ValueError, match="RALLYPOINT_DIALECT must be"):
        wanted_dialect(None, use_libuv=True)
    assert SESSION_TIMEOUT_S * 1000 <= SESSION_TIMEOUT_MS_MAX


def test_how_long_a_session_outlives_its_connection_is_the_callers_or_the_default():
    assert session_time_s(None) == SESSION_TIMEOUT_S
    assert session_time_s(timedelta(milliseconds=100)) == 0.1
    assert session_time_s(0) == 0
    assert session_time_s(24 * 3600) == 24 * 3600
    with pytest.raises(ValueError, match="session_timeout must be 86400 seconds at most, not inf"):
        session_time_s(math.inf)
    with pytest.raises(ValueError, match="session_timeout must be 0 or more seconds"):
        session_time_s(-1)
    with pytest.raises(TypeError, match="session_timeout"):
        session_time_s("10")


def test_a_host_name_may_name_several_places():
    assert first_endpoint("node0", 1) == ("node0", 1)
    assert other_endpoints("node0", 1) == ()
    assert first_endpoint("node0, node1:2,[::1]:3", 1) == ("node0", 1)
    assert other_endpoints("node0, node1:2,[::1]:3", 1) == (("node1", 2), ("::1", 3))
    with pytest.raises(ValueError, match="names no host"):
        other_endpoints("node0,", 1)


def test_the_hello_says_who_calls_and_for_how_long(pool):
    with SessionPeer() as peer:
        opening = pool.submit(Reacher([Endpoint(HOST, peer.port)]).open, LONG_S, may_be_plain=True)
        server = peer.meet()
        link = opening.result(JOIN_S)
        link.stream.close()
        version, session, identity, label, nonce, timeout_ms = server.hello
        assert (version, session, identity, timeout_ms) == (1, b"", b"", 10_000)
        assert label.endswith(f" pid {os.getpid()}".encode())
        assert len(nonce) == 16
        assert (link.welcome.session, link.welcome.life) == (SESSION, LIFE)


def test_a_server_that_closes_without_a_word_speaks_c10d(pool):
    with ScriptedPeer() as peer:
        opening = pool.submit(Reacher([Endpoint(HOST, peer.port)]).open, LONG_S, may_be_plain=True)
        first = peer.accept(shakes_hands=False)
        assert first.sock.recv(4) == b"RPS1"
        first.close()
        second = peer.accept()
        assert opening.result(JOIN_S) is None
        second.expect_end()


def test_a_server_that_is_silent_but_answers_c10d_speaks_only_that(pool):
    with ScriptedPeer() as peer:
        opening = pool.submit(Reacher([Endpoint(HOST, peer.port)]).open, LONG_S, may_be_plain=True)
        deaf = peer.accept(shakes_hands=False)
        assert deaf.sock.recv(4) == b"RPS1"
        peer.accept()
        peer.accept()
        assert opening.result(JOIN_S) is None


def test_a_server_that_is_merely_slow_is_heard_out(pool, monkeypatch):
    monkeypatch.setattr(reach, "SILENCE_S", 0.02)
    with SessionPeer() as peer:
        opening = pool.submit(Reacher([Endpoint(HOST, peer.port)]).open, LONG_S, may_be_plain=True)
        server = SessionConversation(peer.accept(shakes_hands=False).sock)
        asked = peer.accept(shakes_hands=False)
        server.welcome()
        asked.shake_hands()
        link = opening.result(JOIN_S)
        assert link is not None
        link.stream.close()


def test_who_wants_a_session_does_not_fall_back(pool):
    with ScriptedPeer() as peer:
        opening = pool.submit(Reacher([Endpoint(HOST, peer.port)]).open, 0.0, may_be_plain=False)
        peer.accept(shakes_hands=False).close()
        with pytest.raises(ConnectTimeoutError, match="timed out after 0ms"):
            opening.result(JOIN_S)


def test_several_places_are_tried_in_turn_the_last_that_answered_first(pool):
    with ScriptedPeer() as nobody, SessionPeer() as peer:
        nobody.listener.close()
        reacher = Reacher([Endpoint(HOST, nobody.port), Endpoint(HOST, peer.port)])
        for session in (b"", SESSION):
            calling = pool.submit(reacher, session, Deadline(LONG_S))
            assert peer.meet().hello[1] == session
            calling.result(JOIN_S).stream.close()
        assert reacher._endpoints[0].port == peer.port
        peer.listener.close()
        with pytest.raises(DistNetworkError, match="connection refused"):
            reacher(b"", Deadline(LONG_S))


def test_on_the_servers_own_machine_the_session_is_under_the_local_name(monkeypatch):
    monkeypatch.setattr(server_native, "native", lambda: None)
    with making_stores() as make:
        store = make(dialect="session")
        reacher = Reacher([Endpoint(HOST, store.port)])
        link = reacher(b"", Deadline(LONG_S))
        assert link.stream._sock.family.name == "AF_UNIX"
        assert link.stream.peer == (HOST, store.port)
        again = reacher(link.welcome.session, Deadline(LONG_S))
        assert again.welcome.is_resumed
        assert again.welcome.session == link.welcome.session
        link.stream.close()
        again.stream.close()


def test_another_server_under_the_local_name_is_left_alone(pool, monkeypatch, tmp_path):
    other = listen_unix(str(tmp_path / "other"))

    def call(_):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(tmp_path / "other"))
        return sock

    monkeypatch.setattr(reach, "call_locally", call)
    monkeypatch.setattr(reach, "has_local_names", lambda: True)

    def be_another():
        with other.accept()[0] as sock:
            sock.recv(1000)

    with other, SessionPeer() as peer:
        serving = pool.submit(be_another)
        calling = pool.submit(Reacher([Endpoint(HOST, peer.port)]), SESSION, Deadline(LONG_S))
        server = peer.meet()
        assert server.hello[1] == b""
        serving.result(JOIN_S)
        assert server.next() == (SessionVerb.BYE,)
        server.reply(b"\x09\0\0\0\0" + bytes(8))
        server.welcome(opening=b"", is_resumed=1)
        assert server.hello[1] == SESSION
        link = calling.result(JOIN_S)
        assert link.welcome.is_resumed
        link.stream.close()


def test_a_master_is_reached_at_its_own_address_though_its_name_must_mean_something(pool):
    with SessionPeer() as peer:
        reacher = Reacher([Endpoint("localhost", 1)], via=Endpoint(HOST, peer.port))
        calling = pool.submit(reacher, b"", Deadline(LONG_S))
        peer.meet()
        calling.result(JOIN_S).stream.close()
        with pytest.raises(DistNetworkError):
            Reacher([Endpoint("no-such-host.invalid", 1)], via=Endpoint(HOST, peer.port))(b"", Deadline(0.3))
