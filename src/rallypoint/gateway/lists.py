"""Lists of keys as they come: where one member of a job names many keys, the others mostly name the same ones.

The long list that came last is kept. One that begins with the same bytes is the same list, for no list is the beginning
of another: it is compared, which costs a thousandth of decoding it. All lists keep the bytes that they came as
(``KeyList``), so they go on to the other side without being encoded again. Keys of one length, as numbered ones mostly
are, lie at equal distances, and their sizes are looked at together, byte by byte of all of them.

What this file does not know: requests, peers, key spaces.
"""

from __future__ import annotations

from typing import Final

from rallypoint.protocol.codec import DECODERS, U64, Decoder, KeyList, Request
from rallypoint.protocol.spec import KEY_COUNT_MAX, KEY_SIZE_MAX, VERBS, Kind, Verb

__all__ = ["LONG_SIZE", "LONG_SIZE_MAX", "MANY", "ListMemory"]

LONG_SIZE: Final = 256
"""Bytes of a list that is worth keeping, at least."""

LONG_SIZE_MAX: Final = 1 << 20
"""Bytes of a list that is kept, at most."""

MANY: Final = 16
"""Keys of which it pays to look whether they are of one length."""

_decode_keys: Final = DECODERS[Verb.WAIT]


def _equally_long(data: bytes, at: int, end: int) -> list[bytes] | None:
    """Give the keys of a list of many, if all are there, within their limits, and of one length; else ``None``."""
    first = at + 8
    if end - first < 8 * MANY:
        return None
    count, size = U64.unpack_from(data, at)[0], U64.unpack_from(data, first)[0]
    step = 8 + size
    stop = first + count * step
    if not MANY <= count <= KEY_COUNT_MAX or size > KEY_SIZE_MAX or stop > end:
        return None
    for place in range(first, first + 8):
        if data[place:stop:step] != data[place : place + 1] * count:
            return None
    return [data[key : key + size] for key in range(first + 8, stop + 8, step)]


class ListMemory:
    """The long list that came last.

    Attributes:
        decoders: those of all verbs, of which those of lists look here first.
    """

    def __init__(self) -> None:
        self._wire = b""
        self._keys = KeyList((), b"")
        self.decoders: tuple[Decoder, ...] = tuple(
            self._decode if byte in VERBS and VERBS[Verb(byte)].request == (Kind.KEYS,) else decoder
            for byte, decoder in enumerate(DECODERS)
        )

    def _decode(self, verb: int, data: bytes, at: int, end: int) -> tuple[int, Request] | None:
        wire = self._wire
        if wire and data.startswith(wire, at):
            return at + len(wire), (verb, self._keys)
        keys = _equally_long(data, at, end)
        if keys is not None:
            stop = at + 8 + len(keys) * (8 + len(keys[0]))
        else:
            found = _decode_keys(verb, data, at, end)
            if found is None:
                return None
            stop, (_, keys) = found
        known = KeyList(keys, data[at:stop])
        if LONG_SIZE <= stop - at <= LONG_SIZE_MAX:
            self._wire, self._keys = known.wire, known
        return stop, (verb, known)
