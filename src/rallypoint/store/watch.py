"""A watch over a session: events as they come, from a queue with a bound.

Whoever reads the store's connection puts events here, also while nobody asks for them. Is nobody reading, because no
call is under way, they wait at the server, whose queue has a bound, too; both say ``Missed`` where they overflow.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import Final

from rallypoint.errors import RefusedError, StoreTimeoutError
from rallypoint.protocol.session.client import Happening
from rallypoint.protocol.session.spec import EventKind, SessionVerb, Status
from rallypoint.store.base import as_timeout_s, decode_key
from rallypoint.store.calls import Patience
from rallypoint.store.session_calls import Changed, Deleted, Event, Missed, Watch
from rallypoint.store.ticket import Ticket
from rallypoint.store.trunk import Trunk
from rallypoint.types import Timeout

__all__ = ["EVENTS_MAX", "SessionWatch"]

EVENTS_MAX: Final = 4096
"""Events of one watch that wait to be asked for; one more, and all of them become one ``Missed``."""


class SessionWatch(Watch):
    """A watch over a session.

    Args:
        trunk: the session.
        wire: what is watched.
        patience: whose timeout counts where ``next`` names none.

    Threads: one asks; any may close.
    """

    def __init__(self, trunk: Trunk, wire: bytes, patience: Patience) -> None:
        self.revision = 0
        self._trunk = trunk
        self._ticket: Ticket | None = None
        self._wire = wire
        self._patience = patience
        self._lock = threading.RLock()  # a signal's handler may close it amid a step of its own thread
        self._events: deque[Event] = deque()
        self._waiting: Ticket | None = None
        self._is_closed = False
        self._is_over = False  # the server watches no more

    def begin(self, ticket: Ticket, revision: int) -> None:
        """Say which request this watch is, and the revision that it was answered."""
        self._ticket, self.revision = ticket, revision

    def hear(self, happening: Happening | None) -> Ticket | None:
        """Take an event off the connection, or none if there will be no more; give the ticket of who waits for it."""
        with self._lock:
            if happening is None:
                self._is_over = True
            elif len(self._events) >= EVENTS_MAX or happening.kind is EventKind.MISSED:
                self._events.clear()
                self._events.append(Missed(happening.revision))
            elif happening.kind is EventKind.SET:
                self._events.append(Changed(_name(happening.key), happening.value, happening.revision))
            else:
                self._events.append(Deleted(_name(happening.key), happening.revision))
            waiting = self._waiting
            if waiting is not None:
                waiting.status = Status.EVENT
            return waiting

    def next(self, timeout: Timeout | None = None) -> Event:
        """Give the next event, waiting for it; see :meth:`Watch.next`."""
        patience = self._patience
        own_s = patience if isinstance(patience, float) else patience._timeout_s  # noqa: SLF001 - see Patient
        timeout_s = own_s if timeout is None else as_timeout_s(timeout)
        started = monotonic()
        while True:
            waiting = Ticket(SessionVerb.WATCH)
            waiting.sleeps = True
            with self._lock:
                if self._is_closed:
                    raise ValueError(f"the watch of {decode_key(self._wire[1:])!r} is closed")
                if self._events:
                    return self._events.popleft()
                if self._is_over:
                    key = decode_key(self._wire[1:])
                    raise RefusedError(
                        f"the server does not go on with the watch of {key!r} after a new connection",
                        reason="watch_ended",
                        endpoint=self._trunk.endpoint,
                    )
                self._waiting = waiting
            try:
                is_met = self._trunk.wait(waiting, started + timeout_s)
            finally:
                self._trunk.leave(waiting)
            if not is_met and not self._events:
                raise self._expired(timeout_s, monotonic() - started)

    def _expired(self, timeout_s: float, waited_s: float) -> StoreTimeoutError:
        key = decode_key(self._wire[1:])
        return StoreTimeoutError(
            f"watch timeout after {int(timeout_s * 1000)}ms, key: {key} (nothing happened; waited {waited_s:.3f} s on "
            f"{self._trunk.endpoint})",
            keys=[key],
            waited_s=waited_s,
            endpoint=self._trunk.endpoint,
        )

    def close(self) -> None:
        """End the watch; a thread that waits in ``next`` is told."""
        with self._lock:
            if self._is_closed:
                return
            self._is_closed = True
            waiting = self._waiting
            if waiting is not None:
                waiting.status = Status.EVENT
        if waiting is not None:
            waiting.wake()
        if self._ticket is not None:
            self._trunk.tell(self._trunk.session.unwatch, self._ticket)
        if waiting is not None and waiting.leads:  # it sleeps until something comes
            self._trunk.rouse()


def _name(wire: bytes) -> str:
    return wire[1:].decode(errors="backslashreplace")
