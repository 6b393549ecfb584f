"""A counter that processes share: numbers that nobody else gets."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from rallypoint.store.base import Store

__all__ = ["Counter", "CounterStatistics"]


@dataclass(frozen=True)
class CounterStatistics:
    """What was done through one counter object.

    Attributes:
        name: the counter's key.
        calls: how often it was added to.
        added: the sum of what was added.
        value: what it was after the last call; 0 before any.
    """

    name: str
    calls: int
    added: int
    value: int


class Counter:
    """A 64-bit counter on any store.

    Args:
        store: any store.
        name: the counter's key; the store's own ``add`` counts in the same.

    Cost: 1 call each.
    Threads: any.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self._store = store
        self._lock = threading.Lock()
        self._statistics = CounterStatistics(name, 0, 0, 0)

    def __repr__(self) -> str:
        return f"Counter({self.name!r})"

    def add(self, amount: int = 1) -> int:
        """Add to the counter; give its new value.

        Raises:
            NotANumberError: the key holds something else.
        """
        value = int(self._store.add(self.name, amount))
        with self._lock:
            before = self._statistics
            self._statistics = CounterStatistics(self.name, before.calls + 1, before.added + amount, value)
        return value

    def value(self) -> int:
        """Give the counter's value; one that was never added to is at 0, and exists from now on."""
        return int(self._store.add(self.name, 0))

    def take(self, count: int) -> range:
        """Take the next block of numbers, counted from 0: nobody else gets them.

        Args:
            count: how many, at least 1.

        Returns:
            The numbers. Shape: ``count`` of them, one after the other.

        Raises:
            ValueError: ``count`` is below 1.
        """
        if count < 1:
            raise ValueError(f"count must be 1 or more, got {count}")
        end = self.add(count)
        return range(end - count, end)

    def statistics(self) -> CounterStatistics:
        """Tell what was done through this object."""
        return self._statistics
