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
from collections.abc import Collection, Iterator, Mapping
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
        return _count(self._parts())[0]

    def excesses(self) -> Iterator[Excess]:
        """Give those that hold the most, one after the other, until it is not too much in all.

        Each is expected to hold nothing any more when the next is asked for. What others get meanwhile is for the next
        time. Cost: as of ``size``, if that may be above the limit; then the connections for each that is given.
        """
        if sum(connection.output_size for connection in self._blocked.values()) <= self._limit:
            return
        parts = self._parts()
        while True:
            total, owners = _count(parts)
            if total <= self._limit:
                return
            shares = {
                fd: part.size + sum(len(piece) // owners[id(piece)] for piece in part.large)
                for fd, part in parts.items()
            }
            most = max(shares, key=shares.__getitem__)
            yield Excess(most, shares[most], total)
            del parts[most]
            parts = {fd: part for fd, part in parts.items() if fd in self._blocked}

    def _parts(self) -> dict[int, _Part]:
        return {fd: _part(connection) for fd, connection in self._blocked.items()}


class _Part(NamedTuple):
    """What one connection holds: the bytes that are its own, and the pieces that others may hold too."""

    size: int
    large: list[bytes | memoryview]


def _part(connection: Blockable) -> _Part:
    size = connection.output_size
    large = [piece for piece in connection.output if len(piece) > SHARED_SIZE_MIN]
    size -= sum(map(len, large))
    large = list(map(_whole, large))
    head = next(iter(connection.output), b"")
    if len(head) <= SHARED_SIZE_MIN:  # the rest of it: only the first piece can be sent in part
        whole = _whole(head)
        if len(whole) > SHARED_SIZE_MIN:
            large.append(whole)
            size -= len(head)
        else:
            size += len(whole) - len(head)
    return _Part(size, large)


def _count(parts: Mapping[int, _Part]) -> tuple[int, Counter[int]]:
    """Give the bytes, and how many times each large piece is owed."""
    total = 0
    owners: Counter[int] = Counter()
    for part in parts.values():
        total += part.size
        for piece in part.large:
            owners[id(piece)] += 1
            if owners[id(piece)] == 1:
                total += len(piece)
    return total, owners


def _whole(piece: bytes | memoryview) -> bytes | memoryview:
    """Give what a piece is a part of."""
    return piece.obj if isinstance(piece, memoryview) and isinstance(piece.obj, bytes) else piece
