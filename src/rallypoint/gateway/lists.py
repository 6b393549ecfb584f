"""Lists of keys as they come: where one member of a job names many keys, the others mostly name the same ones.

The long list that came last is kept. One that begins with the same bytes is the same list, for no list is the beginning
of another: it is compared, which costs a thousandth of decoding it. All lists keep the bytes that they came as
(``KeyList``), so they go on to the other side without being encoded again.

What this file does not know: requests, peers, key spaces.
"""

from __future__ import annotations

from typing import Final

from rallypoint.protocol.codec import DECODERS, Decoder, KeyList, Request
from rallypoint.protocol.spec import VERBS, Kind, Verb

__all__ = ["LONG_SIZE", "LONG_SIZE_MAX", "ListMemory"]

LONG_SIZE: Final = 256
"""Bytes of a list that is worth keeping, at least."""

LONG_SIZE_MAX: Final = 1 << 20
"""Bytes of a list that is kept, at most."""

_decode_keys: Final = DECODERS[Verb.WAIT]


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
        found = _decode_keys(verb, data, at, end)
        if found is None:
            return None
        stop, (_, keys) = found
        known = KeyList(keys, data[at:stop])
        if LONG_SIZE <= stop - at <= LONG_SIZE_MAX:
            self._wire, self._keys = known.wire, known
        return stop, (verb, known)
