"""A view of another store in which every key begins with a prefix."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rallypoint.store.base import Store, as_timeout_s, check_lengths
from rallypoint.store.session_calls import Entry, Event, Missed, Watch
from rallypoint.types import Keys, Text, Timeout, as_bytes, as_keys

if TYPE_CHECKING:
    from rallypoint.store.pipeline import Pipeline

__all__ = ["PrefixStore", "as_foreign_timeout"]

FOREIGN_TIMEOUT_MAX = timedelta(days=24)
"""Longer timeouts overflow the milliseconds of torch's own stores."""


def as_foreign_timeout(timeout: Timeout) -> timedelta:
    """Give a timeout as torch's own stores take it: a ``timedelta``, with 24 days for anything longer.

    Raises:
        ValueError: it is negative or not a number.
    """
    return timedelta(seconds=min(as_timeout_s(timeout), FOREIGN_TIMEOUT_MAX.total_seconds()))


class PrefixStore(Store):
    """Key ``k`` of this store is key ``prefix/k`` of the store below it.

    Everything passes through: queues and barriers under prefixed names, timeouts as the timeouts of the store below,
    ``num_keys`` as its count. ``list_keys`` gives only the keys of this prefix, without it.

    The store below may be ours, torch's, or any object with the methods that are called. Where such a stranger says
    that it has no extended API, ``append``, ``multi_get`` and ``multi_set`` are made from its other methods.

    Args:
        prefix: what stands before the slash; it may be empty, and may hold slashes itself.
        store: the store below.

    Raises:
        ValueError: there is no store.

    Threads: those of the store below.
    """

    def __init__(self, prefix: Text, store: Store) -> None:
        super().__init__()
        if store is None:
            raise ValueError("store argument cannot be None")
        self._prefix = as_bytes(prefix, "prefix") + b"/"
        self._store = store
        self._is_ours = isinstance(store, Store)

    @property
    def underlying_store(self) -> Store:
        """The store that was given, perhaps a PrefixStore itself."""
        return self._store

    @property
    def _underlying_non_prefix_store(self) -> Store:
        """The first store below that is not a PrefixStore, ours or torch's."""
        store = self._store
        while True:
            below = getattr(store, "underlying_store", None)
            if below is None:
                return store
            store = below

    def __repr__(self) -> str:
        return f"PrefixStore({self._prefix[:-1].decode(errors='backslashreplace')!r}, {self._store!r})"

    # --- keys --------------------------------------------------------------------------------------------

    def set(self, key: Text, value: Text, /) -> None:
        """Store ``value`` under the prefixed key."""
        self._store.set(self._name(key), as_bytes(value))

    def get(self, key: Text, /) -> bytes:
        """Give the value of the prefixed key, waiting as the store below does."""
        return self._store.get(self._name(key))

    def add(self, key: Text, amount: int, /) -> int:
        """Add to the counter at the prefixed key."""
        return self._store.add(self._name(key), amount)

    def compare_set(self, key: Text, expected: Text, desired: Text, /) -> bytes:
        """Replace the value at the prefixed key if it is the expected one."""
        return self._store.compare_set(self._name(key), as_bytes(expected), as_bytes(desired))

    def check(self, keys: Keys, /) -> bool:
        """Tell whether all prefixed keys are there."""
        if not hasattr(self._store, "check"):
            raise NotImplementedError("Not implemented.")
        return self._store.check(self._names(keys))

    def wait(self, keys: Keys, timeout: Timeout | None = None, /) -> None:
        """Wait until all prefixed keys are there; a timeout's error names them in full."""
        if timeout is None:
            self._store.wait(self._names(keys))
        else:
            self._store.wait(self._names(keys), self._duration(timeout))

    def delete_key(self, key: Text, /) -> bool:
        """Remove the prefixed key; tell whether there was one."""
        return self._store.delete_key(self._name(key))

    def num_keys(self) -> int:
        """Count the keys of the store below, with and without this prefix."""
        return self._store.num_keys()

    def list_keys(self) -> list[str]:
        """Give the names of the keys under this prefix, without it."""
        prefix = self._prefix.decode()
        return [name[len(prefix) :] for name in self._store.list_keys() if name.startswith(prefix)]

    def clone(self) -> PrefixStore:
        """Give the same view of a clone of the store below."""
        return PrefixStore(self._prefix[:-1], self._store.clone())

    # --- extended API ------------------------------------------------------------------------------------

    def has_extended_api(self) -> bool:
        """Tell what the store below says."""
        return hasattr(self._store, "has_extended_api") and self._store.has_extended_api()

    def append(self, key: Text, value: Text, /) -> None:
        """Add to the end of the value at the prefixed key."""
        if self._passes_on:
            self._store.append(self._name(key), as_bytes(value))
        else:
            super().append(key, value)

    def multi_get(self, keys: Keys, /) -> list[bytes]:
        """Give the values at several prefixed keys, waiting as the store below does."""
        if self._passes_on:
            return self._store.multi_get(self._names(keys))
        return super().multi_get(keys)

    def multi_set(self, keys: Keys, values: Keys, /) -> None:
        """Store several values under prefixed keys."""
        if not self._passes_on:
            super().multi_set(keys, values)
            return
        names, contents = self._names(keys), [as_bytes(value) for value in values]
        check_lengths(names, contents)  # here too: a foreign store may not look
        self._store.multi_set(names, contents)

    # --- queues and barriers -----------------------------------------------------------------------------

    def queue_push(self, key: Text, value: Text, /) -> None:
        """Put an item at the end of the prefixed queue."""
        self._store.queue_push(self._name(key), as_bytes(value))

    def queue_pop(self, key: Text, block: bool = True) -> bytes:
        """Take the oldest item of the prefixed queue."""
        return self._store.queue_pop(self._name(key), block)

    def queue_len(self, key: Text, /) -> int:
        """Give the number of items in the prefixed queue."""
        return self._store.queue_len(self._name(key))

    def barrier(self, key: Text, world_size: int, timeout: Timeout | None = None) -> None:
        """Wait at the prefixed barrier of the store below."""
        if not hasattr(self._store, "barrier"):
            super().barrier(key, world_size, timeout)
        else:
            self._store.barrier(self._name(key), world_size, None if timeout is None else self._duration(timeout))

    # --- sessions: see store.session_calls ---------------------------------------------------------------

    def has_sessions(self) -> bool:
        """Tell what the store below says."""
        return self._is_ours and self._store.has_sessions()

    def session_ends_at(self) -> float:
        """Tell what the store below says."""
        return self._store.session_ends_at() if self._is_ours else float("inf")

    def pipeline(self) -> Pipeline:
        """Collect requests for prefixed keys that are sent together."""
        return self._ours.pipeline().under(self._prefix)

    def post_set(self, key: Text, value: Text, /) -> None:
        """Store a value under the prefixed key without waiting until it is there."""
        if self._is_ours:
            self._store.post_set(self._name(key), value)
        else:
            self.set(key, value)

    def read(self, key: Text, /) -> Entry | None:
        """Give value and revision of the prefixed key; the entry has it without prefix."""
        entry = self._ours.read(self._name(key))
        return None if entry is None else self._without(entry)

    def swap(self, key: Text, revision: int, value: Text, *, lease: int = 0) -> tuple[bool, int]:
        """Write the value of the prefixed key if it has the expected revision."""
        return self._ours.swap(self._name(key), revision, value, lease=lease)

    def read_prefix(self, prefix: Text, /) -> list[Entry]:
        """Give all entries under the joined prefix, their keys without this store's."""
        return [self._without(entry) for entry in self._ours.read_prefix(self._name(prefix))]

    def list_prefix(self, prefix: Text, /) -> list[str]:
        """Give all keys under the joined prefix, without this store's."""
        return [key[self._length :] for key in self._ours.list_prefix(self._name(prefix))]

    def delete_prefix(self, prefix: Text, /) -> int:
        """Remove all keys under the joined prefix."""
        return self._ours.delete_prefix(self._name(prefix))

    def watch(self, key: Text, *, is_prefix: bool = False, since: int | None = None) -> Watch:
        """Watch the prefixed key; events have keys without prefix."""
        return _PrefixWatch(self._ours.watch(self._name(key), is_prefix=is_prefix, since=since), self._length)

    def lease_grant(self, ttl: Timeout | None, /) -> int:
        """Begin a lease of the store below."""
        return self._ours.lease_grant(ttl)

    def lease_renew(self, lease: int, /) -> float:
        """Let a lease live on."""
        return self._ours.lease_renew(lease)

    def lease_revoke(self, lease: int, /) -> int:
        """End a lease."""
        return self._ours.lease_revoke(lease)

    def meet(self, name: Text, rank: int, world_size: int, *, label: str = "", timeout: Timeout | None = None) -> int:
        """Wait at the prefixed meeting."""
        return self._ours.meet(self._name(name), rank, world_size, label=label, timeout=timeout)

    def exchange(
        self, name: Text, rank: int, world_size: int, value: Text, *, label: str = "", timeout: Timeout | None = None
    ) -> list[bytes]:
        """Exchange values at the prefixed meeting."""
        return self._ours.exchange(self._name(name), rank, world_size, value, label=label, timeout=timeout)

    def status(self, what: str = "", /) -> dict[str, Any]:
        """Give what the server of the store below says of itself; ``keys/`` is without any prefix."""
        return self._ours.status(what)

    @property
    def _ours(self) -> Store:
        """The store below, if it can have sessions at all; else one that says that it has none."""
        return self._store if self._is_ours else Store()

    @property
    def _length(self) -> int:
        return len(self._prefix.decode(errors="backslashreplace"))

    def _without(self, entry: Entry) -> Entry:
        return entry._replace(key=entry.key[self._length :])

    # --- time --------------------------------------------------------------------------------------------

    @property
    def timeout(self) -> timedelta:
        """The timeout of the store below."""
        return self._store.timeout

    def set_timeout(self, timeout: Timeout, /) -> None:
        """Change the timeout of the store below."""
        self._store.set_timeout(self._duration(timeout))

    def close(self) -> None:
        """Leave the store below as it is: it was the caller's before."""

    def _duration(self, timeout: Timeout) -> Timeout:
        return timeout if self._is_ours else as_foreign_timeout(timeout)

    # --- names -------------------------------------------------------------------------------------------

    @property
    def _passes_on(self) -> bool:
        """Whether the store below has append, multi_get and multi_set; all of ours do, made or native."""
        return self._is_ours or self.has_extended_api()

    def _name(self, key: Text) -> Text:
        """Give a key of the store below: as ``str`` if it can be, because stores written in Python expect that."""
        name = self._prefix + as_bytes(key, "key")
        try:
            return name.decode()
        except UnicodeDecodeError:
            return name

    def _names(self, keys: Keys) -> list[Text]:
        return [self._name(key) for key in as_keys(keys)]


class _PrefixWatch(Watch):
    """A watch whose events have keys without a prefix."""

    def __init__(self, below: Watch, length: int) -> None:
        self._below = below
        self._length = length
        self.revision = below.revision

    def next(self, timeout: Timeout | None = None) -> Event:
        event = self._below.next(timeout)
        return event if isinstance(event, Missed) else event._replace(key=event.key[self._length :])

    def close(self) -> None:
        self._below.close()
