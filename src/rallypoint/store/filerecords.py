"""The records of a FileStore's file, as bytes.

A record is a key and a value; the last one for a key wins. Key ``k`` is written ``/k``; a record ``-/k`` with an empty
value removes it. ``refcount/`` counts the stores that are open, ``cleanup/`` those that have been closed::

    09000000 "refcount/" 01000000 "1"   02000000 "/k" 01000000 "v"   03000000 "-/k" 00000000

Source: captured files of torch 2.13.0, see ``tests/unit/store/test_filerecords.py``.
"""

from __future__ import annotations

import struct
from typing import Final

from rallypoint.errors import CorruptStoreError, LocalProtocolError

__all__ = [
    "CLEANUP",
    "KEY_SIZE_MAX",
    "REFCOUNT",
    "REMOVED",
    "VALUE_SIZE_MAX",
    "damage",
    "decode_records",
    "encode_record",
]

REFCOUNT: Final = b"refcount/"
CLEANUP: Final = b"cleanup/"
REMOVED: Final = b"-"

KEY_SIZE_MAX: Final = 1 << 16
"""Bytes of a key as it is written; a longer one is damage."""

VALUE_SIZE_MAX: Final = 1 << 30
"""Bytes of a value; a longer one is damage."""

_SIZE = struct.Struct("<I")


def encode_record(key: bytes, value: bytes) -> bytes:
    """Give the bytes of one record. Shape: ``u32 size · key · u32 size · value``, little endian.

    Raises:
        LocalProtocolError: key or value is too long.
    """
    if len(key) > KEY_SIZE_MAX:
        raise LocalProtocolError(f"a FileStore's key has at most {KEY_SIZE_MAX - 1} bytes, got {len(key) - 1}")
    if len(value) > VALUE_SIZE_MAX:
        raise LocalProtocolError(f"a FileStore's value has at most {VALUE_SIZE_MAX} bytes, got {len(value)}")
    return b"".join((_SIZE.pack(len(key)), key, _SIZE.pack(len(value)), value))


def decode_records(data: bytes, start: int, path: str) -> tuple[list[tuple[bytes, bytes]], int]:
    """Take the whole records from the beginning of ``data``.

    Args:
        data: part of a log that begins with a record.
        start: where in the log it begins, for the errors.
        path: the file, for the errors.

    Returns:
        The records, and how many bytes they took; what follows is the beginning of one more.

    Raises:
        CorruptStoreError: something that cannot be a record.

    Cost: linear in the bytes.
    """
    records: list[tuple[bytes, bytes]] = []
    taken, end = 0, len(data)
    while end - taken >= _SIZE.size:
        (key_size,) = _SIZE.unpack_from(data, taken)
        if not 0 < key_size <= KEY_SIZE_MAX:
            raise damage(path, start + taken, f"its key would have {key_size} bytes, 1 to {KEY_SIZE_MAX} are right")
        value_at = taken + _SIZE.size + key_size
        if end < value_at + _SIZE.size:
            break
        key = data[taken + _SIZE.size : value_at]
        if not key.startswith((b"/", b"-/")) and key not in {REFCOUNT, CLEANUP}:
            raise damage(path, start + taken, f"no FileStore writes the key {key[:40]!r}")
        (value_size,) = _SIZE.unpack_from(data, value_at)
        if value_size > VALUE_SIZE_MAX:
            raise damage(path, start + taken, f"its value would have {value_size} bytes, {VALUE_SIZE_MAX} is the most")
        value_at += _SIZE.size
        if end < value_at + value_size:
            break
        records.append((key, data[value_at : value_at + value_size]))
        taken = value_at + value_size
    return records, taken


def damage(path: str, offset: int, why: str) -> CorruptStoreError:
    """Make the error of a bad record.

    Args:
        path: the file.
        offset: the byte at which the record begins.
        why: what is wrong with it.
    """
    return CorruptStoreError(
        f"the record at byte {offset} of {path} is damaged or no FileStore's: {why}; end all processes that use the "
        "file and remove it",
        path=path,
        offset=offset,
    )
