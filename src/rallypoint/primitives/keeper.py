"""The thread that keeps leases alive: one for each store that has any, none while there are none."""

from __future__ import annotations

import os
import threading
from typing import Protocol

from rallypoint.clock import SYSTEM_CLOCK, Clock
from rallypoint.store.base import Store

__all__ = ["Keeper", "Kept", "forget", "keep"]

THREAD_NAME = "rallypoint-leases"


class Kept(Protocol):
    """What a keeper looks after."""

    @property
    def due_at(self) -> float:
        """When it is to be kept next, on the system's monotonic clock."""
        ...

    def keep(self) -> None:
        """Do what must be done to live on; never raises."""
        ...


class Keeper:
    """Keeps some leases, in a daemon thread that exists as long as there are some.

    Threads: any.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._kept: list[Kept] = []
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def is_running(self) -> bool:
        """Whether there is a thread."""
        return self._thread is not None

    def add(self, lease: Kept) -> None:
        """Keep a lease from now on."""
        with self._changed:
            self._kept.append(lease)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
                self._thread.start()
            self._changed.notify()

    def remove(self, lease: Kept) -> None:
        """Keep a lease no more; one that is not kept is ignored. A renewal that has begun may still be under way."""
        with self._changed:
            self._kept = [other for other in self._kept if other is not lease]
            self._changed.notify()

    def _run(self) -> None:
        while (lease := self._next()) is not None:
            lease.keep()

    def _next(self) -> Kept | None:
        """Wait for the next lease that is due; ``None`` ends the thread."""
        with self._changed:
            while self._kept:
                lease = min(self._kept, key=lambda kept: kept.due_at)
                left_s = lease.due_at - self._clock.now()
                if left_s <= 0:
                    return lease
                self._changed.wait(min(left_s, threading.TIMEOUT_MAX))
            self._thread = None
            return None


_keepers: dict[int, tuple[Store, Keeper]] = {}  # by the store's id, which is its own while it is in here
_lock = threading.Lock()


def _forget_all() -> None:
    """Start anew in a forked child: it has none of the threads, and the leases are its parent's."""
    global _lock  # noqa: PLW0603 - another thread of the parent may have held it
    _lock = threading.Lock()
    _keepers.clear()


os.register_at_fork(after_in_child=_forget_all)


def keep(store: Store, lease: Kept) -> None:
    """Have a lease of ``store`` kept; each store has a thread of its own, so that one that is down delays no other."""
    with _lock:
        _, keeper = _keepers.setdefault(id(store), (store, Keeper()))
        keeper.add(lease)


def forget(store: Store, lease: Kept) -> None:
    """Have a lease of ``store`` kept no more."""
    with _lock:
        entry = _keepers.get(id(store))
        if entry is None:
            return
        entry[1].remove(lease)
        if not len(entry[1]):
            del _keepers[id(store)]
