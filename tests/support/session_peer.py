"""A server of the session dialect that says what a test tells it to, and nothing else."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support.scripted_peer import ScriptedPeer
from tests.support.stores import HOST, JOIN_S

from rallypoint.protocol.session.codec import (
    REPLY_HEAD_SIZE,
    REQUEST_HEAD_SIZE,
    decode_head,
    decode_request,
    encode_closing,
    encode_event,
    encode_refusal,
    encode_reply,
)
from rallypoint.protocol.session.spec import OPENING, EventKind, SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.store.reach import Reacher
from rallypoint.store.trunk import Trunk
from rallypoint.types import Endpoint

__all__ = [
    "DATA",
    "LIFE",
    "REPLY_HEAD_SIZE",
    "SESSION",
    "SessionConversation",
    "SessionPeer",
    "opened_trunk",
    "session_peer",
]

SESSION = b"s" * 16
DATA = b"d" * 16
LIFE = b"l" * 16


class SessionConversation:
    """The server's end of one connection.

    Attributes:
        last_id: of the last request that was read.
        done: what it said.
        hello: the fields of HELLO, once it was read.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.last_id = 0
        self.done = 0
        self.hello: tuple[object, ...] = ()

    def read(self, size: int) -> bytes:
        """Read so many bytes."""
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            assert part, f"the client closed after {data!r}"
            data += part
        return data

    def next(self) -> tuple[object, ...]:
        """Read one request: ``(verb, field, ...)``."""
        head = self.read(REQUEST_HEAD_SIZE)
        (size,) = struct.unpack_from("<I", head)
        rest = self.read(size + 4 - REQUEST_HEAD_SIZE)
        verb, self.last_id, self.done = decode_head(head, 0)
        return decode_request(verb, rest, 0, len(rest))

    def expect(self, verb: SessionVerb, *fields: object) -> int:
        """Read exactly this request; give its id."""
        heard = self.next()
        assert heard == (verb, *fields)
        return self.last_id

    def expect_end(self) -> None:
        """See the client say BYE, if it does, and close."""
        with self.sock:
            rest = b""
            try:
                while part := self.sock.recv(4096):
                    rest += part
            except ConnectionResetError:
                pass
            assert len(rest) in (0, REQUEST_HEAD_SIZE)

    def welcome(
        self,
        *,
        session: bytes = SESSION,
        is_resumed: int = 0,
        data: bytes = DATA,
        life: bytes = LIFE,
        timeout_ms: int = 10_000,
        opening: bytes = OPENING,
    ) -> None:
        """Answer a client's HELLO."""
        assert self.read(len(opening)) == opening
        verb, *self.hello = self.next()
        assert verb == SessionVerb.HELLO
        self.ok(SessionVerb.HELLO, 0, session, is_resumed, data, life, b"", timeout_ms, 7)

    def ok(self, verb: SessionVerb, number: int, *fields: object) -> None:
        """Answer OK."""
        self.reply(encode_reply(Status.OK, verb, number, *fields))

    def expire(self, verb: SessionVerb, number: int, *fields: object) -> None:
        """Answer EXPIRED."""
        self.reply(encode_reply(Status.EXPIRED, verb, number, *fields))

    def refuse(self, number: int, reason: CloseReason, sentence: str) -> None:
        """Answer REFUSED."""
        self.reply(encode_refusal(number, reason, sentence))

    def tell(self, number: int, kind: EventKind, key: bytes, value: bytes, revision: int) -> None:
        """Send an event."""
        self.reply(encode_event(number, kind, key, value, revision))

    def say_last(self, reason: CloseReason, sentence: str) -> None:
        """Send CLOSING, and close."""
        self.reply(encode_closing(reason, sentence))
        self.close()

    def reply(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()


class SessionPeer(ScriptedPeer):
    """A listening socket whose connections the test plays by hand."""

    def meet(self, **welcome: object) -> SessionConversation:
        """Take the next connection, and answer its HELLO."""
        conversation = SessionConversation(self.accept(shakes_hands=False).sock)
        conversation.welcome(**welcome)  # type: ignore[arg-type]
        return conversation


@pytest.fixture
def session_peer() -> Iterator[SessionPeer]:
    """A server that is played by hand."""
    with SessionPeer() as peer:
        yield peer


@pytest.fixture
def opened_trunk(peer: SessionPeer, pool: ThreadPoolExecutor) -> Iterator[tuple[Trunk, SessionConversation]]:
    """A trunk, and the server's end of its first connection, to the module's ``peer``."""
    endpoint = Endpoint(HOST, peer.port)
    reacher = Reacher([endpoint])
    opening = pool.submit(reacher.open, JOIN_S, may_be_plain=False)
    server = peer.meet()
    trunk = Trunk(endpoint, opening.result(JOIN_S), reacher)
    yield trunk, server
    trunk.close("the test is over")
