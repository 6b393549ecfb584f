"""Attacks of strangers: they speak to a port and have nothing that would let them in.

What an attack is: a strike, again and again, at a bounded rate. What it holds, it holds until its process ends.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import socket
import struct
from collections import deque
from pathlib import Path

from benchmarks.peers import HOST
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.session.auth import Hello
from rallypoint.protocol.session.codec import encode_request as encode_frame
from rallypoint.protocol.session.spec import NONCE_SIZE, OPENING, SESSION_VERBS, Field, SessionVerb
from rallypoint.protocol.spec import MAGIC, VERBS, Kind, Verb

__all__ = [
    "VALIDATE",
    "Attack",
    "HalfOpen",
    "Nothing",
    "PortScan",
    "Prefixes",
    "RandomBytes",
    "SlowLoris",
    "UnreadReplies",
    "hello",
    "hello_frame",
    "read_exactly",
]

VALIDATE = encode_request(Verb.VALIDATE, MAGIC)
HELD_MAX = 64
ADDRESSES = 50
PATIENCE_S = 10.0
RESET = struct.pack("ii", 1, 0)
_BIND_ADDRESS_NO_PORT = 24  # of Linux: the port is chosen when the connection's other end is known


def hello(timeout_ms: int = 1000) -> Hello:
    """Give a session's first words."""
    return Hello(b"", b"", b"attacker", os.urandom(NONCE_SIZE), timeout_ms)


def hello_frame(said: Hello) -> bytes:
    """Give them as they are sent."""
    fields = (said.version, said.session, said.identity, said.label, said.nonce, said.timeout_ms)
    return OPENING + encode_frame(SessionVerb.HELLO, 0, 0, *fields)


class Attack:
    """One attack; ``rate`` strikes a second, 0 for as many as can be.

    Attributes:
        inside: how often the attacker got what it should not have.
        made: what counts as the attack's amount.
    """

    rate = 500.0

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder
        self.inside = 0
        self.made = 0.0
        self._held: deque[socket.socket] = deque()
        self._opened = 0

    def strike(self, number: int) -> None:
        """Do it once."""
        raise NotImplementedError

    def end(self) -> None:
        """Take back what a valid peer has put into the store."""

    def connect(self, buffer_size: int = 0) -> socket.socket:
        """Connect, from one address after the other: one alone would run out of ports; with so much room to receive."""
        self._opened += 1
        sock = socket.socket()
        if buffer_size:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_size)
        sock.setsockopt(socket.IPPROTO_IP, _BIND_ADDRESS_NO_PORT, 1)
        sock.bind((f"127.0.1.{1 + self._opened % ADDRESSES}", 0))
        sock.settimeout(PATIENCE_S)
        sock.connect((HOST, self.port))
        return sock

    def hold(self, sock: socket.socket, most: int = HELD_MAX) -> None:
        """Hold a connection, and close the oldest if there are too many."""
        self._held.append(sock)
        if len(self._held) > most:
            self._held.popleft().close()


def read_exactly(sock: socket.socket, size: int) -> bytes:
    """Read so much; less if the server closes."""
    data = bytearray()
    while len(data) < size and (part := sock.recv(size - len(data))):
        data += part
    return bytes(data)


class PortScan(Attack):
    """Connects and leaves, with an end or with a reset."""

    rate = 1000.0

    def strike(self, number: int) -> None:
        with self.connect() as sock:
            if number % 2:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


class RandomBytes(Attack):
    """Says anything: at once, after c10d's first words, or after those of the session dialect."""

    def strike(self, number: int) -> None:
        sock = self.connect()
        noise = random.randbytes(random.randrange(1, 4096))
        sock.sendall((b"", VALIDATE, hello_frame(hello()))[number % 3] + noise)
        self.hold(sock)


class Prefixes(Attack):
    """Says every beginning of every valid request of both dialects, one after the other, and no more."""

    rate = 1000.0

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder)
        greeting = hello_frame(hello())
        talks = [(b"", VALIDATE), (b"", greeting)]
        for verb in list(Verb)[1:]:
            talks += [(VALIDATE, encode_request(verb, *map(_plain_field, VERBS[verb].request)))]
        for verb in SessionVerb:
            talks += [(greeting, encode_frame(verb, 1, 0, *map(_session_field, SESSION_VERBS[verb].request)))]
        self._talks = [said + whole[:cut] for said, whole in talks for cut in range(len(whole))]

    def strike(self, number: int) -> None:
        sock = self.connect()
        sock.sendall(self._talks[number % len(self._talks)])
        self.hold(sock)


def _plain_field(kind: Kind) -> object:
    return _session_field(Field[kind.name])


def _session_field(field: Field) -> object:
    """Give a value of a request's field that would change something."""
    match field:
        case Field.KEYS:
            return [b"prefix"]
        case Field.PAIRS:
            return [(b"prefix", b"changed")]
        case Field.KEY | Field.VALUE:
            return b"prefix"
        case _:
            return 1


class SlowLoris(Attack):
    """Holds 500 connections that say one byte at a time of their first words, or of a request that never ends."""

    rate = 5000.0
    CONNECTIONS = 500

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder)
        long = encode_request(Verb.SET, b"k" * 8000, bytes(65536))
        greeting = hello_frame(hello())
        said = [
            (b"", VALIDATE + long),
            (VALIDATE, long),
            (b"", greeting),
            (greeting, b"\xff\xff\x0f\x00" + bytes(65536)),
        ]
        self._drips = []
        for number in range(self.CONNECTIONS):
            at_once, slowly = said[number % len(said)]
            sock = self.connect()
            sock.sendall(at_once)
            self._drips.append((sock, slowly))

    def strike(self, number: int) -> None:
        turn, which = divmod(number, self.CONNECTIONS)
        sock, slowly = self._drips[which]
        with contextlib.suppress(OSError):  # closed, as it should
            sock.send(slowly[turn : turn + 1])


class UnreadReplies(Attack):
    """Asks for 16 MiB, 128 KiB at a time, and reads nothing, on one connection after the other.

    Values of 4,000 bytes are no part of what several share: each reply has its own memory.
    """

    rate = 40.0
    KEYS = tuple(b"/unread/%d" % number for number in range(32))
    VALUE = bytes(4000)
    TIMES = 128

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder)
        self._writer = self.connect()
        stored = encode_request(Verb.MULTI_SET, [(key, self.VALUE) for key in self.KEYS])
        self._writer.sendall(VALIDATE + stored + encode_request(Verb.PING, 1))
        read_exactly(self._writer, 4)

    def strike(self, number: int) -> None:  # noqa: ARG002 - all the same
        greedy = self.connect(4096)
        greedy.sendall(VALIDATE + encode_request(Verb.MULTI_GET, self.KEYS) * self.TIMES)
        self.hold(greedy)

    def end(self) -> None:
        self._writer.sendall(b"".join(encode_request(Verb.DELETE_KEY, key) for key in self.KEYS))
        read_exactly(self._writer, 8 * len(self.KEYS))


class HalfOpen(Attack):
    """Opens 20,000 connections and finishes no handshake: silence, or the first part of either dialect's words."""

    rate = 5000.0
    COUNT = 20_000

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder)
        wanted = self.COUNT + 1000
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < wanted:
            with contextlib.suppress(ValueError, PermissionError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
        greeting = hello_frame(hello())
        self._words = (b"", VALIDATE[:3], OPENING, greeting[:-1])

    def strike(self, number: int) -> None:
        if number < self.COUNT:
            sock = self.connect()
            sock.send(self._words[number % len(self._words)])
            self.hold(sock, self.COUNT)


class Nothing(Attack):
    """Leaves the server alone and computes: what honest clients notice is that they share a core with somebody."""

    rate = 0.0

    def strike(self, number: int) -> None:  # noqa: ARG002 - all the same
        sum(range(2000))
