"""What keeps sessions alive while nobody calls: for stores whose leases live as long as their session.

Otherwise a store has no thread of its own: a connection that breaks while no call is under way is made again by the
next call, and if that is long in coming, the server has given the session up. A session that some thread reads anyway
needs nobody; one thread of the process looks whether that is so, for all of them. One that nobody reads gets a thread
that calls often enough, and ends with its client, at its next look at the latest.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import threading
import weakref
from time import monotonic
from typing import TYPE_CHECKING

from rallypoint.errors import DistNetworkError, ReplyTimeoutError, UnreachableError
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.store.reach import SESSION_TIMEOUT_S

if TYPE_CHECKING:
    from rallypoint.store.session import SessionClient

__all__ = ["PERIOD_S", "PERIOD_S_MIN", "PERIOD_S_READ", "attend", "period_s"]

PERIOD_S = SESSION_TIMEOUT_S / 4
"""How often it calls, in seconds, if its session outlives a connection by the default time or longer."""

PERIOD_S_MIN = 0.05
"""How often it calls at most, in seconds, however short its session lives without a connection."""


AGAIN_S = 0.01
"""A session that nobody reads is looked at again after so many seconds: its reader may have been at something else."""

PERIOD_S_READ = 0.4
"""While a thread reads the connection all the time, it is looked after more and more rarely, so often at last."""


def period_s(granted_s: float) -> float:
    """Give how often to call for a session that outlives its connection by so many seconds."""
    return max(min(PERIOD_S, granted_s / 4), PERIOD_S_MIN)


def attend(client: SessionClient) -> None:
    """Keep a client's session alive from now on; doing it again changes nothing."""
    if client not in _attended:
        _rounds.add(_Charge(client))
        _attended.add(client)


class _Charge:
    """One client that is looked after.

    Attributes:
        due_at: when, the next time.
        is_unread: nobody read its connection the last time.
    """

    def __init__(self, client: SessionClient) -> None:
        self.seen = weakref.ref(client)
        self.is_unread = False
        self._pause_s = self._next_s = period_s(client.trunk.granted_s)
        self.due_at = monotonic() + self._next_s

    def __lt__(self, other: _Charge) -> bool:
        return self.due_at < other.due_at

    def note(self, *, is_read: bool) -> None:
        """Set the next time."""
        if is_read:  # whoever reads sees the connection break, and makes it again
            self._next_s = max(self._pause_s, min(2 * self._next_s, PERIOD_S_READ))
        else:
            self._next_s = self._pause_s
        self.is_unread = not is_read
        self.due_at = monotonic() + (self._next_s if is_read else AGAIN_S)

    def call(self) -> None:
        """Call now and then, until the client is gone, or somebody else reads."""
        pause = threading.Event()
        while (client := self.seen()) is not None:
            if client.trunk.is_read:
                self.note(is_read=True)
                with contextlib.suppress(RuntimeError):  # the system gives no more threads now: this one goes on
                    _rounds.add(self)
                    return
            try:
                client.trunk.ask(SessionVerb.PING, (0,), PERIOD_S)
            except (ReplyTimeoutError, UnreachableError):
                pass  # its own time is up when that of the session is
            except DistNetworkError:  # closed, or lost for good
                return
            finally:
                del client
            pause.wait(self._pause_s)


class _Rounds:
    """The thread that looks after all clients whose connections others read; it lives while there are any."""

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards what follows
        self._due: list[_Charge] = []
        self._is_going = False

    def add(self, charge: _Charge) -> None:
        """Look after a client from now on."""
        with self._changed:
            if not self._is_going:
                threading.Thread(target=self._go, name="rallypoint-sessions", daemon=True).start()
                self._is_going = True
            heapq.heappush(self._due, charge)
            if self._due[0] is charge:
                self._changed.notify()

    def _go(self) -> None:
        while True:
            with self._changed:
                while self._due and (left_s := self._due[0].due_at - monotonic()) > 0:
                    self._changed.wait(left_s)
                if not self._due:
                    self._is_going = False
                    return
                charge = heapq.heappop(self._due)
            self._look(charge)

    def _look(self, charge: _Charge) -> None:
        client = charge.seen()
        if client is None:
            return
        is_read = client.trunk.is_read
        if not is_read and charge.is_unread:
            try:
                threading.Thread(target=charge.call, name="rallypoint-session", daemon=True).start()
            except RuntimeError:  # the system gives no more threads now
                pass
            else:
                return
        charge.note(is_read=is_read)
        self.add(charge)


_attended: weakref.WeakSet[SessionClient] = weakref.WeakSet()
_rounds = _Rounds()


def _begin_anew() -> None:
    """A forked child has none of its parent's threads, and may not use its parent's clients."""
    global _rounds  # noqa: PLW0603 - one for the process, as its thread is
    _rounds = _Rounds()


os.register_at_fork(after_in_child=_begin_anew)
