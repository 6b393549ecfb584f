"""The server's reader of the session dialect: bytes of one connection in, whole requests out.

Rules:

- The connection opens with ``OPENING``; another byte in its place is refused at once.
- What comes out is independent of how the stream is cut.
- Until ``admit`` a frame may have ``HELLO_SIZE_MAX`` bytes.
- Request ids rise within one connection, from 1 on. HELLO, PROVE, CANCEL and UNWATCH are no requests in that count:
  their id means nothing.

What this file does not know: which peer this is, what requests mean, whether HELLO has come.
"""

from __future__ import annotations

from typing import TypeAlias

from rallypoint.protocol.codec import Request, RequestError
from rallypoint.protocol.session.codec import ID_MAX, REQUEST_HEAD_SIZE, decode_head, decode_request
from rallypoint.protocol.session.frames import FrameCutter
from rallypoint.protocol.session.spec import HELLO_SIZE_MAX, OPENING, SessionVerb
from rallypoint.protocol.spec import REQUEST_SIZE_MAX, CloseReason

__all__ = ["FrameReader", "SessionRequest"]

_UNCOUNTED = frozenset(map(int, (SessionVerb.HELLO, SessionVerb.PROVE, SessionVerb.CANCEL, SessionVerb.UNWATCH)))


SessionRequest: TypeAlias = tuple[int, int, Request]
"""The client's number for a request, its ``done``, and the request: ``(verb, field, ...)``."""


class FrameReader:
    """Cuts one connection's bytes into requests.

    Args:
        request_size_max: what the size field of one request may say.

    Attributes:
        has_more: ``False`` if ``next`` has just given the last request of what was fed: it would say ``None`` now.

    Threads: none but the caller's.
    """

    __slots__ = ("_cutter", "_last_id", "_opening", "_request_size_max", "has_more")

    def __init__(self, request_size_max: int = REQUEST_SIZE_MAX) -> None:
        self._request_size_max = request_size_max
        self._cutter = FrameCutter(REQUEST_HEAD_SIZE - 4, min(HELLO_SIZE_MAX, request_size_max))
        self._opening = OPENING  # what of it is still to come
        self._last_id = 0
        self.has_more = True

    @property
    def held(self) -> int:
        """Bytes of a begun request that are kept until the rest comes."""
        return self._cutter.held

    @property
    def unread(self) -> int:
        """Bytes that were fed and not looked at yet: above 0 only until ``next`` has said ``None``."""
        return self._cutter.unread

    def admit(self) -> None:
        """Take requests of any size from now on: the handshake is done."""
        self._cutter.size_max = self._request_size_max

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection; they are kept by reference until they are used up.

        Raises:
            RequestError: the connection does not open with ``OPENING``.
        """
        if self._opening:
            size = min(len(self._opening), len(data))
            if data[:size] != self._opening[:size]:
                raise self._not_opened(data)
            self._opening = self._opening[size:]
            data = data[size:]
        self._cutter.feed(data)

    def _not_opened(self, data: bytes) -> RequestError:
        """Make the refusal of an opening, which shows it as far as its first wrong byte."""
        right = next(at for at, (due, byte) in enumerate(zip(self._opening, data, strict=False)) if byte != due)
        opened = OPENING[: len(OPENING) - len(self._opening)] + data[: right + 1]
        message = f"the connection opened with {opened!r} where {OPENING!r} was to come"
        return RequestError(CloseReason.BAD_HANDSHAKE, message)

    def next(self) -> SessionRequest | None:
        """Give the next whole request, ``None`` if the bytes fed so far hold no more.

        Raises:
            RequestError: the bytes are no request that may be taken. The reader must not be used afterwards.
        """
        cutter = self._cutter
        place = cutter.next()
        if place is None:
            return None
        at, end = place
        data = cutter.data
        verb, request_id, done = decode_head(data, at)
        request = decode_request(verb, data, at + REQUEST_HEAD_SIZE, end)
        self.has_more = end < len(data)
        if not self.has_more:
            cutter.use_up()
        if verb not in _UNCOUNTED:
            if not self._last_id < request_id <= ID_MAX:
                message = f"a frame has the request id {request_id}, the one before it had {self._last_id}"
                raise RequestError(CloseReason.BAD_FRAME, message)
            self._last_id = request_id
        return request_id, done, request

    def close(self) -> None:
        """Let go of all that is held; the reader must not be used afterwards. Closing twice is closing once."""
        self._cutter.close()
