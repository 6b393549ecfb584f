"""Frames of the session dialect as bytes, both ways: one encoder and one decoder a layout, chosen from the table.

A *request* is the plain tuple ``(verb, field, ...)`` that the c10d dialect's codec makes too, so that what serves a
verb need not ask which dialect it came in; request id and ``done`` stand beside it. The fields of a reply are a plain
tuple. As Python objects: numbers are ``int``; KEY, VALUE and STORED ``bytes``; KEYS, LISTED and STORED_EACH a list of
``bytes``; PAIRS of ``(key, value)``; ENTRIES of ``(key, revision, value)``; MEMBERS of ``(rank, label, milliseconds)``.

Decoders see frames that lie whole in one segment (``protocol.session.frames`` cuts them), and take a frame to its very
end: a byte too few or too many is BAD_FRAME.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from struct import Struct
from typing import Any, Final

from rallypoint.errors import LocalProtocolError
from rallypoint.protocol.codec import (
    DECODERS,
    I64,
    U32,
    U64,
    KeyList,
    Request,
    RequestError,
    checked_key,
    checked_value,
)
from rallypoint.protocol.session.fields import check_field, decode_fields, encode_field
from rallypoint.protocol.session.spec import (
    CLOSING_ID,
    SESSION_VERBS,
    EventKind,
    Field,
    SessionVerb,
    Status,
)
from rallypoint.protocol.spec import (
    REQUEST_SIZE_MAX,
    CloseReason,
    Verb,
)

__all__ = [
    "GROUP_VERBS",
    "ID_MAX",
    "REPLY_HEAD_SIZE",
    "REQUEST_HEAD_SIZE",
    "decode_head",
    "decode_reply",
    "decode_reply_head",
    "decode_request",
    "encode_closing",
    "encode_empty",
    "encode_event",
    "encode_number",
    "encode_refusal",
    "encode_reply",
    "encode_reply_head",
    "encode_request",
    "encode_stored_head",
    "reply_fields",
]

ID_MAX: Final = (1 << 63) - 1
"""The last request id: CANCEL names one as an I64."""

GROUP_VERBS: Final = frozenset((SessionVerb.MEET, SessionVerb.EXCHANGE))
"""The verbs whose EXPIRED names members."""

_SIZE: Final = U32.size
_REQUEST_HEAD: Final = Struct("<IBQQ")
_REPLY_HEAD: Final = Struct("<IBQ")
_NUMBER_REPLY: Final = Struct("<IBQq")
_STORED_REPLY: Final = Struct("<IBQQ")

REQUEST_HEAD_SIZE: Final = _REQUEST_HEAD.size
"""Bytes before a request's fields, its size included."""

REPLY_HEAD_SIZE: Final = _REPLY_HEAD.size
"""Bytes before a reply's fields, its size included."""

_SENTENCE_SIZE_MAX = 1024


# --- requests --------------------------------------------------------------------------------------------


def encode_request(verb: SessionVerb, request_id: int, done: int, *fields: Any) -> bytes:
    """Give one request's frame.

    Args:
        verb: what is asked.
        request_id: ``CLOSING_ID`` for HELLO, PROVE, CANCEL and UNWATCH, else one more than the last.
        done: the client holds the replies to all its writes with ids below this.
        fields: as the verb's layout says.

    Raises:
        LocalProtocolError: a key, value, list or the whole request is over its limit, a number outside its bits.

    Shape: ``u32 size · u8 verb · u64 id · u64 done · fields``.
    """
    quick = _QUICK_ENCODERS[verb]
    if quick is not None:
        return quick(verb, request_id, done, *fields)
    return _encode_any(verb, request_id, done, *fields)


def _encode_any(verb: SessionVerb, request_id: int, done: int, *fields: Any) -> bytes:
    parts = [b""]
    for field, value in zip(_REQUEST_LAYOUTS[verb], fields, strict=True):
        check_field(verb, field, value)
        parts += encode_field(field, value)
    parts[0] = _REQUEST_HEAD.pack(_checked_size(verb, sum(map(len, parts))), verb, request_id, done)
    return b"".join(parts)


def _checked_size(verb: SessionVerb, fields_size: int) -> int:
    """Give a frame's size field."""
    size = fields_size + REQUEST_HEAD_SIZE - _SIZE
    if size > REQUEST_SIZE_MAX:
        raise LocalProtocolError(
            f"{verb.name} would be {size} bytes long, the limit for one request is {REQUEST_SIZE_MAX}"
        )
    return size


def _encode_key(verb: SessionVerb, request_id: int, done: int, key: bytes) -> bytes:
    size = len(checked_key(key))
    return _KEY_REQUEST.pack(size + _KEY_OVERHEAD, verb, request_id, done, size) + key


def _encode_key_value(verb: SessionVerb, request_id: int, done: int, key: bytes, value: bytes) -> bytes:
    size, value_size = len(checked_key(key)), len(checked_value(key, value))
    head = _KEY_REQUEST.pack(size + value_size + _KEY_OVERHEAD + 8, verb, request_id, done, size)
    return b"".join((head, key, U64.pack(value_size), value))


def _encode_key_i64(verb: SessionVerb, request_id: int, done: int, key: bytes, number: int) -> bytes:
    size = len(checked_key(key))
    check_field(verb, Field.I64, number)
    return _KEY_REQUEST.pack(size + _KEY_OVERHEAD + 8, verb, request_id, done, size) + key + I64.pack(number)


def _encode_keys(verb: SessionVerb, request_id: int, done: int, keys: Sequence[bytes]) -> bytes:
    if type(keys) is not KeyList:
        return _encode_any(verb, request_id, done, keys)
    return _REQUEST_HEAD.pack(_checked_size(verb, len(keys.wire)), verb, request_id, done) + keys.wire


_KEY_REQUEST: Final = Struct("<IBQQQ")  # a request's head and the size of the key behind it
_KEY_OVERHEAD: Final = _KEY_REQUEST.size - _SIZE

_QUICK: Final[Mapping[tuple[Field, ...], Callable[..., bytes]]] = {
    (Field.KEY,): _encode_key,
    (Field.KEY, Field.VALUE): _encode_key_value,
    (Field.KEY, Field.I64): _encode_key_i64,
    (Field.KEYS,): _encode_keys,
}
_QUICK_ENCODERS: Final = tuple(
    _QUICK.get(SESSION_VERBS[SessionVerb(byte)].request) if byte in SESSION_VERBS else None for byte in range(256)
)
"""Encoders of the layouts that are most in use; the others are walked."""


def decode_head(data: bytes, at: int) -> tuple[int, int, int]:
    """Give verb byte, request id and ``done`` of a frame at ``at``, whose ``REQUEST_HEAD_SIZE`` bytes are there."""
    _, verb, request_id, done = _REQUEST_HEAD.unpack_from(data, at)
    return verb, request_id, done


def decode_request(verb: int, data: bytes, at: int, end: int) -> Request:
    """Give a request from a whole frame.

    Args:
        verb: its verb byte.
        data: where the frame is.
        at: where its fields begin.
        end: where the frame ends.

    Returns:
        ``(verb, field, ...)``.

    Raises:
        RequestError: the verb is unknown, a field over its limit, or the frame too short or too long.
    """
    decoder = _C10D_DECODERS[verb]
    if decoder is not None:
        found = decoder(verb, data, at, end)
        if found is not None and found[0] == end:
            return found[1]
    layout = _REQUEST_LAYOUTS.get(verb)
    if layout is None:
        raise RequestError(CloseReason.UNKNOWN_VERB, f"the verb byte of a frame is {verb}, which means nothing")
    return (verb, *decode_fields(layout, data, at, end))


_REQUEST_LAYOUTS: Final[Mapping[int, tuple[Field, ...]]] = {
    int(verb): spec.request for verb, spec in SESSION_VERBS.items()
}
_C10D_DECODERS: Final = tuple(
    DECODERS[byte] if byte in _REQUEST_LAYOUTS and byte <= Verb.BARRIER else None for byte in range(256)
)


# --- replies ---------------------------------------------------------------------------------------------

_REASON_FIELDS: Final = (Field.KEY, Field.KEY)
_STATUS_FIELDS: Final[Mapping[Status, tuple[Field, ...]]] = {
    Status.EXPIRED: (Field.LISTED,),
    Status.REFUSED: _REASON_FIELDS,
    Status.LOST: (Field.MEMBERS,),
    Status.EVENT: (Field.U8, Field.KEY, Field.STORED, Field.I64),
    Status.CHALLENGE: (Field.KEY,),
    Status.CLOSING: _REASON_FIELDS,
}


def reply_fields(status: Status, verb: SessionVerb | None) -> tuple[Field, ...]:
    """Give the layout of a reply.

    Args:
        status: what it is.
        verb: of the request that it answers; ``None`` for what belongs to none.
    """
    if status is Status.OK:
        if verb is None:
            raise RequestError(CloseReason.BAD_FRAME, "the server answered OK to what was not asked")
        return SESSION_VERBS[verb].reply
    if status is Status.EXPIRED and verb in GROUP_VERBS:
        return (Field.MEMBERS, Field.MEMBERS)
    return _STATUS_FIELDS[status]


def encode_reply(status: Status, verb: SessionVerb | None, request_id: int, *fields: Any) -> bytes:
    """Give one reply's frame. Shape: ``u32 size · u8 status · u64 id · fields``."""
    parts = [b""]
    for field, value in zip(reply_fields(status, verb), fields, strict=True):
        parts += encode_field(field, value)
    parts[0] = encode_reply_head(status, request_id, sum(map(len, parts)))
    return b"".join(parts)


def encode_reply_head(status: Status, request_id: int, fields_size: int) -> bytes:
    """Give what precedes a reply's fields, for fields of ``fields_size`` bytes that are sent as they are."""
    return _REPLY_HEAD.pack(REPLY_HEAD_SIZE - _SIZE + fields_size, status, request_id)


def encode_empty(request_id: int) -> bytes:
    """Give an OK without fields."""
    return _REPLY_HEAD.pack(9, 0, request_id)


def encode_number(request_id: int, number: int) -> bytes:
    """Give an OK with one I64."""
    return _NUMBER_REPLY.pack(17, 0, request_id, number)


def encode_stored_head(request_id: int, size: int) -> bytes:
    """Give what precedes the value of an OK with one STORED of ``size`` bytes."""
    return _STORED_REPLY.pack(17 + size, 0, request_id, size)


def encode_refusal(request_id: int, reason: CloseReason, sentence: str) -> bytes:
    """Give a REFUSED; a very long sentence is cut."""
    return encode_reply(Status.REFUSED, None, request_id, reason.value.encode(), _cut(sentence))


def encode_closing(reason: CloseReason, sentence: str) -> bytes:
    """Give a CLOSING; a very long sentence is cut."""
    return encode_reply(Status.CLOSING, None, CLOSING_ID, reason.value.encode(), _cut(sentence))


def encode_event(watch_id: int, kind: EventKind, key: bytes, value: bytes, revision: int) -> bytes:
    """Give an EVENT of the watch that request ``watch_id`` began."""
    return encode_reply(Status.EVENT, None, watch_id, kind, key, value, revision)


def decode_reply_head(data: bytes, at: int) -> tuple[int, int]:
    """Give status byte and request id of a frame at ``at``, whose ``REPLY_HEAD_SIZE`` bytes are there."""
    _, status, request_id = _REPLY_HEAD.unpack_from(data, at)
    return status, request_id


def decode_reply(status: Status, verb: SessionVerb | None, data: bytes, at: int, end: int) -> tuple[Any, ...]:
    """Give the fields of a reply.

    Args:
        status: what it is.
        verb: of the request that it answers; ``None`` for what belongs to none.
        data: where the frame is.
        at: where its fields begin.
        end: where the frame ends.

    Raises:
        RequestError: a ``RemoteProtocolError``: the fields are not those of the layout.
    """
    return decode_fields(reply_fields(status, verb), data, at, end)


def _cut(sentence: str) -> bytes:
    return sentence.encode(errors="replace")[:_SENTENCE_SIZE_MAX]
