"""Key spaces: what local peers name ``k`` is ``<prefix>k`` on the other side, and back.

Rules:

- In the key space ``rounds/7/`` a user's key ``k`` is the user's key ``rounds/7/k`` of the store: just as a
  ``PrefixStore("rounds/7", store)`` has it, so that both may be used on one store.
- On the wire a user's key begins with ``/``. Clients keep a few keys of their own without it (``init/``); these get a
  NUL byte behind the prefix, and so does a user's key that begins with one. So no two keys fall together.
- Queues and barriers are named as keys are.
- All keys of a key space begin with its prefix and nobody else's do, except those of key spaces inside it.

::

    local /k          ----->  /rounds/7/k
    local init/       ----->  /rounds/7/<NUL>init/
    local /<NUL>k     ----->  /rounds/7/<NUL>/<NUL>k

What this file does not know: calls, answers, who asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from rallypoint.protocol.codec import KeyList, Request, encode_keys
from rallypoint.protocol.spec import KEY_SIZE_MAX, VERBS, Kind

__all__ = ["NAME_SIZE_MAX", "KeySpace"]

NAME_SIZE_MAX: Final = 1024
"""Bytes of a key space's name; a key and its prefix together may be as long as one key."""

_FOREIGN = b"\0"


class KeySpace:
    """One key space.

    Args:
        name: what stands in front of each key; a slash is added unless it ends with one. Empty for the whole store,
            in which keys without ``/`` are told apart all the same.

    Attributes:
        name: as users of a store see it, with the slash.
        prefix: as it travels.

    Raises:
        ValueError: the name is longer than ``NAME_SIZE_MAX``, holds a NUL byte, or is nothing but a slash.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name if not name or name.endswith("/") else f"{name}/"
        encoded = self.name.encode()
        if len(encoded) > NAME_SIZE_MAX:
            raise ValueError(f"a key space's name has {len(encoded)} bytes, it may have {NAME_SIZE_MAX}")
        if self.name == "/" or _FOREIGN in encoded:
            raise ValueError(f"{name!r} is no name of a key space: it must be text without NUL, and not just a slash")
        self.prefix = b"/" + encoded
        self._last: tuple[KeyList, list[bytes]] | None = None  # the list translated last, and what became of it

    def __repr__(self) -> str:
        return f"KeySpace({self.name!r})"

    def outward(self, key: bytes) -> bytes:
        """Give a local peer's key as the other side has it."""
        if key[:1] == b"/" and key[1:2] != _FOREIGN:
            return self.prefix + key[1:]
        return self.prefix + _FOREIGN + key

    def inward(self, key: bytes) -> bytes:
        """Give a key of this key space as local peers have it."""
        rest = key[len(self.prefix) :]
        return rest[1:] if rest[:1] == _FOREIGN else b"/" + rest

    def translate(self, request: Request) -> Request:
        """Give a request with the other side's keys."""
        kind = _NAMED.get(request[0])
        if kind is None:
            return request
        named = request[1]
        if kind is Kind.KEY:
            return (request[0], self.outward(named), *request[2:])
        if kind is Kind.KEYS:
            return request[0], self._outward_each(named)
        return request[0], [(self.outward(key), value) for key, value in named]

    def _outward_each(self, keys: list[bytes]) -> list[bytes]:
        if self._last is not None and self._last[0] is keys:
            return self._last[1]
        outward = [self.outward(key) for key in keys]
        if type(keys) is not KeyList:
            return outward
        if max(map(len, outward), default=0) <= KEY_SIZE_MAX:  # else it is refused, with a word on which it is
            outward = KeyList(outward, encode_keys(outward))
        self._last = (keys, outward)
        return outward


# A request names its keys in its first field, or has none.
_NAMED: Final[Mapping[int, Kind]] = {
    verb: row.request[0]
    for verb, row in VERBS.items()
    if row.request and row.request[0] in {Kind.KEY, Kind.KEYS, Kind.PAIRS}
}
