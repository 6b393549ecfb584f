"""One connection to an etcd member: gRPC on HTTP/2, one call at a time.

Whoever calls sends its frames and reads until its answer is whole: no thread stands in between, a signal ends the wait
at once, and a fork leaves nothing behind but a socket. Calls at the same time have a connection each
(``store.etcd_cluster``). A stream of messages, as watches have, keeps its connection for itself; there one thread reads
and any sends.

Our windows for what the peer sends are as wide as HTTP/2 has them, because there is only one stream to share them. The
peer's are minded. Header blocks are the affair of ``store.etcd_heads``.

Source: RFC 9113 (HTTP/2), RFC 7541 (HPACK), and gRPC's description of its protocol over HTTP/2.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import Final
from urllib.parse import unquote

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectionLostError, RemoteProtocolError
from rallypoint.net.stream import Stream, silent
from rallypoint.store.etcd_heads import Heads

__all__ = ["ANSWER_SIZE_MAX", "GrpcError", "Link"]

ANSWER_SIZE_MAX: Final = 1 << 28
"""Bytes of one answer, at most."""

_HEADERS_SIZE_MAX = 1 << 16
_LATE_FRAMES_MAX = 1 << 10  # so many that were there already are looked at when the time is up
_ANSWERS_SIZE_MAX = 1 << 12

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_INITIAL_WINDOW, _MAX_FRAME = 4, 5  # settings

_FRAME_SIZE_MAX = 16384  # what we take; it is HTTP/2's default
_WINDOW_MAX = (1 << 31) - 1
_WINDOW_REFILL = 1 << 24
_STREAM_ID_MAX = (1 << 31) - 1


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


_PREFACE = (
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    + _frame(_SETTINGS, 0, 0, b"\0\2\0\0\0\0" + b"\0\4" + _WINDOW_MAX.to_bytes(4, "big"))  # no push; wide windows
    + _frame(_WINDOW_UPDATE, 0, 0, (_WINDOW_MAX - 65535).to_bytes(4, "big"))
)


class GrpcError(Exception):
    """A call was answered with a status that is not 0.

    Attributes:
        code: gRPC's number of it.
        message: what etcd says.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (gRPC status {code})")
        self.code = code
        self.message = message


class Link:
    """One connection.

    Args:
        stream: fresh; the link owns it from now on.

    Attributes:
        stream: the bytes below.
        is_usable: another call can be made when the present one is done.
        heard_at: when the peer was last heard of, on the monotonic clock.

    After any error but ``GrpcError`` it can only be closed.

    Threads: one at a time; of a stream of messages one reads while others send. ``close`` may come from any.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.is_usable = True
        self.heard_at = monotonic()
        self._heads = Heads()
        self._lock = threading.RLock()  # of what is sent
        self._room = threading.Condition(self._lock)  # the peer has more room
        self._opening = _PREFACE  # what goes out before the next request
        self._is_stream = False
        self._id = -1
        self._peer_window = 65535
        self._stream_window = self._initial_window = 65535
        self._frame_max = 16384
        self._to_refill = 0
        self._head = b""  # of a frame whose rest has not come
        self._block: bytes | None = None  # of headers that go on in the next frame
        self._ends_with_block = False
        self._data = bytearray()
        self._late_frames = 0
        self._has_ended = False
        self._status: int | None = None
        self._words = ""
        self._http_status = ""

    def call(self, head: bytes, message: bytes, deadline: Deadline) -> bytes:
        """Make one call and give its answer.

        Raises:
            GrpcError: etcd has refused it.
            ReplyTimeoutError: there was no answer in time.
            ConnectionLostError: the connection was lost.
            RemoteProtocolError: the peer does not speak as it should.
            DistNetworkError: other trouble of the system's.

        Cost: one system call to send, one or two to receive, if the answer is small.
        """
        body = b"\0" + len(message).to_bytes(4, "big") + message
        size = len(body)
        self._begin()
        if size <= min(self._peer_window, self._stream_window, self._frame_max):
            self._peer_window -= size
            self._stream_window -= size
            opening, self._opening = self._opening, b""
            self.stream.send(
                opening + _frame(_HEADERS, _END_HEADERS, self._id, head) + _frame(_DATA, _END_STREAM, self._id, body),
                deadline,
            )
        else:
            self._send(_frame(_HEADERS, _END_HEADERS, self._id, head), deadline)
            self._send_body(memoryview(body), deadline)
        while not self._has_ended:
            self._step(deadline)
        self._check_status()
        answer = self._take_message()
        if answer is None:
            raise self._broken(f"an answer ends after {len(self._data)} bytes, amid a message")
        return answer

    # --- a stream of messages ----------------------------------------------------------------------------

    def open(self, head: bytes, deadline: Deadline) -> None:
        """Begin a stream of messages; the link is for nothing else from now on."""
        self._begin()
        self.is_usable = False
        self._is_stream = True
        with self._lock:
            self._send(_frame(_HEADERS, _END_HEADERS, self._id, head), deadline)

    def post(self, message: bytes, deadline: Deadline) -> None:
        """Send a message on the stream; the errors are those of ``call``."""
        body = b"\0" + len(message).to_bytes(4, "big") + message
        with self._lock:
            while body:
                while (space := min(self._peer_window, self._stream_window, self._frame_max)) <= 0:
                    if not self._room.wait(min(deadline.remaining_s(), threading.TIMEOUT_MAX)):
                        raise silent(self.stream.endpoint, "took no message", deadline.waited_s())
                piece, body = body[:space], body[space:]
                self._peer_window -= len(piece)
                self._stream_window -= len(piece)
                self._send(_frame(_DATA, 0, self._id, piece), deadline)

    def ping(self, deadline: Deadline) -> None:
        """Ask for a sign of life; it shows in ``heard_at``."""
        with self._lock:
            self._send(_frame(_PING, 0, 0, b"rally.pt"), deadline)

    def next_message(self, deadline: Deadline) -> bytes:
        """Wait for the next message of the stream; ``ReplyTimeoutError`` if none comes, and nothing is lost then.

        Raises:
            GrpcError: etcd has ended the stream.
            ConnectionLostError: it has ended without a word, or the connection was lost.
            RemoteProtocolError: the peer does not speak as it should.
        """
        while True:
            answer = self._take_message()
            if answer is not None:
                return answer
            if self._has_ended:
                self._check_status()
                raise ConnectionLostError(f"{self.stream.endpoint} has ended the stream", endpoint=self.stream.endpoint)
            self._step(deadline)

    def close(self) -> None:
        """Close the connection; closing twice is fine."""
        self.is_usable = False
        self.stream.close()

    # --- sending -----------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._id += 2
        self._stream_window = self._initial_window
        self._data = bytearray()
        self._has_ended = False
        self._status, self._words, self._http_status = None, "", ""
        if self._id >= _STREAM_ID_MAX - 2:
            self.is_usable = False

    def _send(self, data: bytes, deadline: Deadline) -> None:
        opening, self._opening = self._opening, b""
        self.stream.send(opening + data, deadline)

    def _send_body(self, body: memoryview, deadline: Deadline) -> None:
        """Send a long message as the peer makes room for it; stop if it has answered before its end."""
        while body and not self._has_ended:
            space = min(self._peer_window, self._stream_window, self._frame_max)
            if space <= 0:
                self._step(deadline)
                continue
            piece, body = body[:space], body[space:]
            self._peer_window -= len(piece)
            self._stream_window -= len(piece)
            self._send(_frame(_DATA, 0 if body else _END_STREAM, self._id, bytes(piece)), deadline)
        if body:
            self.is_usable = False  # the peer may count on the rest

    # --- receiving ---------------------------------------------------------------------------------------

    def _step(self, deadline: Deadline) -> None:
        """Take in one frame; a peer that sends one after the other, and no answer, has only so much time for that."""
        self._late_frames = self._late_frames + 1 if deadline.has_passed() else 0
        if self._late_frames > _LATE_FRAMES_MAX:
            self._late_frames = 0
            raise silent(self.stream.endpoint, "did not answer", deadline.waited_s())
        head = self._head or self.stream.receive_exactly(9, deadline)
        self._head = head  # kept, if the time is up before the rest is there
        size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        stream = int.from_bytes(head[5:9], "big") & _STREAM_ID_MAX
        if size > _FRAME_SIZE_MAX:
            raise self._broken(f"a frame of {size} bytes was announced, the limit is {_FRAME_SIZE_MAX}")
        payload = self.stream.receive_exactly(size, deadline) if size else b""
        self._head = b""
        self.heard_at = monotonic()
        if self._block is not None and kind != _CONTINUATION:
            raise self._broken("headers stop amid their block")
        if kind == _DATA:
            self._take_data(stream, flags, payload, deadline)
        elif kind == _HEADERS:
            self._take_headers(stream, flags, self._unpadded(flags, payload))
        elif kind == _CONTINUATION:
            self._take_headers(stream, flags & ~_END_STREAM, payload)
        else:
            self._take_control(kind, flags, stream, payload, deadline)

    def _take_data(self, stream: int, flags: int, payload: bytes, deadline: Deadline) -> None:
        self._to_refill += len(payload)
        if self._to_refill >= _WINDOW_REFILL:
            refill, self._to_refill = self._to_refill.to_bytes(4, "big"), 0
            both = _frame(_WINDOW_UPDATE, 0, 0, refill)
            if not self._has_ended:
                both += _frame(_WINDOW_UPDATE, 0, self._id, refill)  # a little too wide after other calls: no harm
            self._answer(both, deadline)
        if stream != self._id or self._has_ended:
            return
        self._data += self._unpadded(flags & ~_PRIORITY, payload)
        self._announced_size()
        self._has_ended = bool(flags & _END_STREAM)

    def _take_headers(self, stream: int, flags: int, block: bytes) -> None:
        block = (self._block or b"") + block
        self._ends_with_block = bool(flags & _END_STREAM) if self._block is None else self._ends_with_block
        if len(block) > _HEADERS_SIZE_MAX:
            raise self._broken(f"headers of {len(block)} bytes were sent, the limit is {_HEADERS_SIZE_MAX}")
        if not flags & _END_HEADERS:
            self._block = block
            return
        self._block = None
        try:
            heads = self._heads.read(block)
        except ValueError as error:
            raise self._broken(str(error)) from error
        if stream != self._id:
            return
        for name, value in heads:
            if name == b"grpc-status":
                self._status = int(value) if value.isdigit() else 2
            elif name == b"grpc-message":
                self._words = unquote(value.decode(errors="replace"))
            elif name == b":status":
                self._http_status = value.decode(errors="replace")
        self._has_ended = self._has_ended or self._ends_with_block

    def _take_control(self, kind: int, flags: int, stream: int, payload: bytes, deadline: Deadline) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._take_settings(payload)
            self._answer(_frame(_SETTINGS, _ACK, 0), deadline)
        elif kind == _PING and not flags & _ACK:
            self._answer(_frame(_PING, _ACK, 0, payload), deadline)
        elif kind == _WINDOW_UPDATE and len(payload) == 4:
            more = int.from_bytes(payload, "big") & _WINDOW_MAX
            with self._room:
                if stream == 0:
                    self._peer_window += more
                elif stream == self._id:
                    self._stream_window += more
                self._room.notify_all()
        elif kind == _RST_STREAM and stream == self._id and not self._has_ended:
            code = int.from_bytes(payload, "big")
            raise ConnectionLostError(
                f"{self.stream.endpoint} has dropped a call (HTTP/2 code {code})", endpoint=self.stream.endpoint
            )
        elif kind == _GOAWAY:
            self.is_usable = False
            if int.from_bytes(payload[:4], "big") & _STREAM_ID_MAX < self._id and not self._has_ended:
                raise ConnectionLostError(
                    f"{self.stream.endpoint} takes no more calls (HTTP/2 code {int.from_bytes(payload[4:8], 'big')})",
                    endpoint=self.stream.endpoint,
                )

    def _take_settings(self, payload: bytes) -> None:
        with self._room:
            for at in range(0, len(payload) - 5, 6):
                what, number = (
                    int.from_bytes(payload[at : at + 2], "big"),
                    int.from_bytes(payload[at + 2 : at + 6], "big"),
                )
                if what == _INITIAL_WINDOW:
                    self._stream_window += number - self._initial_window
                    self._initial_window = number
                elif what == _MAX_FRAME:
                    self._frame_max = min(max(number, 16384), 1 << 20)
            self._room.notify_all()

    def _answer(self, data: bytes, deadline: Deadline) -> None:
        """Answer a frame that is about the connection: between calls, the next request carries it along."""
        if self._is_stream or len(self._opening) > _ANSWERS_SIZE_MAX:
            with self._lock:
                self._send(data, deadline)
        else:
            self._opening += data

    def _unpadded(self, flags: int, payload: bytes) -> bytes:
        start, end = 0, len(payload)
        if flags & _PADDED:
            start, end = 1, end - (payload[0] if payload else 0)
        if flags & _PRIORITY:
            start += 5
        if start > end:
            raise self._broken("a frame is shorter than its padding")
        return payload[start:end]

    def _announced_size(self) -> int:
        """Give how many bytes the message has that is being received; refuse it before they have come."""
        data = self._data
        size = int.from_bytes(data[1:5], "big")
        if len(data) < 5:
            return 0
        if data[0] or max(size, len(data) - 5 - _FRAME_SIZE_MAX) > ANSWER_SIZE_MAX:
            what = "is compressed" if data[0] else f"has {size} bytes, the limit is {ANSWER_SIZE_MAX}"
            raise self._broken(f"a message {what}")
        return size

    def _take_message(self) -> bytes | None:
        """Give the next whole message that was received."""
        data = self._data
        if len(data) < 5:
            return None
        size = self._announced_size()
        if len(data) < 5 + size:
            return None
        message = bytes(data[5 : 5 + size])
        del data[: 5 + size]
        return message

    def _check_status(self) -> None:
        """Raise what the call has ended with, unless that is well."""
        if self._status is None:
            raise self._broken(f"a call was answered with HTTP status {self._http_status or 'none'} and none of gRPC")
        if self._status:
            raise GrpcError(self._status, self._words)

    def _broken(self, what: str) -> RemoteProtocolError:
        self.is_usable = False
        where = self.stream.endpoint
        return RemoteProtocolError(f"{where} does not speak as an etcd member should: {what}", endpoint=where)
