"""Requests and replies as bytes: one encoder and one decoder a layout, chosen from the table.

A *request* is the plain tuple ``(verb, field, ...)``: the cheapest thing Python can build, because a server
builds one for every few bytes it reads. Keys and values are ``bytes``, KEYS is a list of them, PAIRS a list
of ``(key, value)``.

Decoders here see only requests that lie whole in one segment; the rest is ``protocol.server``'s work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from struct import Struct
from typing import Any, Final, TypeAlias

from rallypoint.errors import LocalProtocolError, RemoteProtocolError
from rallypoint.protocol.spec import (
    KEY_COUNT_MAX,
    KEY_SIZE_MAX,
    REQUEST_SIZE_MAX,
    VALUE_SIZE_MAX,
    VERBS,
    CloseReason,
    Kind,
    Verb,
)

__all__ = [
    "DECODERS",
    "I64",
    "U32",
    "U64",
    "Decoder",
    "KeyList",
    "Request",
    "RequestError",
    "checked_count",
    "checked_key",
    "checked_value",
    "encode_keys",
    "encode_request",
    "too_large",
]

Request: TypeAlias = tuple[Any, ...]
"""``(verb, field, ...)``, the fields as the verb's layout says."""

Decoder: TypeAlias = Callable[[int, bytes, int, int], "tuple[int, Request] | None"]
"""``(verb, data, start of the fields, end of the data)`` -> ``(end of the request, request)``, ``None`` if the request
is not all there."""

U32: Final = Struct("<I")
U64: Final = Struct("<Q")
I64: Final = Struct("<q")

_u64_at = U64.unpack_from
_u32_at = U32.unpack_from
_i64_at = I64.unpack_from
_u64 = U64.pack
_HEAD: Final = Struct("<BQ")  # a verb and the first length behind it

_SHOWN_MAX = 40


class KeyList(list[bytes]):
    """Keys that nobody changes, with the bytes that they came as: who sends them on encodes them no more.

    Args:
        keys: within their limits.
        wire: the same as KEYS.
    """

    __slots__ = ("wire",)

    def __init__(self, keys: Sequence[bytes], wire: bytes) -> None:
        super().__init__(keys)
        self.wire: Final = wire


class RequestError(RemoteProtocolError):
    """A peer's request cannot be taken; the connection must be closed.

    Attributes:
        reason: the kind of refusal.
    """

    def __init__(self, reason: CloseReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def too_large(verb: int, field: str, size: int, limit: int) -> RequestError:
    """Give the refusal of a length field that is over its limit."""
    unit = "items" if field == "list" else "bytes"
    message = f"{Verb(verb).name} claims a {field} of {size} {unit}, the limit is {limit}"
    return RequestError(CloseReason.FIELD_TOO_LARGE, message)


# --- decoding --------------------------------------------------------------------------------------------


def _decode_nothing(verb: int, data: bytes, at: int, end: int) -> tuple[int, Request] | None:  # noqa: ARG001 - a Decoder
    return at, (verb,)


def _decode_u32(verb: int, data: bytes, at: int, end: int) -> tuple[int, Request] | None:
    if end - at < U32.size:
        return None
    return at + 4, (verb, _u32_at(data, at)[0])


def _decode_key(verb: int, data: bytes, at: int, end: int) -> tuple[int, Request] | None:
    key_at = at + 8
    if key_at > end:
        return None
    size = _u64_at(data, at)[0]
    if size > KEY_SIZE_MAX:
        raise too_large(verb, "key", size, KEY_SIZE_MAX)
    stop = key_at + size
    if stop > end:
        return None
    return stop, (verb, data[key_at:stop])


def _decode_key_i64(verb: int, data: bytes, at: int, end: int) -> tuple[int, Request] | None:
    key_at = at + 8
    if key_at > end:
        return None
    size = _u64_at(data, at)[0]
    if size > KEY_SIZE_MAX:
        raise too_large(verb, "key", size, KEY_SIZE_MAX)
    key_end = key_at + size
    if key_end + 8 > end:
        return None
    return key_end + 8, (verb, data[key_at:key_end], _i64_at(data, key_end)[0])


def _decode_key_value(verb: int, data: bytes, at: int, end: int) -> tuple[int, Request] | None:
    key_at = at + 8
    if key_at > end:
        return None
    size = _u64_at(data, at)[0]
    if size > KEY_SIZE_MAX:
        raise too_large(verb, "key", size, KEY_SIZE_MAX)
    key_end = key_at + size
    value_at = key_end + 8
    if value_at > end:
        return None
    size = _u64_at(data, key_end)[0]
    if size > VALUE_SIZE_MAX:
        raise too_large(verb, "value", size, VALUE_SIZE_MAX)
    stop = value_at + size
    if stop > end:
        return None
    return stop, (verb, data[key_at:key_end], data[value_at:stop])


def _decode_key_value_value(verb: int, data: bytes, at: int, end: int) -> tuple[int, Request] | None:
    found = _decode_key_value(verb, data, at, end)
    if found is None:
        return None
    second, request = found
    value_at = second + 8
    if value_at > end:
        return None
    size = _u64_at(data, second)[0]
    if size > VALUE_SIZE_MAX:
        raise too_large(verb, "value", size, VALUE_SIZE_MAX)
    stop = value_at + size
    if stop > end:
        return None
    return stop, (*request, data[value_at:stop])


def _decode_keys(verb: int, data: bytes, at: int, end: int) -> tuple[int, Request] | None:
    if end - at < U64.size:
        return None
    count = _u64_at(data, at)[0]
    if count > KEY_COUNT_MAX:
        raise too_large(verb, "list", count, KEY_COUNT_MAX)
    at += 8
    keys: list[bytes] = []
    for _ in range(count):
        key_at = at + 8
        if key_at > end:
            return None
        size = _u64_at(data, at)[0]
        if size > KEY_SIZE_MAX:
            raise too_large(verb, "key", size, KEY_SIZE_MAX)
        at = key_at + size
        if at > end:
            return None
        keys.append(data[key_at:at])
    return at, (verb, keys)


def _decode_pairs(verb: int, data: bytes, at: int, end: int) -> tuple[int, Request] | None:
    if end - at < U64.size:
        return None
    count = _u64_at(data, at)[0]
    if count > KEY_COUNT_MAX:
        raise too_large(verb, "list", count, KEY_COUNT_MAX)
    at += 8
    pairs: list[tuple[bytes, bytes]] = []
    for _ in range(count):
        found = _decode_key_value(verb, data, at, end)
        if found is None:
            return None
        at, (_, key, value) = found
        pairs.append((key, value))
    return at, (verb, pairs)


def _refuse_verb(verb: int, data: bytes, at: int, end: int) -> tuple[int, Request] | None:  # noqa: ARG001 - a Decoder
    raise RequestError(CloseReason.UNKNOWN_VERB, f"the verb byte is {verb}, the last known one is {max(Verb)}")


_DECODER_OF: Mapping[tuple[Kind, ...], Decoder] = {
    (): _decode_nothing,
    (Kind.U32,): _decode_u32,
    (Kind.KEY,): _decode_key,
    (Kind.KEY, Kind.I64): _decode_key_i64,
    (Kind.KEY, Kind.VALUE): _decode_key_value,
    (Kind.KEY, Kind.VALUE, Kind.VALUE): _decode_key_value_value,
    (Kind.KEYS,): _decode_keys,
    (Kind.PAIRS,): _decode_pairs,
}

DECODERS: Final[tuple[Decoder, ...]] = tuple(
    _DECODER_OF[VERBS[Verb(byte)].request] if byte in VERBS else _refuse_verb for byte in range(256)
)
"""The decoder for each verb byte; that of an unknown byte raises ``RequestError``."""


# --- encoding --------------------------------------------------------------------------------------------


def _shown(text: bytes) -> str:
    return repr(text) if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]!r}..."


def checked_key(key: bytes) -> bytes:
    """Give the key back; raises ``LocalProtocolError`` if it is over its limit."""
    if len(key) > KEY_SIZE_MAX:
        raise LocalProtocolError(
            f"the key {_shown(key)} is {len(key)} bytes long on the wire, the limit is {KEY_SIZE_MAX} bytes"
        )
    return key


def checked_value(key: bytes, value: bytes) -> bytes:
    """Give the value back; raises ``LocalProtocolError``, which names the key, if it is over its limit."""
    if len(value) > VALUE_SIZE_MAX:
        raise LocalProtocolError(
            f"the value for key {_shown(key)} is {len(value)} bytes long, the limit is {VALUE_SIZE_MAX} bytes"
        )
    return value


def checked_count(verb: IntEnum, count: int) -> int:
    """Give the number of items back; raises ``LocalProtocolError``, which names the verb, if it is over its limit."""
    if count > KEY_COUNT_MAX:
        raise LocalProtocolError(f"{verb.name} was given {count} keys, the limit for one request is {KEY_COUNT_MAX}")
    return count


def _encode_nothing(verb: Verb) -> bytes:
    return bytes((verb,))


def _encode_u32(verb: Verb, number: int) -> bytes:
    return bytes((verb,)) + U32.pack(number)


def _encode_key(verb: Verb, key: bytes) -> bytes:
    return _HEAD.pack(verb, len(checked_key(key))) + key


def _encode_key_i64(verb: Verb, key: bytes, number: int) -> bytes:
    if not -(1 << 63) <= number < 1 << 63:
        raise LocalProtocolError(f"{verb.name} on key {_shown(key)} was given {number}, which 64 bits cannot hold")
    return _encode_key(verb, key) + I64.pack(number)


def _encode_key_value(verb: Verb, key: bytes, *values: bytes) -> bytes:
    parts = [_HEAD.pack(verb, len(checked_key(key))), key]
    for value in values:
        parts += (_u64(len(checked_value(key, value))), value)
    return b"".join(parts)


def _encode_keys(verb: Verb, keys: Sequence[bytes]) -> bytes:
    parts = [_HEAD.pack(verb, checked_count(verb, len(keys)))]
    for key in keys:
        parts.append(_u64(len(checked_key(key))))
        parts.append(key)
    return _joined(verb, parts)


def encode_keys(keys: Sequence[bytes]) -> bytes:
    """Give KEYS, whose limits are the caller's to check."""
    parts = [_u64(len(keys))]
    for key in keys:
        parts += (_u64(len(key)), key)
    return b"".join(parts)


def _encode_pairs(verb: Verb, pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    parts = [_HEAD.pack(verb, checked_count(verb, len(pairs)))]
    for key, value in pairs:
        parts += (_u64(len(checked_key(key))), key, _u64(len(checked_value(key, value))), value)
    return _joined(verb, parts)


def _joined(verb: Verb, parts: Sequence[bytes]) -> bytes:
    size = sum(map(len, parts))
    if size > REQUEST_SIZE_MAX:
        raise LocalProtocolError(
            f"{verb.name} would be {size} bytes long, the limit for one request is {REQUEST_SIZE_MAX}"
        )
    return b"".join(parts)


_ENCODER_OF: Mapping[tuple[Kind, ...], Callable[..., bytes]] = {
    (): _encode_nothing,
    (Kind.U32,): _encode_u32,
    (Kind.KEY,): _encode_key,
    (Kind.KEY, Kind.I64): _encode_key_i64,
    (Kind.KEY, Kind.VALUE): _encode_key_value,
    (Kind.KEY, Kind.VALUE, Kind.VALUE): _encode_key_value,
    (Kind.KEYS,): _encode_keys,
    (Kind.PAIRS,): _encode_pairs,
}

_ENCODERS: Final = tuple(_ENCODER_OF[VERBS[verb].request] for verb in Verb)


def encode_request(verb: Verb, *fields: Any) -> bytes:
    """Give the bytes of one request.

    Args:
        verb: what is asked.
        fields: as the verb's layout says: a key or value as ``bytes``, a number as ``int``, KEYS as a sequence of
            ``bytes``, PAIRS as a sequence of ``(key, value)``. Keys are wire keys: the ``/`` is the caller's.

    Raises:
        LocalProtocolError: a key, value, list or the whole request is over its limit, a number outside int64.

    Shape: ``u8 verb · fields``, see ``spec.VERBS``.
    """
    return _ENCODERS[verb](verb, *fields)
