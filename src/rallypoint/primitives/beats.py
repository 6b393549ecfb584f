"""Signs of life on a store that has no leases: a counter that moves while its owner lives.

Rules:

- An owner adds 1 to its beat, a key of its own, again and again. Nobody else ever makes it larger.
- Whoever watches a beat notes, on its own monotonic clock, when it saw the counter move. Two clocks are never
  compared: the owner counts from before it beats, the watcher from after it has seen it, so the owner knows first.
- A beat that did not move for longer than its owner's time to live may be sealed: swapped, from the value that was
  seen, for a number so low that no adding brings it back. If the owner moved meanwhile the swap fails. An owner whose
  beat answers with less than it expects is dead, and learns it here.

::

    owner      1 ── 2 ── 3 ──────────────── add: SEALED+1, "I am dead"
    watcher         sees 2  sees 3  ..quiet..  swap 3 -> SEALED
"""

from __future__ import annotations

from typing import Final

from rallypoint.errors import LeaseLostError
from rallypoint.store.base import Store

__all__ = ["QUIET_FACTOR", "SEALED", "Beat", "Sighting", "is_sealed", "peek", "seal"]

SEALED: Final = b"-4611686018427387904"
"""What a sealed beat holds: adding to it stays far below zero for all time."""

QUIET_FACTOR: Final = 1.5
"""A beat is given up after so many of its owner's times to live without a move: for clocks that run unevenly."""

PROBE: Final = "?"
"""A value that no key of ours holds, so that a swap for itself reads without waiting and without writing."""


def peek(store: Store, key: str) -> bytes | None:
    """Give a key's value as it is now, ``None`` if it is absent; on any store, without waiting. Cost: 1 call."""
    found = bytes(store.compare_set(key, PROBE, PROBE))
    return None if found == PROBE.encode() else found


def is_sealed(value: bytes | None) -> bool:
    """Tell whether a beat's value says that its owner is dead."""
    return value is not None and value.startswith(b"-")


def seal(store: Store, key: str, seen: bytes | None) -> bool:
    """End a beat for good if it still has the value that was seen, ``None`` for none.

    Returns:
        Whether it is sealed now, by whomever. Cost: 1 call.
    """
    return is_sealed(bytes(store.compare_set(key, seen or b"", SEALED)))


class Beat:
    """An owner's end of a beat.

    Args:
        store: any store.
        key: the beat's key.

    Raises:
        LeaseLostError: the beat was sealed before it had begun.
    """

    def __init__(self, store: Store, key: str) -> None:
        self.key = key
        self._store = store
        self._count = 0
        self.move()

    def move(self) -> None:
        """Show that the owner lives. Cost: 1 call.

        Raises:
            LeaseLostError: somebody has sealed the beat, or it is gone.
        """
        count = int(self._store.add(self.key, 1))
        if count <= self._count:
            if count > 0:
                self._store.delete_key(self.key)  # it was sealed and cleared away: what stands there is of this call
            raise LeaseLostError(f"the beat {self.key!r} was ended by others: nobody saw it move in time", lease=0)
        self._count = count

    def stop(self) -> None:
        """Remove the beat. Cost: 1 call."""
        self._store.delete_key(self.key)


class Sighting:
    """A watcher's memory of one beat. ``None`` is a value too: a beat that has not begun moves when it does.

    Attributes:
        value: what was seen last.
    """

    __slots__ = ("_has_looked", "_since", "value")

    def __init__(self) -> None:
        self.value: bytes | None = None
        self._since = 0.0
        self._has_looked = False

    def look(self, value: bytes | None, now: float) -> float:
        """Take note of a beat's value; give for how many seconds, as far as this watcher knows, it has not moved."""
        if not self._has_looked or value != self.value:
            self.value = value
            self._since = now
            self._has_looked = True
        return now - self._since
