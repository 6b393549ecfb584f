"""A queue that processes share: each item goes to one of those who wait, oldest first."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

from rallypoint.errors import QueueEmptyError
from rallypoint.primitives.arrivals import is_timeout
from rallypoint.store.base import Store, as_timeout_s
from rallypoint.store.bootstrap import store_timeout
from rallypoint.types import Text, Timeout

__all__ = ["Queue", "QueueStatistics"]


@dataclass(frozen=True)
class QueueStatistics:
    """What was done through one queue object.

    Attributes:
        name: the queue's.
        put: the items put in.
        got: the items taken.
        empty: how often there was nothing to take in time.
    """

    name: str
    put: int
    got: int
    empty: int


class Queue:
    """A queue on a store that has queues: a TCPStore or a HashStore, also torch's TCPStore.

    Any number of producers and consumers; who waits longest is served first where the store can tell. An item is taken
    once: a consumer that dies after it took one has taken it along.

    Args:
        store: the store.
        name: the queue's; the store's own ``queue_push`` and ``queue_pop`` see the same items.

    Cost: 1 call each.
    Threads: any, as far as the store's are: on torch's TCPStore one that waits holds up all others.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self._store = store
        self._lock = threading.Lock()
        self._statistics = QueueStatistics(name, 0, 0, 0)

    def __repr__(self) -> str:
        return f"Queue({self.name!r})"

    def __len__(self) -> int:
        return int(self._store.queue_len(self.name))

    def __bool__(self) -> bool:
        return True  # a queue is one, with or without items

    def put(self, item: Text) -> None:
        """Put an item at the end.

        Raises:
            NotImplementedError: the store has no queues.
        """
        self._store.queue_push(self.name, item)
        self._note(put=1)

    def get(self, timeout: Timeout | None = None) -> bytes:
        """Take the oldest item, waiting for one.

        Args:
            timeout: seconds or a ``timedelta``; ``None`` is the store's own, 0 looks once.

        Raises:
            QueueEmptyError: there was none to be looked for once.
            StoreTimeoutError: none came in time (a foreign store raises its own error).
            NotImplementedError: the store has no queues.
        """
        seconds = None if timeout is None else as_timeout_s(timeout)
        try:
            if seconds is None:
                item = bytes(self._store.queue_pop(self.name))
            elif seconds == 0:
                item = bytes(self._store.queue_pop(self.name, False))
            else:
                with store_timeout(self._store, seconds):
                    item = bytes(self._store.queue_pop(self.name))
        except (RuntimeError, TimeoutError) as error:
            if isinstance(error, QueueEmptyError) or is_timeout(error):
                self._note(empty=1)
            raise
        self._note(got=1)
        return item

    def statistics(self) -> QueueStatistics:
        """Tell what was done through this object."""
        return self._statistics

    def _note(self, put: int = 0, got: int = 0, empty: int = 0) -> None:
        with self._lock:
            old = self._statistics
            self._statistics = replace(old, put=old.put + put, got=old.got + got, empty=old.empty + empty)
