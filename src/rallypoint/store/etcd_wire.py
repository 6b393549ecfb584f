"""etcd's messages as bytes: the part of its API that a store needs, read and written by hand.

Rules:

- What is sent is what protocol buffers make of the message; a field with its default value is left out.
- What is read may hold fields that are not known here; they are passed over. Bytes that are no message raise
  ``RemoteProtocolError``, never anything else, and nothing is read beyond the message's end.

A message is a run of fields: ``varint (number << 3 | kind)`` and then a varint (kind 0), 8 bytes (kind 1), a varint
length and so many bytes (kind 2), or 4 bytes (kind 5).

Source: field numbers of etcd's ``rpc.proto`` and ``kv.proto``, API version 3.4 to 3.6.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from rallypoint.errors import RemoteProtocolError

__all__ = [
    "ANY",
    "KeyValue",
    "Ranged",
    "Told",
    "Transacted",
    "WatchEvent",
    "authenticate",
    "delete",
    "end_of_prefix",
    "has_revision",
    "has_value",
    "is_absent",
    "lease_grant",
    "lease_number",
    "nested",
    "numbers_of",
    "op_delete",
    "op_put",
    "op_range",
    "op_txn",
    "put",
    "range_of",
    "read_range",
    "read_txn",
    "read_watch",
    "revision_of",
    "texts_of",
    "txn",
    "watch_cancel",
    "watch_create",
]

ANY: Final = b"\0"
"""As the end of a range: all keys from its beginning on."""

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_VARINT_SIZE_MAX = 10
_SIGN = 1 << 63

Fields = list[tuple[int, "int | bytes"]]


class KeyValue(NamedTuple):
    """A key as etcd has it; ``revision`` is that of its last change."""

    key: bytes
    value: bytes
    revision: int
    lease: int = 0


class Ranged(NamedTuple):
    """What a range was answered: entries, how many there are in all, and etcd's revision then."""

    entries: list[KeyValue]
    total: int
    revision: int


class Transacted(NamedTuple):
    """What a transaction was answered: whether the comparisons held, the answers of its operations, the revision."""

    is_done: bool
    answers: list[bytes]
    revision: int


class WatchEvent(NamedTuple):
    """One change that a watch tells."""

    is_deletion: bool
    entry: KeyValue


class Told(NamedTuple):
    """One message of a watch stream.

    Attributes:
        watch: the number of the watch; negative for one that etcd did not take.
        revision: etcd's revision then.
        is_created: the watch has begun.
        is_canceled: it has ended.
        compacted_at: above 0: the watch was to begin before this revision, and what was before it is gone.
        reason: why it has ended.
        events: the changes.
    """

    watch: int
    revision: int
    is_created: bool
    is_canceled: bool
    compacted_at: int
    reason: str
    events: list[WatchEvent]


# --- writing ---------------------------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    if 0 <= number < 128:
        return bytes((number,))
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def _text(number: int, text: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(text)) + text


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value) if value else b""


def end_of_prefix(prefix: bytes) -> bytes:
    """Give the end of the range of all keys that begin with a prefix."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else ANY


def range_of(
    key: bytes, end: bytes = b"", *, limit: int = 0, revision: int = 0, is_count: bool = False, is_keys: bool = False
) -> bytes:
    """Ask for a key, or for all from it up to ``end``, as they were at a revision; 0 is now."""
    out = _text(1, key)
    if end:
        out += _text(2, end)
    return out + _number(3, limit) + _number(4, revision) + _number(8, is_keys) + _number(9, is_count)


def put(key: bytes, value: bytes, *, lease: int = 0, keeps_lease: bool = False) -> bytes:
    """Write a key, under a lease or under that which it has."""
    return _text(1, key) + _text(2, value) + _number(3, lease) + _number(6, keeps_lease)


def delete(key: bytes, end: bytes = b"") -> bytes:
    """Remove a key, or all from it up to ``end``."""
    return _text(1, key) + (_text(2, end) if end else b"")


def op_range(request: bytes) -> bytes:
    """Make a range an operation of a transaction."""
    return _text(1, request)


def op_put(request: bytes) -> bytes:
    """Make a put an operation of a transaction."""
    return _text(2, request)


def op_delete(request: bytes) -> bytes:
    """Make a deletion an operation of a transaction."""
    return _text(3, request)


def op_txn(request: bytes) -> bytes:
    """Make a transaction an operation of another one."""
    return _text(4, request)


def is_absent(key: bytes, end: bytes = b"") -> bytes:
    """Demand that there is no such key, or none in a range."""
    return b"\x10\x01" + _text(3, key) + b"\x28\x00" + (_text(64, end) if end else b"")


def has_revision(key: bytes, revision: int) -> bytes:
    """Demand that a key was changed last at a revision; 0 for one that is not there."""
    return b"\x10\x02" + _text(3, key) + b"\x30" + _varint(revision)


def has_value(key: bytes, value: bytes) -> bytes:
    """Demand that a key is there and holds a value."""
    return b"\x10\x03" + _text(3, key) + _text(7, value)


def txn(compare: Iterable[bytes], success: Iterable[bytes], failure: Iterable[bytes] = ()) -> bytes:
    """Do operations if all comparisons hold, else others; all at one moment."""
    parts = [_text(1, one) for one in compare]
    parts += [_text(2, one) for one in success]
    parts += [_text(3, one) for one in failure]
    return b"".join(parts)


def nested(operations: Sequence[bytes], width: int) -> list[bytes]:
    """Put many operations into transactions of at most ``width``, each of them one operation."""
    return [op_txn(txn((), operations[at : at + width])) for at in range(0, len(operations), width)]


def watch_create(
    watch: int,
    key: bytes,
    end: bytes = b"",
    *,
    revision: int = 0,
    is_deaf_to_deletions: bool = False,
    is_deaf_to_writes: bool = False,
) -> bytes:
    """Begin to watch a key, or a range, from a revision on; 0 is from now on."""
    out = _text(1, key) + (_text(2, end) if end else b"") + _number(3, revision) + b"\x20\x01"
    filters = (b"\0" if is_deaf_to_writes else b"") + (b"\x01" if is_deaf_to_deletions else b"")
    return _text(1, out + (_text(5, filters) if filters else b"") + _number(7, watch))


def watch_cancel(watch: int) -> bytes:
    """End a watch."""
    return _text(2, _number(1, watch))


def lease_grant(lease: int, ttl_s: int) -> bytes:
    """Begin a lease of a number of our own."""
    return _number(1, ttl_s) + _number(2, lease)


def lease_number(lease: int, *, wants_keys: bool = False) -> bytes:
    """Name a lease: to renew it, to revoke it, or to ask how it stands."""
    return _number(1, lease) + _number(2, wants_keys)


def authenticate(user: str, password: str) -> bytes:
    """Ask for a token."""
    return _text(1, user.encode()) + _text(2, password.encode())


# --- reading ---------------------------------------------------------------------------------------------


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    for used in range(_VARINT_SIZE_MAX):
        try:
            byte = data[at + used]
        except IndexError:
            break
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at + used + 1
        shift += 7
    raise RemoteProtocolError(f"etcd answered nonsense: a number at byte {at} of {len(data)} has no end")


def _fields(data: bytes) -> Fields:
    """Give the fields of one message, in order: numbers signed, texts as bytes."""
    out: Fields = []
    at, size = 0, len(data)
    while at < size:
        tag = data[at]
        if tag < 128:
            at += 1
        else:
            tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            number, at = _read_varint(data, at)
            out.append((tag >> 3, number - (1 << 64) if number & _SIGN else number))
            continue
        if kind == _BYTES:
            length, start = _read_varint(data, at)
        elif kind in (_EIGHT, _FOUR):
            length, start = (8 if kind == _EIGHT else 4), at
        else:
            raise RemoteProtocolError(
                f"etcd answered nonsense: a field at byte {at} of {size} is of an unknown kind {kind}"
            )
        at = start + length
        if at > size:
            raise RemoteProtocolError(
                f"etcd answered nonsense: {length} bytes at byte {start} of {size} go beyond the end"
            )
        out.append((tag >> 3, data[start:at]))
    return out


def numbers_of(data: bytes) -> dict[int, int]:
    """Give the numbers in a message, by field."""
    return {number: value for number, value in _fields(data) if isinstance(value, int)}


def texts_of(data: bytes, wanted: int) -> list[bytes]:
    """Give the texts, or messages, of one repeated field."""
    return [value for number, value in _fields(data) if number == wanted and isinstance(value, bytes)]


def revision_of(data: bytes) -> int:
    """Give the revision in an answer's header."""
    headers = texts_of(data, 1)
    return numbers_of(headers[0]).get(3, 0) if headers else 0


def _read_entry(data: bytes) -> KeyValue:
    key = value = b""
    revision = lease = 0
    for number, content in _fields(data):
        if isinstance(content, bytes):
            if number == 1:
                key = content
            elif number == 5:
                value = content
        elif number == 3:
            revision = content
        elif number == 6:
            lease = content
    return KeyValue(key, value, revision, lease)


def read_range(data: bytes) -> Ranged:
    """Read the answer of a range.

    Raises:
        RemoteProtocolError: the bytes are none.
    """
    entries: list[KeyValue] = []
    total = revision = 0
    for number, content in _fields(data):
        if isinstance(content, int):
            total = content if number == 4 else total
        elif number == 2:
            entries.append(_read_entry(content))
        elif number == 1:
            revision = numbers_of(content).get(3, 0)
    return Ranged(entries, total, revision)


def read_txn(data: bytes) -> Transacted:
    """Read the answer of a transaction; each operation's own answer stays bytes.

    Raises:
        RemoteProtocolError: the bytes are none.
    """
    is_done = False
    answers: list[bytes] = []
    revision = 0
    for number, content in _fields(data):
        if isinstance(content, int):
            is_done = bool(content) if number == 2 else is_done
        elif number == 3:
            inner = _fields(content)
            if len(inner) != 1 or not isinstance(inner[0][1], bytes):
                raise RemoteProtocolError(
                    f"etcd answered nonsense: the answer of one operation has {len(inner)} parts, expected 1"
                )
            answers.append(inner[0][1])
        elif number == 1:
            revision = numbers_of(content).get(3, 0)
    return Transacted(is_done, answers, revision)


def read_watch(data: bytes) -> Told:
    """Read one message of a watch stream.

    Raises:
        RemoteProtocolError: the bytes are none.
    """
    flags: dict[int, int] = {}
    revision, reason = 0, ""
    events: list[WatchEvent] = []
    for number, content in _fields(data):
        if isinstance(content, int):
            flags[number] = content
        elif number == 11:
            is_deletion, entry = False, None
            for part, inner in _fields(content):
                if isinstance(inner, int):
                    is_deletion = bool(inner) if part == 1 else is_deletion
                elif part == 2:
                    entry = _read_entry(inner)
            if entry is None:
                raise RemoteProtocolError("etcd answered nonsense: a change has no key")
            events.append(WatchEvent(is_deletion, entry))
        elif number == 1:
            revision = numbers_of(content).get(3, 0)
        elif number == 6:
            reason = content.decode(errors="replace")
    return Told(flags.get(2, 0), revision, bool(flags.get(3)), bool(flags.get(4)), flags.get(5, 0), reason, events)
