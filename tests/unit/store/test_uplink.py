from __future__ import annotations

import math
import socket
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest
from tests.support.raw_server import LOOP_TWINS, use_twin
from tests.support.session_peer import SessionPeer
from tests.support.stores import HOST, JOIN_S, making_stores

from rallypoint.errors import (
    ConnectionLostError,
    ConnectTimeoutError,
    DistNetworkError,
    SessionLostError,
    UnreachableError,
)
from rallypoint.net.stream import Stream
from rallypoint.protocol.session.auth import Welcome
from rallypoint.protocol.session.client import Request
from rallypoint.protocol.session.codec import REQUEST_HEAD_SIZE, encode_closing
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.protocol.spec import CloseReason
from rallypoint.store import uplink as uplink_module
from rallypoint.store.uplink import GONE_S, Link, Uplink
from rallypoint.types import Endpoint

ENDPOINT = Endpoint("node0", 29500)
WELCOME = Welcome(b"s" * 16, 0, b"d" * 16, b"l" * 16, 10_000, 1)
BIG = (b"/k", bytes(4 << 20))


@pytest.fixture
def connect():
    """Give a function that makes a link, and the server's end of it."""
    ends = []

    def make(welcome=WELCOME):
        ours, theirs = socket.socketpair()
        link = Link(Stream(ours, ENDPOINT), welcome)
        theirs.settimeout(60)
        ends.append((link, theirs))
        return link, theirs

    yield make
    for link, theirs in ends:
        link.stream.close()
        theirs.close()


def read(sock, size):
    data = b""
    while len(data) < size:
        data += sock.recv(size - len(data))
    return data


def test_what_the_system_does_not_take_waits_in_order(connect):
    link, server = connect()
    uplink = Uplink(ENDPOINT, link)
    uplink.begin(Request(SessionVerb.SET), BIG)
    assert uplink.outbox
    uplink.begin(Request(SessionVerb.PING), (1,))
    assert link.is_sound
    size = sum(map(len, uplink.outbox))
    while uplink.outbox:
        server.recv(1 << 20)
        uplink.flush()
    assert size > 0


def test_a_step_that_was_cut_in_two_costs_the_connection(connect):
    link, server = connect()
    uplink = Uplink(ENDPOINT, link)
    link.is_sound = False
    uplink.check()
    assert uplink.link is None
    assert server.recv(1) == b""
    with pytest.raises(UnreachableError, match="a call was interrupted amid a message"):
        raise uplink.unreachable(1.0)


def test_a_begun_request_goes_over_the_next_connection(connect):
    link, server = connect()
    uplink = Uplink(ENDPOINT, link)
    server.close()
    for number in range(3):
        uplink.begin(Request(SessionVerb.PING), (number,))
    uplink.lose(link, ConnectionLostError("read to its end"))
    again, server = connect(WELCOME._replace(is_resumed=1))
    assert uplink.adopt(again) == []
    assert len(read(server, 3 * (REQUEST_HEAD_SIZE + 4))) == 3 * (REQUEST_HEAD_SIZE + 4)
    assert uplink.link is again


def test_losing_a_connection_that_is_not_in_use_any_more_changes_nothing(connect):
    link, _ = connect()
    uplink = Uplink(ENDPOINT, link)
    uplink.lose(connect()[0], ConnectionLostError("old"))
    assert uplink.link is link


def test_a_connection_that_comes_after_the_end_is_closed(connect):
    link, _ = connect()
    uplink = Uplink(ENDPOINT, link)
    uplink.lose(link, ConnectionLostError("gone"))
    uplink.end = (ConnectionLostError, "it is late")
    again, server = connect()
    assert uplink.adopt(again) == []
    assert server.recv(1) == b""
    with pytest.raises(ConnectionLostError, match=r"^it is late$"):
        uplink.check()


def test_data_that_last_may_be_back_after_the_servers_end(connect):
    link, _ = connect()
    uplink = Uplink(ENDPOINT, link)
    uplink.session.receive(encode_closing(CloseReason.ENDED, "the server stops"))
    uplink.lose(link, ConnectionLostError("gone"))
    assert uplink.end is None


def test_who_takes_nothing_any_more_may_still_have_said_why(connect):
    link, server = connect(WELCOME._replace(data=WELCOME.life))
    uplink = Uplink(ENDPOINT, link)
    server.send(encode_closing(CloseReason.ENDED, "the server stops"))
    server.close()
    uplink.begin(Request(SessionVerb.PING), (1,))
    uplink.flush()
    assert link.is_sound
    uplink.session.receive(link.stream.take(0, is_patient=False))
    uplink.lose(link, ConnectionLostError("read to its end"))
    with pytest.raises(SessionLostError, match=r"has ended, and what it held with it: the server stops$"):
        uplink.check()


def refusal(cause):
    error = DistNetworkError("no connection")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("data", "error", "after_s"),
    [
        (WELCOME.life, refusal(ConnectionRefusedError()), GONE_S),
        (WELCOME.life, refusal(FileNotFoundError()), GONE_S),
        (WELCOME.life, refusal(OSError("no route")), 10.0),
        (WELCOME.life, DistNetworkError("too many connections"), None),
        (WELCOME.life, ConnectionLostError("reset"), None),
        (WELCOME.data, refusal(ConnectionRefusedError()), None),
    ],
)
def test_nobody_listening_is_the_end_only_of_what_ends_with_its_server(connect, monkeypatch, data, error, after_s):
    now = 100.0
    monkeypatch.setattr(uplink_module, "monotonic", lambda: now)
    link, _ = connect(WELCOME._replace(data=data))
    uplink = Uplink(ENDPOINT, link)
    uplink.lose(link, ConnectionLostError("gone"))
    while uplink.end is None and now < 200.0:
        uplink.miss(error)
        now += 0.25
    assert (None if uplink.end is None else now - 100.0) == (None if after_s is None else after_s + 0.5)


def test_an_answer_of_any_kind_begins_the_count_of_refusals_again(connect, monkeypatch):
    now = 100.0
    monkeypatch.setattr(uplink_module, "monotonic", lambda: now)
    link, _ = connect(WELCOME._replace(data=WELCOME.life))
    uplink = Uplink(ENDPOINT, link)
    uplink.lose(link, ConnectionLostError("gone"))
    refused = refusal(ConnectionRefusedError())
    for error in (refused, ConnectTimeoutError("silent", endpoint=ENDPOINT, waited_s=1.0, attempts=1), refused) * 5:
        uplink.miss(error)
        now += 0.75
    assert uplink.end is None


@pytest.fixture(params=LOOP_TWINS)
def make(request, monkeypatch):
    use_twin(request.param, monkeypatch)
    with making_stores() as build:
        yield lambda *arguments, **options: build(*arguments, dialect="session", **options)


@pytest.mark.parametrize("is_amid", [True, False])
def test_clients_of_a_server_in_memory_hear_of_its_end(make, is_amid):
    owner = make()
    client = make(HOST, owner.port)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.get, "never") if is_amid else None
        while is_amid and owner.status()["now"]["waiting"] == 0:
            pass
        owner.close()
        for _ in range(2):
            with pytest.raises(SessionLostError, match=r"has ended, and what it held with it: the server stops$"):
                waiting.result(JOIN_S) if waiting else client.get("never")
            waiting = None


def test_clients_of_a_durable_server_come_back_after_its_end():
    with SessionPeer() as peer, making_stores() as build, ThreadPoolExecutor(1) as pool:
        making = pool.submit(build, HOST, peer.port, dialect="session")
        before = peer.meet()
        store = making.result(JOIN_S)
        adding = pool.submit(store.add, "n", 1)
        number = before.expect(SessionVerb.ADD, b"/n", 1)
        before.say_last(CloseReason.ENDED, "the server stops")
        again = peer.meet(is_resumed=1)
        assert again.expect(SessionVerb.ADD, b"/n", 1) == number
        again.ok(SessionVerb.ADD, number, 1)
        assert adding.result(JOIN_S) == 1


def test_who_is_gone_for_good_is_told_so(connect):
    link, _ = connect()
    uplink = Uplink(ENDPOINT, link)
    uplink.fail(SessionLostError, "is gone")
    with pytest.raises(SessionLostError, match=r"^the server at node0:29500 is gone$"):
        uplink.check()


def test_a_session_may_end_its_time_after_the_first_attempt_to_connect_again(connect):
    link, _ = connect()
    uplink = Uplink(ENDPOINT, link)
    assert uplink.ends_at == math.inf
    uplink.lose(link, ConnectionLostError("reset", endpoint=ENDPOINT))
    assert uplink.ends_at == math.inf
    before = monotonic()
    uplink.attempt()
    ends_at = uplink.ends_at
    assert before <= ends_at - uplink.granted_s <= monotonic()
    uplink.miss(ConnectTimeoutError("silent", endpoint=ENDPOINT, waited_s=1.0, attempts=1))
    uplink.attempt()
    assert uplink.ends_at == ends_at
    uplink.adopt(connect()[0])
    assert uplink.ends_at == math.inf


def test_where_nobody_listens_nobody_ends_a_session(connect):
    link, _ = connect()
    uplink = Uplink(ENDPOINT, link)
    uplink.lose(link, ConnectionLostError("reset", endpoint=ENDPOINT))
    uplink.attempt()
    uplink.miss(refusal(ConnectionRefusedError()))
    uplink.attempt()
    assert uplink.ends_at == math.inf
    again, _ = connect()
    uplink.adopt(again)
    uplink.lose(again, ConnectionLostError("reset", endpoint=ENDPOINT))
    uplink.attempt()
    assert uplink.ends_at < math.inf
