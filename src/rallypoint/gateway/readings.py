"""Reads of several peers that one request answers: where all members of a job read the same, the server is asked once.

Rules:

- A read is never older than its request: it joins what is still to be asked, not what is on its way.
- At most one of equal reads is on its way. Those that come meanwhile are the next one, together.
- They are asked for at the end of the loop's turn, behind all that the peers asked for before. What a peer asks for
  after its read comes later anyway: it waits for the reply.

::

    turn 1    read k of 1, read k of 2        asked: [1, 2]
    turn 2    read k of 3                     waits
    turn 3    read k of 4                     waits
              answer                          1 and 2 have it; asked at the end of this turn: [3, 4]

What this file does not know: how a read is asked for, what its answer is.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

__all__ = ["Reading", "Readings", "Share"]

ReaderT = TypeVar("ReaderT")

Share: TypeAlias = Hashable
"""What equal reads have in common."""


class Reading(NamedTuple, Generic[ReaderT]):
    """One request for several readers."""

    share: Share
    readers: list[ReaderT]


class Readings(Generic[ReaderT]):
    """The reads of one relay. Cost: of each method, what it gives."""

    def __init__(self) -> None:
        self._waiting: dict[Share, list[ReaderT]] = {}
        self._asked: set[Share] = set()
        self._due: list[Share] = []

    @property
    def is_due(self) -> bool:
        """Tell whether ``due`` gives something."""
        return bool(self._due)

    def __len__(self) -> int:
        """Give how many requests wait to be asked."""
        return len(self._waiting)

    def add(self, share: Share, reader: ReaderT) -> None:
        """Take one more that wants to read."""
        readers = self._waiting.get(share)
        if readers is not None:
            readers.append(reader)
            return
        self._waiting[share] = [reader]
        if share not in self._asked:
            self._due.append(share)

    def due(self) -> Sequence[Reading[ReaderT]]:
        """Give what is to be asked now; it is on its way from now on."""
        if not self._due:
            return ()
        due, self._due = self._due, []
        self._asked.update(due)
        return [Reading(share, self._waiting.pop(share)) for share in due]

    def ended(self, share: Share) -> None:
        """Take note that what was on its way was answered, or never will be."""
        self._asked.discard(share)
        if share in self._waiting:
            self._due.append(share)
