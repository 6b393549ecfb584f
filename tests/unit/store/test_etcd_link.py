"""One connection to a member: calls of any size, refusals, silence, and peers that speak something else."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectionLostError, DistNetworkError, RemoteProtocolError, ReplyTimeoutError
from rallypoint.net.connect import connect
from rallypoint.store import etcd_wire as wire
from rallypoint.store.etcd_heads import head_of
from rallypoint.store.etcd_link import GrpcError, Link
from rallypoint.types import Endpoint

SOON_S = 0.05
LONG_S = 30.0

PUT = head_of("KV/Put", "here", "", False)
RANGE = head_of("KV/Range", "here", "", False)


@pytest.fixture
def link(etcd):
    made = Link(connect(etcd.members[0].endpoint, Deadline(LONG_S)))
    yield made
    made.close()


@pytest.fixture
def told():
    """Give a link to a peer that answers whatever it hears with the bytes it is given."""
    listener = socket.create_server(("127.0.0.1", 0))
    links = []

    def make(answer: bytes, *, hangs_up: bool = False) -> Link:
        def serve():
            peer, _ = listener.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(answer)
                while not hangs_up and peer.recv(65536):
                    pass

        thread = threading.Thread(target=serve)
        thread.start()
        made = Link(connect(Endpoint(*listener.getsockname()), Deadline(LONG_S)))
        links.append((made, thread))
        return made

    yield make
    for made, thread in links:
        made.close()
        thread.join(LONG_S)
    listener.close()


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_536, 1_000_000])
def test_values_of_any_size_go_there_and_come_back(link, size):
    key, value = b"test-link/%d" % size, b"v" * size
    for _ in range(3):
        link.call(PUT, wire.put(key, value), Deadline(LONG_S))
        assert wire.read_range(link.call(RANGE, wire.range_of(key), Deadline(LONG_S))).entries[0].value == value
    assert link.is_usable


def test_more_than_a_window_of_answers_comes_over_one_connection(link):
    key = b"test-link/window"
    link.call(PUT, wire.put(key, b"v" * 1_000_000), Deadline(LONG_S))
    for _ in range(40):
        assert len(link.call(RANGE, wire.range_of(key), Deadline(LONG_S))) > 1_000_000


def test_a_refusal_has_etcds_words_and_leaves_the_connection_good(link):
    with pytest.raises(GrpcError, match="key is not provided") as caught:
        link.call(PUT, wire.put(b"", b""), Deadline(LONG_S))
    assert caught.value.code == 3
    link.call(PUT, wire.put(b"test-link/k", b"v"), Deadline(LONG_S))


def test_a_request_that_is_too_large_is_refused_not_lost(link):
    with pytest.raises(GrpcError, match=r"too large|larger than max"):
        link.call(PUT, wire.put(b"test-link/k", b"v" * 4_000_000), Deadline(LONG_S))


def test_a_silent_peer_costs_the_deadline(told):
    with pytest.raises(ReplyTimeoutError):
        told(b"").call(PUT, b"", Deadline(SOON_S))


def test_a_peer_that_hangs_up_is_a_lost_connection(told):
    with pytest.raises(ConnectionLostError):
        told(b"", hangs_up=True).call(PUT, b"", Deadline(LONG_S))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\xff\xff\xff\0\0\0\0\0\1",  # a frame of 16 MiB
        b"\0\0\1\1\4\0\0\0\1\xff",  # headers that are none
        b"\0\0\6\0\1\0\0\0\1\1\0\0\0\0\0",  # a compressed message
        b"\0\0\2\1\5\0\0\0\1\x88\x88",  # the end, without gRPC's status
        b"\0\0\2\0\x08\0\0\0\1\xff\0",  # more padding than frame
    ],
)
def test_a_peer_that_speaks_otherwise_is_found_out(told, answer):
    with pytest.raises(DistNetworkError) as caught:
        told(answer).call(PUT, b"", Deadline(LONG_S))
    assert isinstance(caught.value, RemoteProtocolError)


def test_a_stream_of_messages_goes_on_after_a_silence(link):
    link.open(head_of("Watch/Watch", "here", "", False, True), Deadline(LONG_S))
    link.post(wire.watch_create(1, b"test-link/none"), Deadline(LONG_S))
    assert wire.read_watch(link.next_message(Deadline(LONG_S))).is_created
    with pytest.raises(ReplyTimeoutError):
        link.next_message(Deadline(SOON_S))
    link.post(wire.watch_create(2, b"test-link/none"), Deadline(LONG_S))
    assert wire.read_watch(link.next_message(Deadline(LONG_S))).watch == 2


def test_a_ping_is_answered(link):
    link.open(head_of("Watch/Watch", "here", "", False, True), Deadline(LONG_S))
    link.post(wire.watch_create(1, b"test-link/none"), Deadline(LONG_S))
    link.next_message(Deadline(LONG_S))
    before = link.heard_at
    link.ping(Deadline(LONG_S))
    with pytest.raises(ReplyTimeoutError):
        link.next_message(Deadline(1.0))
    assert link.heard_at > before


@pytest.mark.parametrize(
    "frame",
    [b"\0\0\0\x09\0\0\0\0\1", b"\0\0\0\0\0\0\0\0\1", b"\0\0\0\x77\0\0\0\0\0"],
    ids=["empty headers", "empty data", "unknown frames"],
)
def test_a_peer_that_never_stops_sending_has_no_more_time_than_one_that_is_silent(frame):
    listener = socket.create_server(("127.0.0.1", 0))

    def serve():
        peer, _ = listener.accept()
        with peer, contextlib.suppress(OSError):
            peer.sendall(b"\0\0\1\1\0\0\0\0\1\x88" if frame[3] == 9 else b"")
            while True:
                peer.sendall(frame * 1000)

    thread = threading.Thread(target=serve)
    thread.start()
    link = Link(connect(Endpoint(*listener.getsockname()), Deadline(LONG_S)))
    ends = threading.Timer(LONG_S, link.close)  # were it without end, this test would not
    ends.start()
    try:
        with pytest.raises(ReplyTimeoutError, match="did not answer within"):
            link.call(RANGE, wire.range_of(b"k"), Deadline(SOON_S))
        assert ends.is_alive()
    finally:
        ends.cancel()
        link.close()
        listener.close()
        thread.join(LONG_S)


def test_a_message_that_is_too_large_is_refused_before_it_has_come(told):
    link = told(b"\0\0\1\1\4\0\0\0\1\x88" + b"\0\0\5\0\0\0\0\0\1\0\xff\xff\xff\xff")
    with pytest.raises(RemoteProtocolError, match="a message has 4294967295 bytes, the limit is"):
        link.call(RANGE, wire.range_of(b"k"), Deadline(LONG_S))
