"""A store inside one process, for its threads: nothing leaves it, nothing outlives it."""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable, Sequence

from rallypoint.clock import Deadline
from rallypoint.errors import ForkedStoreError, LeaseLostError, QueueEmptyError
from rallypoint.server.keyspace import Keyspace
from rallypoint.store.base import Store, as_timeout_s, check_lengths, decode_key, wait_timed_out
from rallypoint.store.counting import add_to_counter
from rallypoint.store.session_calls import Entry
from rallypoint.types import Keys, Text, Timeout, as_bytes, as_keys

__all__ = ["HashStore"]


class HashStore(Store):
    """A dictionary with a store's manners.

    Semantics are those of a server, queues included: a name counts as present if it is a key or a queue with an item.
    An empty value counts as 0 for :meth:`add`. :meth:`clone` gives the same object.

    Cost: a lookup a key; a wait looks at its keys again whenever any key or item is new.
    Threads: any; a waiting thread holds nobody up. A forked child cannot use it: it would have a copy that nobody else
        sees, and another thread of the parent may have held its lock.
    """

    def __init__(self) -> None:
        super().__init__()
        self._space = Keyspace()
        self._changed = threading.Condition()
        self._owner_pid = os.getpid()

    def __repr__(self) -> str:
        return f"HashStore({len(self._space)} keys)"

    def set(self, key: Text, value: Text, /) -> None:
        """Store ``value`` under ``key``."""
        name, content = as_bytes(key, "key"), as_bytes(value)
        with self._locked():
            self._wake_if(self._space.set(name, content))

    def get(self, key: Text, /) -> bytes:
        """Give the value of ``key``, waiting for it until the store's timeout."""
        return self.multi_get([key])[0]

    def add(self, key: Text, amount: int, /) -> int:
        """Add to a counter.

        Raises:
            LocalProtocolError: ``amount`` does not fit into 64 bits.
            NotANumberError: the value is not the decimal text of a 64-bit number.
        """
        name, amount = as_bytes(key, "key"), operator.index(amount)
        with self._locked():
            total, is_new = add_to_counter(self._space, name, amount, key)
            self._wake_if(is_new)
            return total

    def compare_set(self, key: Text, expected: Text, desired: Text, /) -> bytes:
        """Replace a value if it is the expected one; see :meth:`Store.compare_set`."""
        name, old, new = as_bytes(key, "key"), as_bytes(expected), as_bytes(desired)
        with self._locked():
            found, is_new = self._space.compare_set(name, old, new)
            self._wake_if(is_new)
            return found

    def check(self, keys: Keys, /) -> bool:
        """Tell whether all names are present."""
        names = as_keys(keys)
        with self._locked():
            return all(name in self._space for name in names)

    def wait(self, keys: Keys, timeout: Timeout | None = None, /) -> None:
        """Wait until all names are present; ``timeout`` ``None`` is the store's own, 0 looks once."""
        names = as_keys(keys)
        timeout_s = self._timeout_s if timeout is None else as_timeout_s(timeout)
        with self._locked():
            self._await(names, self._space.__contains__, timeout_s)

    def delete_key(self, key: Text, /) -> bool:
        """Remove a key, not a queue; tell whether there was one."""
        name = as_bytes(key, "key")
        with self._locked():
            return self._space.delete(name)

    def num_keys(self) -> int:
        """Count the keys; queues are not keys."""
        with self._locked():
            return len(self._space)

    def list_keys(self) -> list[str]:
        """Give the names of all keys, oldest first."""
        with self._locked():
            return [name.decode() for name in self._space.keys()]  # noqa: SIM118 - not a mapping

    def clone(self) -> HashStore:
        """Give this same object: there is no connection to have a second of."""
        return self

    def has_extended_api(self) -> bool:
        """True."""
        return True

    def append(self, key: Text, value: Text, /) -> None:
        """Add to the end of a value; a missing key is created."""
        name, suffix = as_bytes(key, "key"), as_bytes(value)
        with self._locked():
            self._wake_if(self._space.append(name, suffix))

    def multi_get(self, keys: Keys, /) -> list[bytes]:
        """Give the values of several keys as they are at one moment, waiting until all are there."""
        names = as_keys(keys)
        with self._locked():
            self._await(names, self._space.has_key, self._timeout_s)
            return [value for name in names if (value := self._space.get(name)) is not None]

    def multi_set(self, keys: Keys, values: Keys, /) -> None:
        """Store several values at one moment."""
        names, contents = as_keys(keys), [as_bytes(value) for value in values]
        check_lengths(names, contents)
        with self._locked():
            self._wake_if(bool(self._space.multi_set(list(zip(names, contents, strict=True)))))

    def queue_push(self, key: Text, value: Text, /) -> None:
        """Put an item at the end of a queue."""
        name, item = as_bytes(key, "key"), as_bytes(value)
        with self._locked():
            self._space.push(name, item)
            self._wake_if(True)

    def queue_pop(self, key: Text, block: bool = True) -> bytes:
        """Take the oldest item of a queue, waiting for one until the store's timeout if ``block``."""
        name = as_bytes(key, "key")
        with self._locked():
            if block:
                self._await([name], self._space.queues.__contains__, self._timeout_s)
            _, item = self._space.pop(name)
        if item is None:
            raise QueueEmptyError(f"queue is empty: {decode_key(name)!r}")
        return item

    def queue_len(self, key: Text, /) -> int:
        """Give the number of items in a queue."""
        name = as_bytes(key, "key")
        with self._locked():
            return self._space.queue_length(name)

    # --- of store.session_calls, what needs no server ----------------------------------------------------

    def read(self, key: Text, /) -> Entry | None:
        """Give a key's value and revision as they are now, ``None`` if it is absent."""
        name = as_bytes(key, "key")
        with self._locked():
            return self._entry(name) if self._space.has_key(name) else None

    def swap(self, key: Text, revision: int, value: Text, *, lease: int = 0) -> tuple[bool, int]:
        """Write a value if the key has the expected revision; see :meth:`Store.swap`. There are no leases here."""
        if lease:
            raise LeaseLostError(f"there is no lease {lease}: a HashStore has none", lease=lease)
        name, content = as_bytes(key, "key"), as_bytes(value)
        with self._locked():
            is_swapped, is_new = self._space.swap(name, operator.index(revision), content, 0)
            self._wake_if(is_new)
            return is_swapped, self._space.revision_of(name)

    def read_prefix(self, prefix: Text, /) -> list[Entry]:
        """Give all entries whose keys begin with a prefix."""
        with self._locked():
            return [self._entry(name) for name in self._space.keys_with(as_bytes(prefix, "prefix"))]

    def list_prefix(self, prefix: Text, /) -> list[str]:
        """Give all keys that begin with a prefix."""
        with self._locked():
            return [name.decode() for name in self._space.keys_with(as_bytes(prefix, "prefix"))]

    def delete_prefix(self, prefix: Text, /) -> int:
        """Remove all keys that begin with a prefix; give how many there were."""
        with self._locked():
            return sum([self._space.delete(name) for name in self._space.keys_with(as_bytes(prefix, "prefix"))])

    def _entry(self, name: bytes) -> Entry:
        return Entry(name.decode(), self._space.get(name) or b"", self._space.revision_of(name))

    def _locked(self) -> threading.Condition:
        """Give the lock, to be taken by ``with``; refuse before that in a forked child, where it may never be free."""
        if os.getpid() != self._owner_pid:
            raise ForkedStoreError(
                f"this HashStore belongs to process {self._owner_pid}, process {os.getpid()} inherited it by a fork: "
                "its keys stay in that process; use a FileStore or a TCPStore between processes",
                owner_pid=self._owner_pid,
            )
        return self._changed

    def _wake_if(self, is_new: bool) -> None:
        if is_new:
            self._changed.notify_all()

    def _await(self, names: Sequence[bytes], is_there: Callable[[bytes], bool], timeout_s: float) -> None:
        """Wait, with the lock held before and after, until ``is_there`` says so of all names."""
        deadline = Deadline(timeout_s)
        missing = [name for name in names if not is_there(name)]
        while missing:
            if deadline.has_passed():
                raise wait_timed_out(names, missing, timeout_s=timeout_s, waited_s=deadline.waited_s())
            self._changed.wait(min(deadline.remaining_s(), threading.TIMEOUT_MAX))
            missing = [name for name in names if not is_there(name)]
