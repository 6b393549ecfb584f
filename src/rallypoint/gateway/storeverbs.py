"""What a request of the session dialect is on any store: which calls it takes, and what its answer is.

All but WAIT and BARRIER, which are ``lookout``'s; of a barrier only the arrival. MULTI_GET and QUEUE_POP do not wait
here: their one asker, ``slots``, withdraws them at once. A MULTI_GET that misses keys is answered with empty values
for them, which saves the second round trip.

What this file does not know: threads, retries, who asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from rallypoint.errors import (
    AccessDeniedError,
    LocalProtocolError,
    NotANumberError,
    QueueEmptyError,
    RefusedError,
    StoreTimeoutError,
)
from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.protocol.spec import NOT_READY, READY, CloseReason
from rallypoint.store.base import Store, timeout_override
from rallypoint.types import Text

__all__ = ["REPEATABLE", "StoreVerbs", "refusal_of", "store_key", "wire_key"]

Answer: TypeAlias = tuple[Status, tuple[Any, ...]]

REPEATABLE: Final = frozenset(
    {
        SessionVerb.SET,
        SessionVerb.MULTI_SET,
        SessionVerb.CHECK,
        SessionVerb.READ,
        SessionVerb.MULTI_GET,
        SessionVerb.GETNUMKEYS,
        SessionVerb.LIST_KEYS,
        SessionVerb.LIST_PREFIX,
        SessionVerb.QUEUE_LEN,
        SessionVerb.PING,
    }
)
"""What may be done again when it is not known whether it was done."""


def store_key(wire: bytes) -> Text:
    """Give a wire key as users name it: as text if it can be."""
    try:
        return wire[1:].decode()
    except UnicodeDecodeError:
        return wire[1:]


def wire_key(key: Text) -> bytes:
    """Give a user's key as it travels."""
    return b"/" + (key.encode() if isinstance(key, str) else bytes(key))


def refusal_of(error: Exception) -> tuple[bytes, bytes] | None:
    """Give the fields of REFUSED for an error that says no; ``None`` for one of another kind."""
    if isinstance(error, RefusedError):
        reason = error.reason
    elif isinstance(error, NotANumberError):
        reason = CloseReason.NOT_A_NUMBER.value
    elif isinstance(error, AccessDeniedError):
        reason = CloseReason.FORBIDDEN.value
    elif isinstance(error, LocalProtocolError):
        reason = CloseReason.REQUEST_TOO_LARGE.value
    elif isinstance(error, NotImplementedError):
        reason = CloseReason.UNKNOWN_VERB.value
    else:
        return None
    return reason.encode(), str(error).encode(errors="replace")


class StoreVerbs:
    """The verbs on one store.

    Args:
        store: the store.

    Threads: those of the store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._below: Store = getattr(store, "_underlying_non_prefix_store", store)
        self._can_read = store.has_sessions()
        self._verbs: Mapping[SessionVerb, Callable[..., Answer]] = {
            SessionVerb.SET: self._set,
            SessionVerb.COMPARE_SET: self._compare_set,
            SessionVerb.ADD: self._add,
            SessionVerb.CHECK: self._check,
            SessionVerb.GETNUMKEYS: self._count,
            SessionVerb.DELETE_KEY: self._delete,
            SessionVerb.APPEND: self._append,
            SessionVerb.MULTI_GET: self._multi_get,
            SessionVerb.MULTI_SET: self._multi_set,
            SessionVerb.PING: lambda number: (Status.OK, (number,)),
            SessionVerb.QUEUE_PUSH: self._push,
            SessionVerb.QUEUE_POP: self._pop,
            SessionVerb.QUEUE_LEN: self._length,
            SessionVerb.LIST_KEYS: self._list,
            SessionVerb.LIST_PREFIX: self._list_prefix,
            SessionVerb.READ: self._read,
        }

    def perform(self, verb: SessionVerb, fields: tuple[Any, ...]) -> Answer:
        """Do a request.

        Args:
            verb: its verb.
            fields: their keys begin with ``/``, which is not the store's.

        Returns:
            OK or EXPIRED, and the fields of that.

        Raises:
            Exception: whatever the store does.
        """
        return self._verbs[verb](*fields)

    def arrive(self, key: bytes) -> int:
        """Arrive at a barrier; give how many have."""
        return self._store.add(store_key(key), 1)

    def count_at(self, key: bytes) -> int:
        """Give how many have arrived at a barrier; 0 if its key has no number."""
        value = self.look(store_key(key)) or b""
        return int(value) if value.isdigit() and len(value) < 20 else 0

    def first_missing(self, names: Sequence[bytes], since: bytes | None = None) -> bytes | None:
        """Give a name that is not present, ``None`` if all are.

        Args:
            names: the names.
            since: the one that this told the last time: the search goes on there, and looks at those before it last.

        Cost: calls for the logarithm of the number of names; for n names that come one after the other, n times O(1)
            names and once all of them.
        """
        keys = [store_key(name) for name in names]
        if since is not None:
            start, size = names.index(since), 1
            while start < len(keys):
                end = min(start + size, len(keys))
                if not self._store.check(keys[start:end]):
                    return names[self._missing_between(keys, start, end)]
                start, size = end, 2 * size
        if not keys or self._store.check(keys):
            return None
        return names[self._missing_between(keys, 0, len(keys))]

    def _missing_between(self, keys: Sequence[Text], start: int, end: int) -> int:
        """Give where a key is missing among some of which at least one was just missing."""
        while end - start > 1:
            half = (start + end) // 2
            if self._store.check(keys[start:half]):
                start = half
            else:
                end = half
        return start

    def items(self, name: bytes) -> int:
        """Give how many items a queue has; 0 if the store has no queues."""
        try:
            return self._store.queue_len(store_key(name))
        except NotImplementedError:
            return 0

    def look(self, key: Text) -> bytes | None:
        """Give a value as it is now, ``None`` for a key that is absent."""
        if self._can_read:
            entry = self._store.read(key)
            return None if entry is None else entry.value
        if not self._store.check([key]):
            return None
        try:
            with timeout_override(self._below, 0.0):
                return self._store.get(key)
        except StoreTimeoutError:
            return None  # deleted since, or a queue

    def check_and_read(self, name: bytes) -> tuple[bytes, bytes | None]:
        """Give what CHECK says of a name, and the value of its key. Cost: one call if it has one, else two or three."""
        key = store_key(name)
        value = self.look(key)
        if value is not None:
            return READY, value
        if not self._store.check([key]):
            return NOT_READY, None
        return READY, self.look(key)  # it has come just now, or is a queue

    # --- verb by verb ------------------------------------------------------------------------------------

    def _read(self, key: bytes) -> Answer:
        value = self.look(store_key(key))
        return Status.OK, (int(value is not None), value or b"")

    def _set(self, key: bytes, value: bytes) -> Answer:
        self._store.set(store_key(key), value)
        return Status.OK, (0,)

    def _compare_set(self, key: bytes, expected: bytes, desired: bytes) -> Answer:
        return Status.OK, (self._store.compare_set(store_key(key), expected, desired),)

    def _add(self, key: bytes, amount: int) -> Answer:
        return Status.OK, (self._store.add(store_key(key), amount),)

    def _check(self, names: Iterable[bytes]) -> Answer:
        keys = [store_key(name) for name in names]
        is_ready = not keys or self._store.check(keys)
        return Status.OK, ((READY if is_ready else NOT_READY)[0],)

    def _count(self) -> Answer:
        return Status.OK, (self._store.num_keys(),)

    def _delete(self, key: bytes) -> Answer:
        return Status.OK, (int(self._store.delete_key(store_key(key))),)

    def _append(self, key: bytes, value: bytes) -> Answer:
        self._store.append(store_key(key), value)
        return Status.OK, (0,)

    def _multi_get(self, keys: Iterable[bytes]) -> Answer:
        names = [store_key(key) for key in keys]
        if self._can_read and len(names) > 1:
            with self._store.pipeline() as batch:
                promises = [batch.read(name) for name in names]
            return Status.OK, ([promise.value or b"" for promise in promises],)
        return Status.OK, ([self.look(name) or b"" for name in names],)

    def _multi_set(self, pairs: Sequence[tuple[bytes, bytes]]) -> Answer:
        if pairs:
            self._store.multi_set([store_key(key) for key, _ in pairs], [value for _, value in pairs])
        return Status.OK, (0,)

    def _push(self, name: bytes, item: bytes) -> Answer:
        self._store.queue_push(store_key(name), item)
        return Status.OK, (0,)

    def _pop(self, name: bytes) -> Answer:
        try:
            return Status.OK, (self._store.queue_pop(store_key(name), block=False),)
        except QueueEmptyError:
            return Status.EXPIRED, ([name],)

    def _length(self, name: bytes) -> Answer:
        return Status.OK, (self._store.queue_len(store_key(name)),)

    def _list(self) -> Answer:
        return Status.OK, ([wire_key(key) for key in self._store.list_keys()],)

    def _list_prefix(self, prefix: bytes) -> Answer:
        name = store_key(prefix)
        if self._can_read:
            return Status.OK, ([wire_key(key) for key in self._store.list_prefix(name)],)
        return Status.OK, ([wire for key in self._store.list_keys() if (wire := wire_key(key)).startswith(prefix)],)
