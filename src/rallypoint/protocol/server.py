"""The server's reader: bytes of one connection in, whole requests out.

Rules:

- A request comes out only when all its bytes are there; half of one leaves no trace.
- Every byte is looked at a bounded number of times, however the stream is cut: a list that comes one byte at a time
  costs the same for each byte. No field is parsed twice, save those of the segment in which a request
  begins.
- A length over its limit is refused as soon as the length is complete, and so is one that makes the request too
  long; no memory is ever taken on the strength of a claim. Which field is refused, and with which words, does not
  depend on how the stream is cut.
- The first request must be VALIDATE with the magic; a first byte that is not VALIDATE's is refused at once.
- ``close`` lets go of everything at once. A suspended walk and its reader hold each other, so without it the memory of
  a half request would outlive its connection until the interpreter looks for cycles.

Theory of operation::

    feed(segment) --> [ segment ] --whole request in it?--> the layout's decoder ------------> request
                           |                                                                     ^
                           '--no: the request begins here and ends in a later segment            |
                                  --> a walk: a generator over the layout that asks for          |
                                      "exactly n bytes" and keeps the fields it has -------------'

Most requests lie whole in a segment, and the decoder is one function call. A request that does not gets a *walk*,
suspended between its fields; only the one field that straddles two segments is ever held in a growing
buffer.

What this file does not know: which peer this is, what requests mean, what time it is.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from typing import Final

from rallypoint.protocol.codec import DECODERS, I64, U32, U64, Decoder, Request, RequestError, too_large
from rallypoint.protocol.spec import (
    KEY_COUNT_MAX,
    KEY_SIZE_MAX,
    MAGIC,
    REQUEST_SIZE_MAX,
    VALUE_SIZE_MAX,
    VERBS,
    CloseReason,
    Kind,
    Verb,
)

__all__ = ["RequestReader"]


def _refuse_unvalidated(verb: int, data: bytes, at: int, end: int) -> tuple[int, Request] | None:  # noqa: ARG001
    message = f"the connection opened with the byte {verb:#04x} instead of VALIDATE (0x00)"
    raise RequestError(CloseReason.BAD_HANDSHAKE, message)


def _decode_validate(verb: int, data: bytes, at: int, end: int) -> tuple[int, Request] | None:
    found = DECODERS[verb](verb, data, at, end)
    if found is not None:
        _check_magic(found[1][1])
    return found


def _refuse_again(verb: int, data: bytes, at: int, end: int) -> tuple[int, Request] | None:  # noqa: ARG001
    raise RequestError(CloseReason.UNKNOWN_VERB, "VALIDATE came again on a connection that is validated already")


def _check_magic(magic: int) -> None:
    if magic != MAGIC:
        raise RequestError(CloseReason.BAD_HANDSHAKE, f"VALIDATE carries {magic:#010x} instead of {MAGIC:#010x}")


_FIRST: Final[tuple[Decoder, ...]] = (_decode_validate, *(_refuse_unvalidated,) * 255)
_LATER: Final[tuple[Decoder, ...]] = (_refuse_again, *DECODERS[1:])


class RequestReader:
    """Cuts one connection's bytes into requests.

    Args:
        request_size_max: bytes that one request may have.
        decoders: of the requests behind VALIDATE, for each verb byte.

    Attributes:
        has_more: ``False`` if ``next`` has just given the last request of what was fed: it would say ``None`` now.
        held: bytes of a begun request that are kept until the rest comes.
        is_validated: VALIDATE has come.

    Threads: none but the caller's.
    """

    __slots__ = (
        "_body",
        "_data",
        "_decoders",
        "_later",
        "_need",
        "_pos",
        "_request_size_max",
        "_walk",
        "has_more",
        "held",
        "is_validated",
    )

    def __init__(self, request_size_max: int = REQUEST_SIZE_MAX, decoders: tuple[Decoder, ...] = DECODERS) -> None:
        self._request_size_max = request_size_max
        self._data = b""
        self._pos = 0
        self._decoders = _FIRST
        self._later = _LATER if decoders is DECODERS else (_refuse_again, *decoders[1:])
        self._walk: Generator[int, bytes, Request] | None = None
        self._need = 0
        self._body = bytearray()
        self.has_more = True
        self.held = 0
        self.is_validated = False

    @property
    def unread(self) -> int:
        """Bytes that were fed and not looked at yet: above 0 only until ``next`` has said ``None``."""
        return len(self._data) - self._pos

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the connection.

        Args:
            data: one segment, of any length; it is kept by reference until it is used up.

        Cost: nothing if ``next`` has said ``None`` before; else a copy of what is unread.
        """
        if self._pos < len(self._data):
            data = self._data[self._pos :] + data
        self._data = data
        self._pos = 0

    def next(self) -> Request | None:
        """Give the next whole request, ``None`` if the bytes fed so far hold no more.

        Raises:
            RequestError: the bytes are no request that may be taken. The reader must not be used afterwards.
        """
        if self._walk is not None:
            return self._go_on(self._walk)
        data = self._data
        at = self._pos
        end = len(data)
        if at == end:
            self._data = b""
            self._pos = 0
            return None
        verb = data[at]
        try:
            found = self._decoders[verb](verb, data, at + 1, end)
        except RequestError as refusal:
            if refusal.reason is not CloseReason.FIELD_TOO_LARGE:
                raise
            found = None  # the walk refuses it too, or an earlier field
        if found is not None and found[0] - at <= self._request_size_max:
            stop, request = found
            if stop == end:
                self._data = b""
                self._pos = 0
                self.has_more = False
            else:
                self._pos = stop
                self.has_more = True
            if verb == 0:
                self._open()
            return request
        self._pos = at + 1
        self.has_more = True
        self.held = 1
        self._walk = walk = self._frame(Verb(verb))
        self._need = next(walk)
        return self._go_on(walk)

    def close(self) -> None:
        """Let go of all that is held; the reader must not be used afterwards. Closing twice is closing once."""
        if self._walk is not None:
            self._walk.close()
            self._walk = None
        self._data = b""
        self._pos = 0
        self._body = bytearray()
        self.held = 0

    def _open(self) -> None:
        self.is_validated = True
        self._decoders = self._later

    def _go_on(self, walk: Generator[int, bytes, Request]) -> Request | None:
        """Feed the walk with all that is there: to its end, or until a field is cut."""
        body = self._body
        try:
            while True:
                data = self._data
                at = self._pos
                stop = at + self._need - len(body)
                piece = data[at:stop]
                self.held += len(piece)
                if stop > len(data):
                    body += piece
                    self._data = b""
                    self._pos = 0
                    return None
                self._pos = stop
                if body:
                    body += piece
                    piece = bytes(body)
                    self._body = body = bytearray()
                self._need = walk.send(piece)
        except StopIteration as done:
            self._walk = None
            self.held = 0
            request: Request = done.value
            if request[0] == Verb.VALIDATE:
                self._open()
            return request

    def _frame(self, verb: Verb) -> Generator[int, bytes, Request]:
        """Walk one request's layout: yield how many bytes come next, receive exactly those, return the request."""
        fields: list[object] = [int(verb)]
        for kind in VERBS[verb].request:
            if kind is Kind.KEY:
                fields.append((yield from self._sized(verb, "key", KEY_SIZE_MAX)))
            elif kind is Kind.VALUE:
                fields.append((yield from self._sized(verb, "value", VALUE_SIZE_MAX)))
            elif kind is Kind.I64:
                fields.append(I64.unpack((yield I64.size))[0])
                self._check_frame(verb, 0)
            elif kind is Kind.U32:
                number = U32.unpack((yield U32.size))[0]
                if verb is Verb.VALIDATE:
                    _check_magic(number)
                fields.append(number)
                self._check_frame(verb, 0)
            elif kind is Kind.KEYS:
                fields.append((yield from self._keys(verb)))
            else:
                fields.append((yield from self._pairs(verb)))
        return tuple(fields)

    def _sized(self, verb: Verb, field: str, limit: int) -> Generator[int, bytes, bytes]:
        """Walk one key or value."""
        (size,) = U64.unpack((yield U64.size))
        if size > limit:
            raise too_large(verb, field, size, limit)
        self._check_frame(verb, size)
        return (yield size)

    def _count(self, verb: Verb) -> Generator[int, bytes, int]:
        (count,) = U64.unpack((yield U64.size))
        if count > KEY_COUNT_MAX:
            raise too_large(verb, "list", count, KEY_COUNT_MAX)
        self._check_frame(verb, 0)
        return int(count)

    def _keys(self, verb: Verb) -> Generator[int, bytes, list[bytes]]:
        count = yield from self._count(verb)
        keys: list[bytes] = []
        while len(keys) < count:
            self._take_keys(verb, keys, count)
            if len(keys) < count:
                keys.append((yield from self._sized(verb, "key", KEY_SIZE_MAX)))
        return keys

    def _take_keys(self, verb: Verb, keys: list[bytes], count: int) -> None:
        """Move the keys that lie whole in this segment to ``keys``: the walk is left to one that is cut or refused."""
        data = self._data
        at = start = self._pos
        end = len(data)
        end_max = start + self._request_size_max - self.held
        decode = DECODERS[Verb.GET]  # the layout of one item
        with suppress(RequestError):
            while len(keys) < count:
                found = decode(verb, data, at, end)
                if found is None or found[0] > end_max:
                    break
                at, (_, key) = found
                keys.append(key)
        self._pos = at
        self.held += at - start

    def _pairs(self, verb: Verb) -> Generator[int, bytes, list[tuple[bytes, bytes]]]:
        count = yield from self._count(verb)
        pairs: list[tuple[bytes, bytes]] = []
        while len(pairs) < count:
            self._take_pairs(verb, pairs, count)
            if len(pairs) < count:
                key = yield from self._sized(verb, "key", KEY_SIZE_MAX)
                value = yield from self._sized(verb, "value", VALUE_SIZE_MAX)
                pairs.append((key, value))
        return pairs

    def _take_pairs(self, verb: Verb, pairs: list[tuple[bytes, bytes]], count: int) -> None:
        """As ``_take_keys``, for pairs."""
        data = self._data
        at = start = self._pos
        end = len(data)
        end_max = start + self._request_size_max - self.held
        decode = DECODERS[Verb.SET]  # the layout of one item
        with suppress(RequestError):
            while len(pairs) < count:
                found = decode(verb, data, at, end)
                if found is None or found[0] > end_max:
                    break
                at, (_, key, value) = found
                pairs.append((key, value))
        self._pos = at
        self.held += at - start

    def _check_frame(self, verb: Verb, more: int) -> None:
        if self.held + more > self._request_size_max:
            message = f"{verb.name} is {self.held + more} bytes long or longer, the limit is {self._request_size_max}"
            raise RequestError(CloseReason.REQUEST_TOO_LARGE, message)
