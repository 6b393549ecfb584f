"""Fields of the session dialect's frames as bytes, both ways: what ``codec`` walks a layout with.

What this file does not know: frames, verbs' layouts, which side it is on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from rallypoint.errors import LocalProtocolError
from rallypoint.protocol.codec import (
    DECODERS,
    I64,
    U32,
    U64,
    RequestError,
    checked_count,
    checked_key,
    checked_value,
)
from rallypoint.protocol.session.spec import Field, SessionVerb
from rallypoint.protocol.spec import KEY_SIZE_MAX, VALUE_SIZE_MAX, CloseReason, Verb

__all__ = ["check_field", "decode_fields", "encode_field"]

_FieldDecoder: TypeAlias = Callable[[bytes, int, int], "tuple[Any, int]"]


def _short(what: str) -> RequestError:
    return RequestError(CloseReason.BAD_FRAME, f"a frame ends amid {what}")


# --- fields: decoding ------------------------------------------------------------------------------------


def _u8(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at + 1 > end:
        raise _short("a number")
    return data[at], at + 1


def _u32(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at + 4 > end:
        raise _short("a number")
    return U32.unpack_from(data, at)[0], at + 4


def _i64(data: bytes, at: int, end: int) -> tuple[int, int]:
    if at + 8 > end:
        raise _short("a number")
    return I64.unpack_from(data, at)[0], at + 8


def _sized(what: str, limit: int | None) -> _FieldDecoder:
    def decode(data: bytes, at: int, end: int) -> tuple[bytes, int]:
        start = at + 8
        if start > end:
            raise _short(f"the size of a {what}")
        size = U64.unpack_from(data, at)[0]
        if limit is not None and size > limit:
            message = f"a frame claims a {what} of {size} bytes, the limit is {limit}"
            raise RequestError(CloseReason.FIELD_TOO_LARGE, message)
        stop = start + size
        if stop > end:
            raise _short(f"a {what}")
        return data[start:stop], stop

    return decode


_key = _sized("key", KEY_SIZE_MAX)
_value = _sized("value", VALUE_SIZE_MAX)
_stored = _sized("value", None)


def _stored_each(data: bytes, at: int, end: int) -> tuple[list[bytes], int]:
    values = []
    while at < end:
        value, at = _stored(data, at, end)
        values.append(value)
    return values, at


def _counted(item: Callable[[bytes, int, int], tuple[Any, int]]) -> _FieldDecoder:
    def decode(data: bytes, at: int, end: int) -> tuple[list[Any], int]:
        count, at = _i64(data, at, end)
        if not 0 <= count <= (end - at) // 8:  # every item has 8 bytes or more
            raise RequestError(CloseReason.BAD_FRAME, f"a frame claims a list of {count} items in {end - at} bytes")
        items = []
        for _ in range(count):
            one, at = item(data, at, end)
            items.append(one)
        return items, at

    return decode


def _entry(data: bytes, at: int, end: int) -> tuple[tuple[bytes, int, bytes], int]:
    key, at = _key(data, at, end)
    revision, at = _i64(data, at, end)
    value, at = _stored(data, at, end)
    return (key, revision, value), at


def _member(data: bytes, at: int, end: int) -> tuple[tuple[int, bytes, int], int]:
    rank, at = _u32(data, at, end)
    label, at = _key(data, at, end)
    since_ms, at = _i64(data, at, end)
    return (rank, label, since_ms), at


def _by_c10d(verb: Verb) -> _FieldDecoder:
    """Give the decoder of a list out of c10d's: of a verb whose only field it is."""
    decoder = DECODERS[verb]

    def decode(data: bytes, at: int, end: int) -> tuple[list[Any], int]:
        found = decoder(verb, data, at, end)
        if found is None:
            raise _short("a list")
        return found[1][1], found[0]

    return decode


_FIELD_DECODERS: Final[Mapping[Field, _FieldDecoder]] = {
    Field.U8: _u8,
    Field.U32: _u32,
    Field.I64: _i64,
    Field.KEY: _key,
    Field.VALUE: _value,
    Field.KEYS: _by_c10d(Verb.CHECK),
    Field.PAIRS: _by_c10d(Verb.MULTI_SET),
    Field.STORED: _stored,
    Field.STORED_EACH: _stored_each,
    Field.LISTED: _counted(_key),
    Field.ENTRIES: _counted(_entry),
    Field.MEMBERS: _counted(_member),
}


def decode_fields(layout: tuple[Field, ...], data: bytes, at: int, end: int) -> tuple[Any, ...]:
    """Give the fields that lie between ``at`` and ``end``.

    Raises:
        RequestError: they are not those of the layout, to the last byte.
    """
    fields = []
    for field in layout:
        value, at = _FIELD_DECODERS[field](data, at, end)
        fields.append(value)
    if at != end:
        raise RequestError(CloseReason.BAD_FRAME, f"a frame has {end - at} bytes behind its last field")
    return tuple(fields)


# --- fields: encoding ------------------------------------------------------------------------------------


def _bytes_parts(value: bytes) -> tuple[bytes, bytes]:
    return U64.pack(len(value)), value


def encode_field(field: Field, value: Any) -> Sequence[bytes]:  # noqa: PLR0911 - one return a field
    """Give the pieces of one field; sizes are the caller's to check."""
    match field:
        case Field.U8:
            return (bytes((value,)),)
        case Field.U32:
            return (U32.pack(value),)
        case Field.I64:
            return (I64.pack(value),)
        case Field.KEY | Field.VALUE | Field.STORED:
            return _bytes_parts(value)
        case Field.STORED_EACH:
            return [part for one in value for part in _bytes_parts(one)]
        case Field.KEYS | Field.LISTED:
            return [I64.pack(len(value)), *(part for one in value for part in _bytes_parts(one))]
        case Field.PAIRS:
            return [U64.pack(len(value)), *(part for pair in value for one in pair for part in _bytes_parts(one))]
        case Field.ENTRIES:
            parts = [I64.pack(len(value))]
            for key, revision, stored in value:
                parts += (*_bytes_parts(key), I64.pack(revision), *_bytes_parts(stored))
            return parts
        case Field.MEMBERS:
            parts = [I64.pack(len(value))]
            for rank, label, since_ms in value:
                parts += (U32.pack(rank), *_bytes_parts(label), I64.pack(since_ms))
            return parts


def check_field(verb: SessionVerb, field: Field, value: Any) -> None:
    """Raise ``LocalProtocolError`` if a request's field is over its limit."""
    if field is Field.KEY:
        checked_key(value)
    elif field is Field.VALUE:
        checked_value(b"", value)
    elif field is Field.KEYS:
        checked_count(verb, len(value))
        for key in value:
            checked_key(key)
    elif field is Field.PAIRS:
        checked_count(verb, len(value))
        for key, stored in value:
            checked_value(checked_key(key), stored)
    elif field is Field.I64 and not -(1 << 63) <= value < 1 << 63:
        raise LocalProtocolError(f"{verb.name} was given {value}, which 64 bits cannot hold")
    elif field is Field.U32 and not 0 <= value < 1 << 32:
        raise LocalProtocolError(f"{verb.name} was given {value}, which 32 bits cannot hold")
