from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.raw_server import LOOP_TWINS, use_twin
from tests.support.scripted_peer import ScriptedPeer
from tests.support.session_peer import SessionConversation
from tests.support.stores import HOST, JOIN_S, making_stores

from rallypoint.errors import AuthenticationError
from rallypoint.protocol.spec import CloseReason
from rallypoint.store.connection import connect
from rallypoint.types import Endpoint

TOKEN = "a-token-of-this-job"


@pytest.fixture
def locked(monkeypatch):
    """Give the port of a server that wants a token, which the environment does not name any more."""
    with making_stores() as build:
        monkeypatch.setenv("RALLYPOINT_TOKEN", TOKEN)
        monkeypatch.delenv("RALLYPOINT_TOKEN_FILE", raising=False)
        owner = build(dialect="session")
        monkeypatch.delenv("RALLYPOINT_TOKEN")
        yield owner.port


@pytest.fixture(params=LOOP_TWINS, autouse=True)
def each_twin(request, monkeypatch):
    use_twin(request.param, monkeypatch)
    monkeypatch.setenv("RALLYPOINT_UNIX", "0")


@pytest.mark.parametrize(
    "options", [{"dialect": name} for name in ("auto", "session", "c10d")] + [{"use_libuv": False}]
)
def test_whoever_has_no_token_is_told_to_set_it_at_once(locked, options):
    with (
        making_stores() as build,
        pytest.raises(AuthenticationError, match=r"RALLYPOINT_TOKEN or RALLYPOINT_TOKEN_FILE"),
    ):
        build(HOST, locked, **options)


def test_who_has_a_token_but_speaks_c10d_is_told_to_speak_the_other(locked, monkeypatch):
    monkeypatch.setenv("RALLYPOINT_TOKEN", TOKEN)
    with making_stores() as build, pytest.raises(AuthenticationError, match=r": set the dialect 'session'"):
        build(HOST, locked, dialect="c10d")


@pytest.mark.parametrize("says_welcome", [True, False])
def test_a_server_that_hangs_up_for_another_reason_is_tried_again(says_welcome):
    with ScriptedPeer() as peer, ThreadPoolExecutor(1) as pool:
        connecting = pool.submit(connect, Endpoint(HOST, peer.port), JOIN_S)
        peer.accept(shakes_hands=False).sock.close()
        asked = SessionConversation(peer.accept(shakes_hands=False).sock)
        if says_welcome:
            asked.welcome()
            asked.expect_end()
        else:
            asked.say_last(CloseReason.TOO_MANY_CONNECTIONS, "so many are connected")
        peer.accept().close()
        connecting.result(JOIN_S).close()
