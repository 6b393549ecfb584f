from __future__ import annotations

import contextlib
import os
import socket
import struct

import pytest

from rallypoint.net.address import listen, listen_unix
from rallypoint.server.connection import FLUSH_SIZE_MAX, OUTPUT_HIGH_SIZE, OUTPUT_LOW_SIZE, Connection
from rallypoint.server.vocabulary import Origin


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    theirs.settimeout(30)
    with ours, theirs:
        yield Connection(ours), theirs


def read(sock, size):
    data = b""
    while len(data) < size:
        data += sock.recv(size - len(data))
    return data


@pytest.mark.parametrize(
    "pieces",
    [
        [b"one"],
        [b"one", b"two", b"three"],
        [b"x" * 5000, b"", b"y" * 3],
        [bytes([number % 256]) for number in range(3000)],
    ],
)
def test_pieces_arrive_in_order_and_whole(ends, pieces):
    connection, theirs = ends
    connection.output.extend(pieces)
    while not connection.flush():
        pass
    assert read(theirs, sum(map(len, pieces))) == b"".join(pieces)
    assert not connection.output
    assert not connection.is_blocked


def test_nothing_to_send_is_sent_at_once(ends):
    connection, _ = ends
    assert connection.flush()


def test_a_few_small_pieces_take_one_call(ends):
    connection, _ = ends
    calls = []
    real = connection.send
    connection.send = lambda data: calls.append(data) or real(data)
    connection.output.extend([b"a", b"b", b"c"])
    assert connection.flush()
    assert calls == [b"abc"]


class GreedySocket:
    """A socket that takes all that it is given."""

    family = socket.AF_INET

    def __init__(self):
        self.taken = bytearray()

    def setblocking(self, is_blocking):
        pass

    def fileno(self):
        return 7

    def recv(self, size):
        raise BlockingIOError

    def send(self, data):
        self.taken += data
        return len(data)

    def sendmsg(self, segments):
        return self.send(b"".join(segments))


@pytest.mark.parametrize("piece_size", [FLUSH_SIZE_MAX * 5 // 2, FLUSH_SIZE_MAX, 3000])
def test_a_long_reply_goes_out_in_portions_however_much_the_system_takes(piece_size):
    sock = GreedySocket()
    connection = Connection(sock)
    pieces = [os.urandom(piece_size) for _ in range(1 + 4 * FLUSH_SIZE_MAX // piece_size)]
    connection.output.extend(pieces)
    before = 0
    while not connection.flush():
        assert connection.is_blocked
        assert connection.output_size == sum(map(len, connection.output))
        assert before < len(sock.taken) <= before + FLUSH_SIZE_MAX
        before = len(sock.taken)
    assert bytes(sock.taken) == b"".join(pieces)
    assert not connection.is_blocked


def test_a_blocked_connection_counts_its_output_and_goes_on(ends):
    connection, theirs = ends
    value = os.urandom(4_000_000)
    connection.output.extend([b"head", value, b"tail"])
    assert not connection.flush()
    assert connection.is_blocked
    assert connection.is_choked
    assert connection.output_size == sum(map(len, connection.output))
    got = b""
    while not connection.flush():
        assert connection.output_size == sum(map(len, connection.output))
        got += theirs.recv(200_000)
    got += read(theirs, 4_000_008 - len(got))
    assert got == b"head" + value + b"tail"
    assert not connection.is_blocked
    assert not connection.is_choked
    assert connection.output_size == 0


def test_a_large_value_is_not_copied(ends):
    connection, _ = ends
    value = os.urandom(4_000_000)
    connection.output.append(value)
    connection.flush()
    assert connection.output[0].obj is value


def test_reading_stops_above_the_high_mark_and_goes_on_below_the_low_one(ends):
    connection, theirs = ends
    connection.output.append(bytes(OUTPUT_LOW_SIZE))
    while connection.flush():
        connection.output.append(bytes(OUTPUT_LOW_SIZE))
    assert not connection.is_choked
    connection.add_behind(bytes(OUTPUT_HIGH_SIZE))
    assert connection.is_choked
    states = []
    while connection.output:
        theirs.recv(50_000)
        connection.flush()
        states.append((connection.output_size, connection.is_choked))
    assert any(OUTPUT_LOW_SIZE < size < OUTPUT_HIGH_SIZE and choked for size, choked in states)
    assert all(not choked for size, choked in states if size < OUTPUT_LOW_SIZE)


def test_output_that_is_dropped_blocks_no_more(ends):
    connection, _ = ends
    connection.output.append(bytes(8 * OUTPUT_HIGH_SIZE))
    assert not connection.flush()
    connection.drop_output()
    assert not connection.output
    assert (connection.output_size, connection.is_blocked, connection.is_choked) == (0, False, False)
    assert connection.flush()


def test_a_lost_peer_is_an_error(ends):
    connection, theirs = ends
    theirs.close()
    connection.output.append(b"x")
    with pytest.raises(OSError):
        connection.flush()


def test_peers_are_named_by_address():
    for family, host, name in [(socket.AF_INET, "127.0.0.1", "127.0.0.1:{}"), (socket.AF_INET6, "::1", "[::1]:{}")]:
        with socket.socket(family) as listener:
            listener.bind((host, 0))
            listener.listen()
            with socket.create_connection(listener.getsockname()[:2], 30) as client:
                accepted, _ = listener.accept()
                with accepted:
                    assert Connection(accepted).peer_name() == name.format(client.getsockname()[1])


def test_a_local_and_a_lost_peer_have_names_too(ends):
    connection, _ = ends
    assert connection.peer_name() == "a local peer"
    connection.sock.close()
    assert connection.peer_name() == "a peer that is gone"


def test_it_tells_where_the_peer_comes_from(tmp_path):
    (listener,) = listen("127.0.0.1", 0)
    with listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as sock:
        assert Connection(sock).origin() == Origin("127.0.0.1")
    path = str(tmp_path / "a.sock")
    with listen_unix(path) as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        with listener.accept()[0] as sock:
            assert Connection(sock).origin() == Origin(is_local=True)


def test_of_a_peer_that_is_gone_nothing_is_known():
    (listener,) = listen("127.0.0.1", 0)
    with listener:
        client = socket.create_connection(listener.getsockname())
        sock = listener.accept()[0]
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    connection = Connection(sock)
    with contextlib.suppress(ConnectionResetError):
        sock.recv(1)
    assert connection.origin() == Origin()
    connection.close()
