"""Who watches which keys, and what is kept for whom that does not read.

Rules:

- A watch is a session's, under the id of the request that began it. It is of one key, or of all keys with a prefix; the
  empty prefix is all.
- Each change of a watched key is one event, in the order of the changes. A session that reads gets it at once; for one
  that does not, it is kept.
- What is kept is bounded for each watch, by number and by bytes, and by bytes for all. At a bound what the watch kept
  is dropped, and so is what comes until the session reads again: then it gets one MISSED with the last revision.
- A watch ends with the session's connection: its client watches anew, and says up to which revision it knows. If more
  has happened since, the first event is MISSED.

Theory of operation. Watches of a key are in a table by key, those of prefixes in a table by prefix. A change looks for
its key, and for its beginnings of those lengths only that some watched prefix has, so its cost grows with the watches
that it concerns and with the different lengths below its own, not with all watches::

    prefixes watched:  ""   job/   job/1/ (twice)          lengths: 0: 1, 4: 1, 6: 2
    change of job/1/x:      keys[job/1/x], prefixes[""], prefixes[job/], prefixes[job/1/]

What this file does not know: frames, which session reads, what is stored.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from typing import Final, NamedTuple

from rallypoint.protocol.codec import RequestError
from rallypoint.protocol.session.spec import EventKind
from rallypoint.protocol.spec import CloseReason

__all__ = ["EVENT_SIZE", "LENGTHS_MAX", "Event", "Watch", "WatchView", "Watches"]

EVENT_SIZE: Final = 128
"""Bytes that one kept event is taken to need besides its key and value."""

LENGTHS_MAX: Final = 256
"""Different lengths of watched prefixes: each change of a longer key is looked up in so many."""


class Event(NamedTuple):
    """What happened to a key. ``value`` is empty unless it was set."""

    kind: EventKind
    key: bytes
    value: bytes
    revision: int

    def size(self) -> int:
        """Give the bytes that it is taken to need."""
        return EVENT_SIZE + len(self.key) + len(self.value)


class Watch:
    """One watch.

    Attributes:
        session: the number of its session.
        request: the id of the request that began it.
        key: what it watches.
        is_prefix: it watches all keys that begin with ``key``.
        kept: events to be sent when the session reads again.
        kept_size: their bytes.
        missed: the last revision of what was dropped, 0 if nothing was.
    """

    __slots__ = ("is_prefix", "kept", "kept_size", "key", "missed", "request", "session")

    def __init__(self, session: int, request: int, key: bytes, *, is_prefix: bool) -> None:
        self.session = session
        self.request = request
        self.key = key
        self.is_prefix = is_prefix
        self.kept: deque[Event] = deque()
        self.kept_size = 0
        self.missed = 0


class WatchView(NamedTuple):
    """A watch, for people. ``kept`` is how many events wait, ``missed`` whether some were dropped."""

    session: int
    key: bytes
    is_prefix: bool
    kept: int
    missed: bool


class Watches:
    """All watches of one server.

    Args:
        watches_max: watches at one time.
        session_watches_max: watches of one session.
        events_max: events kept for one watch.
        events_size_max: bytes kept for one watch.
        events_total_max: bytes kept for all.

    Attributes:
        kept_size: bytes kept for all watches. Read only, for others.

    Threads: none but the caller's.
    """

    __slots__ = (
        "_by_key",
        "_by_prefix",
        "_by_session",
        "_count",
        "_events_max",
        "_events_size_max",
        "_events_total_max",
        "_lengths",
        "_lengths_sorted",
        "_session_watches_max",
        "_watches_max",
        "kept_size",
    )

    def __init__(
        self,
        *,
        watches_max: int,
        session_watches_max: int,
        events_max: int,
        events_size_max: int,
        events_total_max: int,
    ) -> None:
        self._watches_max = watches_max
        self._session_watches_max = session_watches_max
        self._events_max = events_max
        self._events_size_max = events_size_max
        self._events_total_max = events_total_max
        self._by_key: dict[bytes, dict[Watch, None]] = {}
        self._by_prefix: dict[bytes, dict[Watch, None]] = {}
        self._by_session: dict[int, dict[int, Watch]] = {}
        self._lengths: dict[int, int] = {}  # of prefixes in the table: how many have it
        self._lengths_sorted: list[int] = []
        self._count = 0
        self.kept_size = 0

    def __len__(self) -> int:
        """Count the watches."""
        return self._count

    def watch(self, session: int, request: int, key: bytes, *, is_prefix: bool) -> Watch:
        """Begin a watch; ``request`` is none of the session's watches.

        Raises:
            RequestError: there are too many.
        """
        mine = self._by_session.get(session, {})
        if self._count >= self._watches_max:
            message = f"there are {self._count} watches, the limit is {self._watches_max}"
            raise RequestError(CloseReason.TOO_MANY_WATCHES, message)
        if len(mine) >= self._session_watches_max:
            message = f"the session has {len(mine)} watches, the limit is {self._session_watches_max}"
            raise RequestError(CloseReason.TOO_MANY_WATCHES, message)
        if is_prefix and len(key) not in self._lengths and len(self._lengths) >= LENGTHS_MAX:
            message = f"prefixes of {len(self._lengths)} different lengths are watched, the limit is {LENGTHS_MAX}"
            raise RequestError(CloseReason.TOO_MANY_WATCHES, message)
        watch = Watch(session, request, key, is_prefix=is_prefix)
        mine[request] = watch
        self._by_session[session] = mine
        self._count += 1
        table = self._by_prefix if is_prefix else self._by_key
        there = table.get(key)
        if there is not None:
            there[watch] = None
            return watch
        table[key] = {watch: None}
        if is_prefix:
            length = len(key)
            if length not in self._lengths:
                insort(self._lengths_sorted, length)
            self._lengths[length] = self._lengths.get(length, 0) + 1
        return watch

    def unwatch(self, session: int, request: int) -> bool:
        """End a watch; say whether there was one."""
        watch = self._by_session.get(session, {}).pop(request, None)
        if watch is None:
            return False
        if not self._by_session[session]:
            del self._by_session[session]
        self._remove(watch)
        return True

    def end_session(self, session: int) -> None:
        """End all watches of a session. Cost: their number."""
        for watch in self._by_session.pop(session, {}).values():
            self._remove(watch)

    def concerned(self, key: bytes) -> list[Watch]:
        """Give the watches of a key: its own as they began, then those of prefixes, the shortest first.

        Cost: those watches, and the different lengths of watched prefixes up to the key's own.
        """
        found = list(self._by_key.get(key, ()))
        size = len(key)
        for length in self._lengths_sorted:
            if length > size:
                break
            found += self._by_prefix.get(key[:length], ())
        return found

    def keep(self, watch: Watch, event: Event) -> None:
        """Keep an event for a watch whose session does not read; what a bound allows."""
        if watch.missed:
            watch.missed = event.revision
            return
        size = event.size()
        if (
            len(watch.kept) >= self._events_max
            or watch.kept_size + size > self._events_size_max
            or self.kept_size + size > self._events_total_max
        ):
            self.miss(watch, event.revision)
            return
        watch.kept.append(event)
        watch.kept_size += size
        self.kept_size += size

    def miss(self, watch: Watch, revision: int) -> None:
        """Drop what a watch has kept, and a change of this revision with it."""
        self._drop(watch)
        watch.missed = revision

    def take(self, session: int, size_max: int) -> list[tuple[Watch, Event]]:
        """Give what was kept for a session that reads again, watch by watch.

        Args:
            session: its number.
            size_max: bytes after which to stop; what is left stays kept.
        """
        taken: list[tuple[Watch, Event]] = []
        size = 0
        for watch in self._by_session.get(session, {}).values():
            if watch.missed:
                taken.append((watch, Event(EventKind.MISSED, b"", b"", watch.missed)))
                watch.missed = 0
            while watch.kept:
                if size > size_max:
                    return taken
                event = watch.kept.popleft()
                size += event.size()
                watch.kept_size -= event.size()
                self.kept_size -= event.size()
                taken.append((watch, event))
        return taken

    def views(self) -> Iterator[WatchView]:
        """Give all watches, session by session."""
        for mine in self._by_session.values():
            for watch in mine.values():
                yield WatchView(watch.session, watch.key, watch.is_prefix, len(watch.kept), watch.missed > 0)

    def _remove(self, watch: Watch) -> None:
        self._drop(watch)
        self._count -= 1
        table = self._by_prefix if watch.is_prefix else self._by_key
        there = table[watch.key]
        del there[watch]
        if there:
            return
        del table[watch.key]
        if watch.is_prefix:
            length = len(watch.key)
            self._lengths[length] -= 1
            if not self._lengths[length]:
                del self._lengths[length]
                del self._lengths_sorted[bisect_left(self._lengths_sorted, length)]

    def _drop(self, watch: Watch) -> None:
        self.kept_size -= watch.kept_size
        watch.kept_size = 0
        watch.kept.clear()
