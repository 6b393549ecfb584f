"""A client of the session dialect that says every frame itself, and survives the end of its server."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import Any

from tests.support.raw_server import PATIENCE_S

from rallypoint.protocol.session.codec import decode_reply, encode_request
from rallypoint.protocol.session.spec import OPENING, VERSION, SessionVerb, Status

__all__ = ["RawSession"]

HEAD = struct.Struct("<IBQ")  # size of what follows it, status, request id
RETRY_S = 0.02


class RawSession:
    """One session over one connection after another.

    Args:
        address: host and port of a server, or of the next one in the same place.
        timeout_ms: how long the session outlives a connection.

    Attributes:
        session: its id.
        data_id: what the server holds.
        life_id: the server's.
        losses: connections lost.
    """

    def __init__(self, address: tuple[str, int], *, timeout_ms: int = 60_000) -> None:
        self.address = address
        self.timeout_ms = timeout_ms
        self.session = self.data_id = self.life_id = b""
        self.losses = 0
        self.next_id = 1
        self.sock: socket.socket | None = None
        self.unanswered: dict[int, tuple[SessionVerb, tuple[Any, ...]]] = {}
        self.answers: dict[int, tuple[Status, tuple[Any, ...]]] = {}
        self.connect()

    def connect(self) -> None:
        """Connect, resume the session, and send again what is unanswered."""
        patience = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(ConnectionError):
                self.sock = socket.create_connection(self.address, PATIENCE_S)
                self._hello()
                return
            self.close()
            assert time.monotonic() < patience, "nobody serves"
            time.sleep(RETRY_S)

    def _hello(self) -> None:
        fields = (VERSION, self.session, b"", b"raw", bytes(16), self.timeout_ms)
        self.sock.sendall(OPENING + encode_request(SessionVerb.HELLO, 0, 0, *fields))
        status, _, body = self._frame()
        assert status is Status.OK, (status, body)
        session, is_resumed, data, life, _, _, _ = decode_reply(status, SessionVerb.HELLO, body, 0, len(body))
        if self.session:
            assert (is_resumed, session, data) == (1, self.session, self.data_id), "the session is lost"
        self.session, self.data_id, self.life_id = session, data, life
        for request_id in self.unanswered:
            self._send(request_id)

    def call(self, verb: SessionVerb, *fields: Any) -> tuple[Any, ...]:
        """Ask and wait, over as many servers as it takes; give the fields of the OK."""
        (answer,) = self.pipeline([(verb, fields)])
        return answer

    def pipeline(self, requests: list[tuple[SessionVerb, tuple[Any, ...]]]) -> list[tuple[Any, ...]]:
        """Ask all, then wait for all; give the fields of each OK."""
        ids = range(self.next_id, self.next_id + len(requests))
        self.next_id = ids.stop
        self.unanswered.update(zip(ids, requests, strict=True))
        try:
            for request_id in ids:
                self._send(request_id)
        except ConnectionError:
            self._survive()
        while self.unanswered:
            try:
                status, request_id, body = self._frame()
            except ConnectionError:
                self._survive()
                continue
            if status is Status.CLOSING:
                continue
            verb, _ = self.unanswered.pop(request_id)
            self.answers[request_id] = (status, decode_reply(status, verb, body, 0, len(body)))
        answers = [self.answers.pop(request_id) for request_id in ids]
        assert all(status is Status.OK for status, _ in answers), answers
        return [fields for _, fields in answers]

    def _survive(self) -> None:
        self.losses += 1
        self.close()
        self.connect()

    def _send(self, request_id: int) -> None:
        verb, fields = self.unanswered[request_id]
        done = min(self.unanswered)
        self.sock.sendall(encode_request(verb, request_id, done, *fields))

    def _frame(self) -> tuple[Status, int, bytes]:
        size, status, request_id = HEAD.unpack(self._read(HEAD.size))
        return Status(status), request_id, self._read(size - HEAD.size + 4)

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            some = self.sock.recv(size - len(data))
            if not some:
                raise ConnectionResetError("the server has ended")
            data += some
        return bytes(data)

    def close(self) -> None:
        """Close the connection, not the session."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.close()
            self.sock = None
