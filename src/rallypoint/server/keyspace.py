"""The keys and the queues: what each verb does to them, and nothing else.

Rules:

- Keys and queues are two name spaces. A name is *present* if it has a key or a queue with an item in it.
- A method either does all it says or raises and changes nothing.
- Methods that may create a key say whether they did, so that whoever keeps the waiters can wake them. An overwrite
  creates nothing.
- An emptied queue is gone; asking about an unknown name leaves nothing behind.
- Each change of a key, its end included, has a revision: one more than the change before, whichever key that was of.
- Each change is told to ``on_change``, once it is done, in the words of ``server.changes``.

Theory of operation. Values are immutable ``bytes``, handed out without a copy. A value that APPEND grows becomes a
``bytearray`` until somebody reads it, so that n appends cost the sum of their sizes and not its square::

    bytes --APPEND--> bytearray --APPEND--> bytearray --read--> bytes

Every key and every queue item counts ``ENTRY_SIZE`` bytes besides its own, about what Python's tables take, so
that many empty entries are bounded too.

What this file does not know: peers, bytes on the wire, who waits, what time it is.

Source: behaviour observed on a torch 2.13.0 server, see ``tests/support/vectors.jsonl``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from rallypoint.errors import DistStoreError
from rallypoint.protocol.session.spec import NO_REVISION
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.changes import Appended, Change, KeyDeleted, KeySet, Popped, Pushed
from rallypoint.server.key_index import KeyIndex
from rallypoint.server.limits import DEFAULT_LIMITS, Limits

__all__ = ["ENTRY_SIZE", "NUMBER_SIZE_MAX", "Keyspace", "KeyspaceError"]

ENTRY_SIZE: Final = 128
"""Bytes that one key or one queue item is taken to need besides its text."""

NUMBER_SIZE_MAX: Final = 4096
"""Bytes of a value that are looked at for a number, white space and leading zeros included."""

# What C's strtoll takes in base 10: white space, a sign, digits; the rest is not looked at.
_NUMBER = re.compile(rb"[\t\n\v\f\r ]*([+-]?)(0*)([0-9]*)")
_INT64_DIGITS = 19
_INT64_MIN = -(1 << 63)
_INT64_MAX = (1 << 63) - 1
_SHOWN_MAX = 40


class KeyspaceError(DistStoreError):
    """A verb cannot be applied; nothing was changed.

    Attributes:
        reason: the kind of refusal, in the words of the wire.
    """

    def __init__(self, reason: CloseReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Keyspace:
    """One map of keys and one of queues.

    Attributes:
        on_change: called with each change of a key or a queue; ``None`` while nobody wants to know.
        queues: name -> its items, oldest first; never an empty one. Read only, for others.
        revision: that of the last change, 0 before the first. Read only, for others.
        stored_size: bytes stored, ``ENTRY_SIZE`` included for each entry.

    Cost: a lookup for each name, unless a method says otherwise.
    Threads: none but the caller's.
    """

    __slots__ = (
        "_index",
        "_keys_max",
        "_revisions",
        "_stored_size_max",
        "_value_size_max",
        "_values",
        "on_change",
        "queues",
        "revision",
        "stored_size",
    )

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._values: dict[bytes, bytes | bytearray] = {}
        self._revisions: dict[bytes, int] = {}
        self._index = KeyIndex(self._values)
        self._keys_max = limits.keys_max
        self._value_size_max = limits.value_stored_size_max
        self._stored_size_max = limits.stored_size_max
        self.on_change: Callable[[Change], None] | None = None
        self.queues: dict[bytes, deque[bytes]] = {}
        self.revision = 0
        self.stored_size = 0

    def __len__(self) -> int:
        """Count the keys; queues are not keys."""
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        """Tell whether a name is present: as a key, or as a queue with an item in it."""
        return name in self._values or name in self.queues

    def missing(self, names: Iterable[bytes]) -> int:
        """Count those of the names that are not present. Cost: the number of names."""
        values = self._values
        queues = self.queues
        count = 0
        for name in names:
            if name not in values and name not in queues:
                count += 1
        return count

    def has_key(self, key: bytes) -> bool:
        """Tell whether a key exists, queues aside."""
        return key in self._values

    def keys(self) -> list[bytes]:
        """Give all keys, oldest first. Cost: their number."""
        return list(self._values)

    def get(self, key: bytes) -> bytes | None:
        """Give a value, ``None`` for a missing key."""
        value = self._values.get(key)
        if isinstance(value, bytearray):
            value = self._values[key] = bytes(value)
        return value

    def size_of(self, key: bytes) -> int:
        """Give the bytes of a value, 0 for a missing key. Cost: O(1), also while the value grows."""
        return len(self._values.get(key, b""))

    def revision_of(self, key: bytes) -> int:
        """Give the revision of a key's last change, ``NO_REVISION`` if there is no such key."""
        return self._revisions.get(key, NO_REVISION)

    def keys_with(self, prefix: bytes, most: int | None = None) -> list[bytes]:
        """Give the keys that begin with ``prefix``, sorted by their bytes, the first ``most``; see ``KeyIndex``."""
        return self._index.keys_with(prefix, most)

    def set(self, key: bytes, value: bytes, lease: int = 0) -> bool:
        """Store a value, which belongs to ``lease`` if that is not 0; say whether the key is new."""
        values = self._values
        old = values.get(key)
        if old is not None:
            more = len(value) - len(old)
        elif len(values) < self._keys_max:
            more = len(value) + len(key) + ENTRY_SIZE
        else:
            raise self._too_many(len(values) + 1)
        if more:
            size = self.stored_size + more
            if size > self._stored_size_max:
                raise self._full(size)
            self.stored_size = size
        values[key] = value
        self._revisions[key] = self.revision = revision = self.revision + 1
        if self.on_change is not None:
            self.on_change(KeySet(key, value, revision, lease))
        if old is not None:
            return False
        self._index.add(key)
        return True

    def swap(self, key: bytes, expected: int, value: bytes, lease: int) -> tuple[bool, bool]:
        """Store a value if the key's revision is ``expected``, or if that is -1; say whether, and if the key is new."""
        if expected not in (-1, self._revisions.get(key, NO_REVISION)):
            return False, False
        return True, self.set(key, value, lease)

    def multi_set(self, pairs: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """Store several values, all or none, a later pair over an earlier one; give the new keys in their order.

        Cost: the number of pairs.
        """
        values = self._values
        new = dict(pairs)
        size = self.stored_size
        created = []
        for key, value in new.items():
            old = values.get(key)
            if old is None:
                created.append(key)
                size += len(key) + len(value) + ENTRY_SIZE
            else:
                size += len(value) - len(old)
        if len(values) + len(created) > self._keys_max:
            raise self._too_many(len(values) + len(created))
        if size > self._stored_size_max:
            raise self._full(size)
        self.stored_size = size
        values.update(new)
        for key, value in new.items():
            self._changed(key, value)
        for key in created:
            self._index.add(key)
        return created

    def append(self, key: bytes, value: bytes) -> bool:
        """Add to the end of a value, of an empty one if the key is missing; say whether the key is new.

        Raises:
            KeyspaceError: the value would be longer than ``limits.value_stored_size_max``.

        Cost: the size of ``value``, and once the size of the old value after each read of it.
        """
        old = self._values.get(key)
        if old is None:
            return self.set(key, value)
        length = len(old) + len(value)
        if length > self._value_size_max:
            raise KeyspaceError(
                CloseReason.STORED_VALUE_TOO_LARGE,
                f"APPEND would grow the value of key {_shown(key)} to {length} bytes,"
                f" the limit is {self._value_size_max}",
            )
        size = self.stored_size + len(value)
        if size > self._stored_size_max:
            raise self._full(size)
        self.stored_size = size
        if not isinstance(old, bytearray):
            old = self._values[key] = bytearray(old)
        old += value
        self.revision += 1
        self._revisions[key] = self.revision
        if self.on_change is not None:
            self.on_change(Appended(key, value, self.revision))
        return False

    def add(self, key: bytes, delta: int) -> tuple[int, bool]:
        """Add to the number that a value is in decimal text; give the sum and whether the key is new.

        A missing key counts as 0; the text, its first ``NUMBER_SIZE_MAX`` bytes, is read as C's ``strtoll`` reads it in
        base 10; the sum wraps around at 64 bits.

        Raises:
            KeyspaceError: the text has no digits, or its number does not fit into 64 bits.
        """
        old = self._values.get(key)
        total = delta if old is None else self._number(key, old) + delta
        if not _INT64_MIN <= total <= _INT64_MAX:
            total = (total - _INT64_MIN & (1 << 64) - 1) + _INT64_MIN
        return total, self.set(key, b"%d" % total)

    def count(self, key: bytes) -> int:
        """Give the number that a value is in decimal text, as ``add`` reads it; 0 for a missing key."""
        value = self._values.get(key)
        return 0 if value is None else self._number(key, value)

    def compare_set(self, key: bytes, expected: bytes, desired: bytes) -> tuple[bytes, bool]:
        """Store ``desired`` if the value is ``expected``; give the reply and whether the key is new.

        ============== ================ ========== ==================
        key            ``expected``     effect     reply
        ============== ================ ========== ==================
        missing        empty            created    ``desired``
        missing        not empty        nothing    ``expected``
        present        equal            replaced   ``desired``
        present        different        nothing    the current value
        ============== ================ ========== ==================
        """
        current = self.get(key)
        if current is None:
            return (expected, False) if expected else (desired, self.set(key, desired))
        if current != expected:
            return current, False
        self.set(key, desired)
        return desired, False

    def delete(self, key: bytes) -> bool:
        """Remove a key, not a queue; say whether there was one."""
        old = self._values.pop(key, None)
        if old is None:
            return False
        self.stored_size -= len(key) + len(old) + ENTRY_SIZE
        del self._revisions[key]
        self.revision += 1
        self._index.discard()
        if self.on_change is not None:
            self.on_change(KeyDeleted(key, self.revision))
        return True

    def push(self, name: bytes, item: bytes) -> None:
        """Put an item at the end of a queue."""
        size = self.stored_size + len(name) + len(item) + ENTRY_SIZE
        if size > self._stored_size_max:
            raise self._full(size)
        self.stored_size = size
        queue = self.queues.get(name)
        if queue is None:
            self.queues[name] = deque((item,))
        else:
            queue.append(item)
        if self.on_change is not None:
            self.on_change(Pushed(name, item))

    def pop(self, name: bytes) -> tuple[int, bytes | None]:
        """Take the oldest item of a queue; give the length before, and the item or ``None``."""
        queue = self.queues.get(name)
        if queue is None:
            return 0, None
        length = len(queue)
        item = queue.popleft()
        self.stored_size -= len(name) + len(item) + ENTRY_SIZE
        if length == 1:
            del self.queues[name]
        if self.on_change is not None:
            self.on_change(Popped(name))
        return length, item

    def queue_length(self, name: bytes) -> int:
        """Give the number of items in a queue, 0 for an unknown one."""
        return len(self.queues.get(name, ()))

    def restore(self, key: bytes, value: bytes, revision: int) -> None:
        """Put back a key as it was; nobody is told. ``revision`` is then the caller's to set."""
        self._values[key] = value
        self._revisions[key] = revision
        self.stored_size += len(key) + len(value) + ENTRY_SIZE

    def _changed(self, key: bytes, value: bytes) -> None:
        self.revision += 1
        self._revisions[key] = self.revision
        if self.on_change is not None:
            self.on_change(KeySet(key, value, self.revision))

    def _number(self, key: bytes, text: bytes | bytearray) -> int:
        if len(text) < _INT64_DIGITS and text.isdigit():
            return int(text)
        found = _NUMBER.match(text, 0, NUMBER_SIZE_MAX)
        assert found is not None  # it matches the empty text too
        sign, zeros, digits = found.groups()
        if not zeros and not digits:
            raise KeyspaceError(
                CloseReason.NOT_A_NUMBER,
                f"the value of key {_shown(key)} is {_shown(bytes(text[:99]))}, not a decimal number",
            )
        if len(digits) <= _INT64_DIGITS:
            number = int(sign + (digits or b"0"))
            if _INT64_MIN <= number <= _INT64_MAX:
                return number
        raise KeyspaceError(
            CloseReason.NOT_A_NUMBER,
            f"the value of key {_shown(key)} is {_shown(bytes(text[:99]))}, which 64 bits cannot hold",
        )

    def _too_many(self, count: int) -> KeyspaceError:
        return KeyspaceError(
            CloseReason.STORE_FULL, f"the store would hold {count} keys, the limit is {self._keys_max}"
        )

    def _full(self, size: int) -> KeyspaceError:
        return KeyspaceError(
            CloseReason.STORE_FULL,
            f"the store would hold {size} bytes in {len(self._values)} keys and {len(self.queues)} queues,"
            f" the limit is {self._stored_size_max}",
        )


def _shown(text: bytes) -> str:
    return repr(text) if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]!r}..."
