from __future__ import annotations

import math
import os
import select
import signal
import socket
import struct
import sys
import threading
import time

import pytest

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectionLostError, ReplyTimeoutError
from rallypoint.net.address import listen, local_endpoint
from rallypoint.net.connect import connect
from rallypoint.net.stream import WAIT_SLICE_S, Stream
from rallypoint.types import Endpoint

PATIENCE = 30.0
SOMEWHERE = Endpoint("node0", 29500)


@pytest.fixture
def ends():
    """Give a stream and the plain socket at its other end."""
    (listener,) = listen("127.0.0.1", 0)
    with listener:
        stream = connect(local_endpoint(listener), Deadline(PATIENCE))
        peer, _ = listener.accept()
    peer.settimeout(PATIENCE)
    yield stream, peer
    stream.close()
    peer.close()


def soon():
    return Deadline(PATIENCE)


def in_thread(target):
    thread = threading.Thread(target=target)
    thread.start()
    return thread


def test_what_is_sent_arrives_and_what_comes_back_is_cut_as_asked(ends):
    stream, peer = ends
    stream.send(b"ask", soon())
    assert peer.recv(100) == b"ask"
    peer.sendall(b"\x01abcdefgh")
    assert stream.receive_exactly(1, soon()) == b"\x01"
    assert stream.receive_exactly(0, soon()) == b""
    assert stream.receive_exactly(3, soon()) == b"abc"
    peer.sendall(b"ijk")
    assert stream.receive_exactly(8, soon()) == b"defghijk"


def test_a_stream_that_spins_sleeps_in_the_end(ends):
    stream, peer = ends
    stream.spin_us = 50
    peer.sendall(b"there")
    assert stream.receive_exactly(5, soon()) == b"there"
    timer = threading.Timer(0.02, peer.sendall, [b"late"])
    timer.start()
    assert stream.receive_exactly(4, soon()) == b"late"
    timer.join()


def test_a_detached_stream_is_closed_and_its_connection_is_not(ends):
    stream, peer = ends
    fd = stream.detach()
    assert stream.fileno() == -1
    stream.close()
    with socket.socket(fileno=fd) as sock:
        sock.sendall(b"still here")
        assert peer.recv(100) == b"still here"


def test_a_stream_may_be_shown_with_other_ends_than_its_sockets():
    ours, theirs = socket.socketpair()
    with theirs:
        stream = Stream(ours, SOMEWHERE, ends=(Endpoint("::1", 1), Endpoint("::1", 2)))
        assert (stream.local, stream.peer) == (Endpoint("::1", 1), Endpoint("::1", 2))
        stream.close()


def test_one_reply_in_parts_costs_one_system_call(ends):
    stream, peer = ends
    peer.sendall(b"\x00" + struct.pack("<Q", 5) + b"value")
    calls = []
    real = stream._receive
    stream._receive = lambda *args: calls.append(args) or real(*args)
    parts = [stream.receive_exactly(size, soon()) for size in (1, 8, 5)]
    assert parts == [b"\x00", struct.pack("<Q", 5), b"value"]
    assert len(calls) == 1


@pytest.mark.parametrize("size", [16384, 16385, 3_000_000])
def test_large_values_arrive_whole_however_they_are_cut(ends, size):
    stream, peer = ends
    value = os.urandom(size)

    def feed():
        for start in range(0, size, 50_001):
            peer.sendall(value[start : start + 50_001])
        peer.sendall(b"rest")

    feeder = in_thread(feed)
    assert stream.receive_exactly(size, soon()) == value
    assert stream.receive_exactly(4, soon()) == b"rest"
    feeder.join()


def test_large_requests_are_sent_whole_to_a_slow_reader(ends):
    stream, peer = ends
    request = os.urandom(8_000_000)
    got = bytearray()

    def read():
        while len(got) < len(request):
            got.extend(peer.recv(100_000))

    reader = in_thread(read)
    stream.send(request, soon())
    reader.join()
    assert got == request


def test_a_deadline_ends_a_read_and_loses_nothing(ends):
    stream, peer = ends
    peer.sendall(b"abc")
    deadline = Deadline(0.2)
    with pytest.raises(ReplyTimeoutError, match=r"did not answer within 0\.2") as caught:
        stream.receive_exactly(5, deadline)
    assert deadline.has_passed()
    assert caught.value.waited_s >= 0.2
    assert caught.value.endpoint == stream.endpoint
    peer.sendall(b"de")
    assert stream.receive_exactly(5, soon()) == b"abcde"


def test_a_deadline_in_a_large_read_loses_nothing(ends):
    stream, peer = ends
    value = os.urandom(100_000)
    peer.sendall(value[:70_000])
    with pytest.raises(ReplyTimeoutError):
        stream.receive_exactly(100_000, Deadline(0.15))
    peer.sendall(value[70_000:])
    assert stream.receive_exactly(100_000, soon()) == value


def test_a_passed_deadline_still_gives_what_is_there(ends):
    stream, peer = ends
    peer.sendall(b"abcd")
    assert stream.receive_exactly(2, soon()) == b"ab"
    peer.sendall(b"ef")
    assert stream.receive_exactly(2, Deadline(-1)) == b"cd"
    stream.send(b"x", Deadline(0))
    assert peer.recv(1) == b"x"
    assert stream.receive_exactly(2, Deadline(0)) == b"ef"
    with pytest.raises(ReplyTimeoutError):
        stream.receive_exactly(1, Deadline(0))


def test_a_deadline_ends_a_write_to_a_peer_that_does_not_read(ends):
    stream, _ = ends
    with pytest.raises(ReplyTimeoutError, match="did not take a request"):
        stream.send(bytes(64 * 1024 * 1024), Deadline(0.2))


def test_sending_at_once_takes_what_there_is_room_for_and_says_how_much(ends):
    stream, peer = ends
    message = bytes(64 * 1024 * 1024)
    sent = stream.send_at_once(message)
    assert 0 < sent < len(message)
    while stream.send_at_once(message):
        pass
    assert stream.send_at_once(message) == 0
    assert peer.recv(1) == b"\x00"


def test_an_infinite_deadline_waits(ends):
    stream, peer = ends
    threading.Timer(3 * WAIT_SLICE_S, lambda: peer.sendall(b"late")).start()
    assert stream.receive_exactly(4, Deadline(math.inf)) == b"late"


def test_the_end_of_the_stream_is_a_lost_connection_in_torchs_words(ends):
    stream, peer = ends
    peer.sendall(b"half")
    peer.close()
    with pytest.raises(ConnectionLostError, match=r"Failed to recv, got 0 bytes\. Connection was likely") as caught:
        stream.receive_exactly(5, soon())
    assert caught.value.endpoint == stream.endpoint
    with pytest.raises(ConnectionLostError):
        stream.receive_exactly(5, Deadline(0.01))


def test_a_reset_is_a_lost_connection_in_torchs_words(ends):
    stream, peer = ends
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    with pytest.raises(ConnectionLostError, match="Connection reset by peer") as caught:
        stream.receive_exactly(1, soon())
    assert isinstance(caught.value.__cause__, ConnectionResetError)
    with pytest.raises(ConnectionLostError, match="Broken pipe"):
        stream.send(b"x", soon())
    with pytest.raises(ConnectionLostError):
        stream.send(bytes(64 * 1024 * 1024), soon())


def test_closing_from_another_thread_ends_a_wait(ends):
    stream, _ = ends
    threading.Timer(0.1, stream.close).start()
    with pytest.raises(ConnectionLostError):
        stream.receive_exactly(1, Deadline(math.inf))
    with pytest.raises(ConnectionLostError):
        stream.receive_exactly(1, Deadline(0.01))
    stream.close()
    assert stream.fileno() == -1
    assert "closed" in repr(stream)


@pytest.mark.parametrize("deadline_s", [math.inf, 20.0])
def test_ctrl_c_ends_a_wait_at_once(ends, deadline_s):
    stream, _ = ends
    sent = []

    def interrupt():
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Timer(0.1, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        stream.receive_exactly(1, Deadline(deadline_s))
    assert time.monotonic() - sent[0] < 5.0  # the deadline is far later


def test_a_signal_does_not_lengthen_a_wait(ends):
    stream, _ = ends
    ticks = []
    before = signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    end_of_patience = threading.Timer(PATIENCE / 2, lambda: signal.setitimer(signal.ITIMER_REAL, 0))
    end_of_patience.start()
    try:
        with pytest.raises(ReplyTimeoutError) as caught:
            stream.receive_exactly(1, Deadline(0.3))
    finally:
        end_of_patience.cancel()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ticks
    assert caught.value.waited_s < 5.0


def test_a_signals_handler_may_wait_amid_a_wait(ends):
    stream, _ = ends
    outcomes = []
    patience_at = time.monotonic() + PATIENCE

    def wait(*_):
        try:
            outcomes.append(stream.wait(0.0))
        except BaseException as error:  # noqa: BLE001 - looked at below
            outcomes.append(error)

    before = signal.signal(signal.SIGALRM, wait)
    signal.setitimer(signal.ITIMER_REAL, WAIT_SLICE_S / 10, WAIT_SLICE_S / 10)
    try:
        while len(outcomes) < 10 and time.monotonic() < patience_at:
            stream.wait(patience_at)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(outcomes) >= 10
    assert set(outcomes) == {False}


def test_two_threads_may_wait_at_a_time(ends, pool):
    stream, _ = ends
    waits = [pool.submit(lambda: [stream.wait(math.inf) for _ in range(5)]) for _ in range(2)]
    assert [wait.result(PATIENCE) for wait in waits] == [[False] * 5] * 2


def test_waiting_lets_other_threads_run(ends):
    stream, peer = ends

    def answer():
        total = sum(range(100_000))
        peer.sendall(struct.pack("<Q", total))

    in_thread(answer)
    assert struct.unpack("<Q", stream.receive_exactly(8, soon())) == (sum(range(100_000)),)


def test_a_forked_child_that_closes_its_copy_leaves_the_connection_alone(ends):
    stream, peer = ends
    stream._owner_pid -= 1  # as a child sees it
    copy = os.dup(stream.fileno())
    stream.close()
    with socket.socket(fileno=copy) as still_open:
        still_open.sendall(b"alive")
        assert peer.recv(5) == b"alive"


def test_small_messages_are_not_delayed_and_dead_machines_noticed(ends):
    stream, _ = ends
    option = stream._sock.getsockopt
    assert option(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_peer_that_reset_the_connection_is_named_as_the_caller_did(ends):
    stream, peer = ends
    endpoint, local = stream.endpoint, stream.local
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    with pytest.raises(ConnectionLostError):
        stream.receive_exactly(1, soon())
    assert (stream.local, stream.peer) == (local, endpoint)


def test_both_ends_are_named_by_address(ends):
    stream, peer = ends
    assert stream.local == Endpoint(*peer.getpeername())
    assert stream.peer == Endpoint(*peer.getsockname())


def test_a_stream_takes_over_a_socket_with_a_timeout_of_its_own():
    ours, theirs = socket.socketpair()
    ours.settimeout(0.001)
    stream = Stream(ours, SOMEWHERE)
    with theirs:
        threading.Timer(0.1, lambda: theirs.send(b"x")).start()
        assert stream.receive_exactly(1, soon()) == b"x"
    stream.close()


def test_what_comes_may_be_put_where_it_belongs(ends):
    stream, peer = ends
    room = memoryview(bytearray(10))
    assert stream.take_into(room) == 0
    peer.sendall(b"\x01abcdefgh")
    assert stream.receive_exactly(1, soon()) == b"\x01"
    assert stream.take_into(room[:3]) == 3  # read ahead
    assert stream.take_into(room[3:]) == 5
    assert bytes(room) == b"abcdefgh\0\0"
    peer.close()
    stream.wait(math.inf)
    with pytest.raises(ConnectionLostError):
        stream.take_into(room)


def test_less_than_is_awaited_is_no_news(ends):
    stream, peer = ends
    stream.await_at_least(1000)
    peer.sendall(b"x" * 999)
    if sys.platform == "linux":
        assert not select.select([stream], [], [], 0.05)[0]
    peer.sendall(b"x")
    assert select.select([stream], [], [], PATIENCE)[0]
    stream.await_at_least(1)
    assert len(stream.take(0, is_patient=False)) == 1000
    peer.sendall(b"y")
    assert select.select([stream], [], [], PATIENCE)[0]
