"""A server that says what a test tells it to, and nothing else: for peers that are silent, rude or slow."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from types import TracebackType

import pytest

from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import MAGIC, Verb
from rallypoint.store import connections

__all__ = ["Conversation", "ScriptedPeer", "impatient", "scripted_peer"]

PATIENCE_S = 60.0


class Conversation:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE_S)
        self.sock = sock

    def expect(self, *requests: tuple[object, ...]) -> None:
        """Read exactly these requests, each ``(verb, field, ...)``."""
        wanted = b"".join(encode_request(*request) for request in requests)  # type: ignore[arg-type]
        heard = b""
        while len(heard) < len(wanted):
            part = self.sock.recv(len(wanted) - len(heard))
            assert part, f"the client closed after {heard!r}, {wanted!r} was expected"
            heard += part
        assert heard == wanted

    def expect_end(self) -> None:
        """See the client close, with nothing said before."""
        assert self.sock.recv(1) == b""

    def shake_hands(self) -> None:
        """Answer a client's opening."""
        self.expect((Verb.VALIDATE, MAGIC), (Verb.PING, os.getpid()))
        self.reply(os.getpid().to_bytes(4, "little"))

    def pong(self) -> None:
        """Answer the PING that acknowledges a write."""
        self.expect((Verb.PING, os.getpid()))
        self.reply(os.getpid().to_bytes(4, "little"))

    def reply(self, data: bytes) -> None:
        """Send bytes."""
        self.sock.sendall(data)

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()


class ScriptedPeer:
    """A listening socket whose connections the test plays by hand."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(PATIENCE_S)
        self.port: int = self.listener.getsockname()[1]
        self._conversations: list[Conversation] = []

    def accept(self, *, shakes_hands: bool = True) -> Conversation:
        """Take the next connection."""
        conversation = Conversation(self.listener.accept()[0])
        self._conversations.append(conversation)
        if shakes_hands:
            conversation.shake_hands()
        return conversation

    def has_callers(self) -> bool:
        """Tell whether a connection waits to be accepted."""
        self.listener.settimeout(0)
        try:
            self._conversations.append(Conversation(self.listener.accept()[0]))
        except BlockingIOError:
            return False
        finally:
            self.listener.settimeout(PATIENCE_S)
        return True

    def __enter__(self) -> ScriptedPeer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.listener.close()
        for conversation in self._conversations:
            conversation.close()


@pytest.fixture
def scripted_peer() -> Iterator[ScriptedPeer]:
    """A server that is played by hand."""
    with ScriptedPeer() as peer:
        yield peer


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Owed answers may take next to no time."""
    monkeypatch.setattr(connections, "REPLY_GRACE_S", 0.05)
