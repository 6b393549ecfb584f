from __future__ import annotations

import socket

import pytest

from rallypoint.errors import ConnectionLostError, DistNetworkError, SessionLostError, UnreachableError
from rallypoint.net.stream import Stream
from rallypoint.protocol.session.auth import Welcome
from rallypoint.protocol.session.client import Request
from rallypoint.protocol.session.codec import REQUEST_HEAD_SIZE, encode_closing
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.protocol.spec import CloseReason
from rallypoint.store.uplink import Link, Uplink
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
    assert uplink.link is None
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


def test_nobody_listening_is_the_end_only_of_what_ends_with_its_server(connect):
    for data, is_end in ((b"l" * 16, True), (b"d" * 16, False)):
        link, _ = connect(WELCOME._replace(data=data, timeout_ms=0))
        uplink = Uplink(ENDPOINT, link)
        uplink.lose(link, ConnectionLostError("gone"))
        uplink.miss(ConnectionLostError("reset"))
        assert uplink.end is None
        while uplink.end is None and uplink.attempts < 1000:
            uplink.miss(DistNetworkError("refused"))
        assert (uplink.end is not None) is is_end


def test_who_is_gone_for_good_is_told_so(connect):
    link, _ = connect()
    uplink = Uplink(ENDPOINT, link)
    uplink.fail(SessionLostError, "is gone")
    with pytest.raises(SessionLostError, match=r"^the server at node0:29500 is gone$"):
        uplink.check()
