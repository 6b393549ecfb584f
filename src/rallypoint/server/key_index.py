"""The keys in order, so that those with a prefix are found without looking at all of them.

Rules:

- Noting a key costs O(1): order is made when somebody asks for it.
- It holds each key once, and may hold keys that are gone: what it gives is looked up in the table of keys.

Theory of operation. New keys gather in ``fresh`` and are merged into the sorted list at the next question: a few by
bisection, many by one sort, which for a sorted list with a tail is one merge. Keys that are gone stay in the list. Once
it holds more of them than there are keys, it lets go of everything, until the next question makes it anew::

    add(c), add(a)          sorted [b d]      fresh {c a}
    keys_with(...)          sorted [a b c d]  fresh {}

What this file does not know: values, revisions, who asks.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Container, Iterable
from typing import Protocol

__all__ = ["KeyIndex"]

_FEW = 64


class _Table(Container[bytes], Iterable[bytes], Protocol):
    def __len__(self) -> int: ...


class KeyIndex:
    """The keys of one table in order.

    Args:
        table: the keys that there are, at all times.

    Threads: none but the caller's.
    """

    __slots__ = ("_fresh", "_gone", "_sorted", "_table")

    def __init__(self, table: _Table) -> None:
        self._table = table
        self._sorted: list[bytes] | None = None
        self._fresh: dict[bytes, None] = {}
        self._gone = 0

    def add(self, key: bytes) -> None:
        """Note that the table has one more key."""
        if self._sorted is not None:
            self._fresh[key] = None

    def discard(self) -> None:
        """Note that the table has one key less."""
        if self._sorted is not None:
            self._gone += 1
            if self._gone > len(self._table) + _FEW:
                self._sorted = None
                self._fresh = {}

    def keys_with(self, prefix: bytes, most: int | None = None) -> list[bytes]:
        """Give the table's keys that begin with ``prefix``, sorted, the first ``most`` of them if that is given.

        Cost: their number, and that of the keys that are new since the last call; now and then that of all keys.
        """
        keys = self._in_order()
        table = self._table
        found: list[bytes] = []
        for at in range(bisect_left(keys, prefix), len(keys)):
            key = keys[at]
            if not key.startswith(prefix):
                break
            if key in table:
                if len(found) == most:
                    break
                found.append(key)
        return found

    def _in_order(self) -> list[bytes]:
        keys = self._sorted
        if keys is None:
            keys = self._sorted = sorted(self._table)
            self._gone = 0
        elif self._fresh:
            new = [key for key in self._fresh if key in self._table and not _has(keys, key)]
            if len(new) > _FEW:
                keys += new
                keys.sort()
            else:
                for key in new:
                    insort(keys, key)
            self._fresh = {}
        return keys


def _has(keys: list[bytes], key: bytes) -> bool:
    at = bisect_left(keys, key)
    return at < len(keys) and keys[at] == key
