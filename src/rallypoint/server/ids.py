"""Ids and nonces that nobody can guess, in a machine that rolls no dice: all come from one seed.

Rules:

- What is made is HMAC-SHA256 under the seed over its purpose and a number that rises: never twice the same, and from
  any number of them nobody can tell the next.
- The seed is fresh for each life of a server, so that ids of different lives differ too.

What this file does not know: where the seed comes from, what its ids are for.
"""

from __future__ import annotations

import hmac

from rallypoint.protocol.codec import U64

__all__ = ["Ids"]


class Ids:
    """One life's source of ids.

    Args:
        seed: 32 bytes of the system's randomness; whoever knows it knows all ids.

    Threads: none but the caller's.
    """

    __slots__ = ("_count", "_seed")

    def __init__(self, seed: bytes) -> None:
        self._seed = seed
        self._count = 0

    def make(self, purpose: bytes, size: int) -> bytes:
        """Give the next id, of ``size`` bytes, 32 at most."""
        self._count += 1
        return hmac.digest(self._seed, purpose + b"\0" + U64.pack(self._count), "sha256")[:size]
