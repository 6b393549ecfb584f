"""What peers have been answered and leave unread: how much it is in all, and who has the most of it.

Rules:

- Only what the system did not take counts: the output of connections that are *blocked* (``connection``).
- A piece of output above ``SHARED_SIZE_MIN`` bytes is in memory once, however many connections it is owed to: it counts
  once, and each of them holds an equal share of it. Smaller ones count for each connection.
- A piece that is sent in part counts whole, because it is in memory.
- Too much of it costs the connection that holds the most, and then the next one.

Theory of operation. The driver tells which connections are blocked. What they hold is the upper bound that ``size``
gives; only if that is above the limit are the pieces looked at::

    7: [ header | 8 MiB ---. ]                      held by 7: 4 MiB and a header
    9: [ header |  the same value | another ]       held by 9: 4 MiB, a header and another

What this file does not know: sockets, time, what a reply is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Final, NamedTuple, Protocol

__all__ = ["SHARED_SIZE_MIN", "Blockable", "Excess", "UnreadOutput"]

SHARED_SIZE_MIN: Final = 4096
"""Bytes up to which a piece of output counts for each connection."""


class Blockable(Protocol):
    """A connection, as far as it matters here."""

    fd: int
    output_size: int
    is_blocked: bool

    @property
    def output(self) -> Collection[bytes | memoryview]:
        """What is to be sent."""
        ...


class Excess(NamedTuple):
    """Too much is unread.

    Attributes:
        fd: of the connection that holds the most.
        held: bytes that it holds.
        total: bytes that all hold.
    """

    fd: int
    held: int
    total: int


class UnreadOutput:
    """The output that waits for peers to read.

    Args:
        limit: bytes of it in all.

    Threads: none but the caller's.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._blocked: dict[int, Blockable] = {}

    def __bool__(self) -> bool:
        """Tell whether any connection is blocked."""
        return bool(self._blocked)

    def note(self, connection: Blockable) -> None:
        """Take note of whether a connection is blocked."""
        if connection.is_blocked:
            self._blocked[connection.fd] = connection
        else:
            self._blocked.pop(connection.fd, None)

    def discard(self, connection: Blockable) -> None:
        """Forget a connection."""
        self._blocked.pop(connection.fd, None)

    def size(self) -> int:
        """Give the bytes that are unread. Cost: the pieces of output of all blocked connections."""
        return self._count()[0]

    def excess(self) -> Excess | None:
        """Tell who holds the most, if it is too much in all. Cost: as of ``size``, if that may be above the limit."""
        if sum(connection.output_size for connection in self._blocked.values()) <= self._limit:
            return None
        total, owners = self._count()
        if total <= self._limit:
            return None

        def held(connection: Blockable) -> int:
            return sum(len(piece) // owners.get(id(piece), 1) for piece in map(_whole, connection.output))

        most = max(self._blocked.values(), key=held)
        return Excess(most.fd, held(most), total)

    def _count(self) -> tuple[int, Counter[int]]:
        """Give the bytes, and how many times each large piece is owed."""
        total = 0
        owners: Counter[int] = Counter()
        for connection in self._blocked.values():
            for piece in map(_whole, connection.output):
                size = len(piece)
                if size > SHARED_SIZE_MIN:
                    owners[id(piece)] += 1
                    if owners[id(piece)] > 1:
                        continue
                total += size
        return total, owners


def _whole(piece: bytes | memoryview) -> bytes | memoryview:
    """Give what a piece is a part of."""
    return piece.obj if isinstance(piece, memoryview) and isinstance(piece.obj, bytes) else piece
