"""What hears changes on etcd for a caller: a watch as people have it, and the wait for keys that are to come."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

from rallypoint.clock import Deadline
from rallypoint.errors import DistError, StoreTimeoutError
from rallypoint.store import etcd_wire as wire
from rallypoint.store.base import as_timeout_s, decode_key
from rallypoint.store.etcd_hub import Hub, Subscription
from rallypoint.store.etcd_names import Span
from rallypoint.store.session_calls import Changed, Deleted, Event, Missed, Watch
from rallypoint.types import Endpoint, Timeout

__all__ = ["EVENTS_MAX", "Arrivals", "EtcdWatch", "Expected"]

EVENTS_MAX: Final = 4096
"""Events of one watch that wait to be asked for; one more, and all of them become one ``Missed``."""


class EtcdWatch(Watch):
    """A watch on etcd.

    Args:
        hub: where it listens.
        key: what is watched, as the caller named it.
        name: gives the name of a key at its place in etcd.
        timeout_s: gives the seconds that ``next`` waits if it is not told.
        endpoint: for errors.

    Threads: one asks; any may close.
    """

    def __init__(
        self, hub: Hub, key: bytes, name: Callable[[bytes], bytes], timeout_s: Callable[[], float], endpoint: Endpoint
    ) -> None:
        self.revision = 0
        self._hub = hub
        self._key = decode_key(key)
        self._name = name
        self._timeout_s = timeout_s
        self._endpoint = endpoint
        self._changed = threading.Condition(threading.RLock())  # a signal's handler may close it amid a step
        self._events: deque[Event] = deque()
        self._error: DistError | None = None
        self._is_closed = False
        self._has_begun = False
        self._subscription: Subscription | None = None

    def begin(self, span: Span, revision: int, deadline: Deadline) -> None:
        """Wait until the watch has begun at a revision, 0 for the present one.

        Raises:
            StoreTimeoutError: it did not, in time.
        """
        self._subscription = self._hub.subscribe(span, revision, self)
        try:
            self._await_begin(deadline)
        except BaseException:
            self.close()
            raise

    def _await_begin(self, deadline: Deadline) -> None:
        with self._changed:
            while not self._has_begun:
                if self._error is not None:
                    raise self._error
                if deadline.has_passed():
                    raise self._expired("it has not begun", deadline.timeout_s, deadline.waited_s())
                self._changed.wait(min(deadline.remaining_s(), threading.TIMEOUT_MAX))

    def next(self, timeout: Timeout | None = None) -> Event:
        """Give the next event, waiting for it; see :meth:`Watch.next`."""
        timeout_s = self._timeout_s() if timeout is None else as_timeout_s(timeout)
        started = monotonic()
        with self._changed:
            while True:
                if self._is_closed:
                    raise ValueError(f"the watch of {self._key!r} is closed")
                if self._events:
                    return self._events.popleft()
                if self._error is not None:
                    raise self._error
                left_s = started + timeout_s - monotonic()
                if left_s <= 0:
                    raise self._expired("nothing happened", timeout_s, monotonic() - started)
                self._changed.wait(min(left_s, threading.TIMEOUT_MAX))

    def close(self) -> None:
        """End the watch; a thread that waits in ``next`` is told."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            self._events.clear()
            self._changed.notify_all()
        if self._subscription is not None:
            self._hub.unsubscribe(self._subscription)

    def _expired(self, what: str, timeout_s: float, waited_s: float) -> StoreTimeoutError:
        if trouble := self._hub.trouble:
            what = f"etcd cannot be watched: {trouble}"
        return StoreTimeoutError(
            f"watch timeout after {int(timeout_s * 1000)}ms, key: {self._key} ({what}; waited {waited_s:.3f} s on "
            f"{self._endpoint})",
            keys=[self._key],
            waited_s=waited_s,
            endpoint=self._endpoint,
        )

    # --- as a listener -----------------------------------------------------------------------------------

    def began(self, revision: int, /) -> None:
        """Take note of the revision at which the watch began."""
        with self._changed:
            if not self._has_begun:
                self._has_begun, self.revision = True, revision
                self._changed.notify_all()

    def hear(self, events: list[wire.WatchEvent], /) -> None:
        """Put changes into the queue."""
        with self._changed:
            for is_deletion, entry in events:
                name = self._name(entry.key).decode(errors="backslashreplace")
                if len(self._events) >= EVENTS_MAX:
                    self._events.clear()
                    self._events.append(Missed(entry.revision))
                elif is_deletion:
                    self._events.append(Deleted(name, entry.revision))
                else:
                    self._events.append(Changed(name, entry.value, entry.revision))
            self._changed.notify_all()

    def missed(self, revision: int, /) -> None:
        """Put a gap into the queue."""
        with self._changed:
            self._events.clear()
            self._events.append(Missed(revision))
            self._changed.notify_all()

    def over(self, error: DistError, /) -> None:
        """Say why there will be no more."""
        with self._changed:
            self._error = error
            self._changed.notify_all()


class Expected:
    """One thing that is waited for: a change in a range of keys.

    Attributes:
        entry: the first change, when it has come.
    """

    __slots__ = ("_arrivals", "entry")

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self.entry: wire.KeyValue | None = None

    def began(self, _revision: int, /) -> None:
        """As is expected."""

    def hear(self, events: list[wire.WatchEvent], /) -> None:
        """Take the first change."""
        if self.entry is None:
            self.entry = events[0].entry
            self._arrivals.came(self)

    def missed(self, _revision: int, /) -> None:
        """Let the caller look again."""
        self._arrivals.look_again()

    def over(self, error: DistError, /) -> None:
        """Let the caller fail."""
        self._arrivals.fail(error)


class Arrivals:
    """A wait for changes, of several things at a time; use it in a ``with`` block.

    Args:
        hub: where to listen.
        needed: how many of them must have come; ``None`` for all.

    Attributes:
        must_look: changes were missed: only a look at the keys tells.
    """

    def __init__(self, hub: Hub, needed: int | None = None) -> None:
        self._hub = hub
        self._lock = threading.Lock()
        self._waiting: set[Expected] = set()
        self._needed = needed
        self._is_complete = False  # no more will be expected
        self._done = threading.Event()
        self._error: DistError | None = None
        self._subscriptions: list[Subscription] = []
        self.must_look = False

    def expect(
        self, revision: int, *spans: Span, is_deaf_to_deletions: bool = True, is_deaf_to_writes: bool = False
    ) -> Expected:
        """Listen for a change in one of some ranges, from a revision on."""
        expected = Expected(self)
        with self._lock:
            self._waiting.add(expected)
        filters = {"is_deaf_to_deletions": is_deaf_to_deletions, "is_deaf_to_writes": is_deaf_to_writes}
        for span in spans:
            self._subscriptions.append(self._hub.subscribe(span, revision, expected, **filters))
        return expected

    def wait(self, deadline: Deadline) -> bool:
        """Wait until all have come, or as many as are needed; tell whether they have, or a look is due.

        Raises:
            DistError: etcd cannot be watched.
        """
        with self._lock:
            self._is_complete = True
            if not self._waiting:
                self._done.set()
        is_done = self._done.wait(min(deadline.remaining_s(), threading.TIMEOUT_MAX))
        if self._error is not None:
            raise self._error
        return is_done

    def came(self, expected: Expected) -> None:
        """Take note of a change."""
        with self._lock:
            self._waiting.discard(expected)
            if self._needed is not None:
                self._needed -= 1
            if self._needed == 0 or (not self._waiting and self._is_complete):
                self._done.set()

    def look_again(self) -> None:
        """End the wait, because a change may have been missed."""
        self.must_look = True
        self._done.set()

    def fail(self, error: DistError) -> None:
        """End the wait with an error."""
        self._error = error
        self._done.set()

    def __enter__(self) -> Arrivals:
        return self

    def __exit__(self, *_: object) -> None:
        for subscription in self._subscriptions:
            self._hub.unsubscribe(subscription)
