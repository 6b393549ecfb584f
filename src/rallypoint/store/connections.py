"""The connections behind one TCP store: which thread uses which, and what becomes of one whose call was cut short.

The wire has no request ids, so one connection carries one call at a time, and a call that waits for a key would hold
up everybody. Hence:

- The **main** connection takes every call while it is free; a second thread's short call waits its turn.
- While the call on the main connection is *waiting* (for a key, a barrier), other threads borrow a **side**
  connection: an idle one, or a new one.

::

    thread 1   set a ─ set b ─ check c ✓ ─ wait c ··················· got c      main
    thread 2                                set d ─ ping ✓ ─ set c ─ ping ✓      side

Program order across threads holds all the same. Writes are not answered, so on the main connection they are known to
be applied only once a later request was answered: a call asks something before it waits, and threads turn to side
connections only after that. A write on a side connection is followed by a PING, whose answer proves that it was
applied, before the call returns.

A call that ends in the middle (its time is up, Ctrl-C) leaves its connection with answers on the way that nobody
will fetch: that connection is closed, and the next call makes a new one. If the *server* closes a connection, that
is an error for this call and all later ones: what came after it would be another server, with other data.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectionLostError
from rallypoint.protocol import client
from rallypoint.store.connection import Connection, connect
from rallypoint.types import Endpoint

__all__ = ["IDLE_SIDES_MAX", "REPLY_GRACE_S", "Begin", "Connections"]

T = TypeVar("T")

Begin: TypeAlias = Callable[[bool], client.Call[T]]
"""Makes a call, given whether the server is torch's legacy one and must be asked carefully."""

REPLY_GRACE_S = 2.0
"""How much longer than the caller's timeout an answer may take that the server owes at once, in seconds. A timeout
is about keys that do not come; a server that is merely busy should not fail a store that was told to look once."""

IDLE_SIDES_MAX = 4
"""Side connections kept open for the next need."""


class Connections:
    """All connections of one store object.

    Signals may strike anywhere in the main thread, and what they raise (Ctrl-C) must not leave the store locked.
    Hence the unusual care below: locks are held by ``with`` alone, whose begin and end no signal can split; what
    must be undone is undone by one assignment in a ``finally``; and a connection counts as out of step *before*
    its first byte is sent, so that nobody has to find out afterwards.

    Args:
        endpoint: the server.
        main: the main connection, made already.
        is_careful: assume torch's legacy server from the start.
        reconnect: makes one more connection, within some seconds.

    Attributes:
        endpoint: the server.
        main: the main connection; replaced at the next call if it is out of step.
        is_careful: the server is torch's legacy one, which must not be asked for missing keys.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        main: Connection,
        *,
        is_careful: bool = False,
        reconnect: Callable[[Endpoint, float], Connection] = connect,
    ) -> None:
        self.endpoint = endpoint
        self.main = main
        self.is_careful = is_careful
        self._reconnect = reconnect
        self._turn = threading.Lock()  # held while a call on the main connection is short
        self._holder: int | None = None  # the thread that holds it
        self._waiter: object = None  # the call that waits on the main connection
        self._sides: list[Connection] = []
        self._idle: list[Connection] = []
        self._end: str | None = None  # why no call is possible any more

    def run(self, begin: Begin[T], timeout_s: float, *, settles: bool = False) -> T:
        """Run one call on a free connection.

        Args:
            begin: makes the call, given whether to be careful; called again if the legacy server is first met.
            timeout_s: the caller's timeout in seconds; infinity waits for ever.
            settles: the call may wait without asking anything first, so earlier writes must be acknowledged before.

        Raises:
            WaitExpired: the call's verdict when its time is up.
            ReplyTimeoutError: if the server owes an answer and is silent.
            ConnectionLostError: if the server closed the connection, now or earlier.
            RemoteProtocolError: if its answer makes no sense.
        """
        deadline = Deadline(timeout_s)
        owed = deadline.later(REPLY_GRACE_S)
        while True:
            try:
                return self._run(begin, deadline, owed, settles)
            except client.LegacyServerError:  # noqa: PERF203 - once in the life of a store
                self.is_careful = True
            except ConnectionLostError as error:
                if self._end is None:
                    self._end = str(error)
                    raise
                raise ConnectionLostError(self._end, endpoint=self.endpoint) from error

    def post(self, begin: Begin[None], timeout_s: float) -> None:
        """Run a call that sends one message and reads nothing; as ``run``, at less cost while nobody waits."""
        me = threading.get_ident()
        if self._holder != me:
            with self._turn:
                if self._waiter is None and self._end is None and self.main.is_in_step:
                    self._holder = me
                    try:
                        self.main.post(begin(self.is_careful), timeout_s + REPLY_GRACE_S)
                    except ConnectionLostError as error:
                        self._end = self._end or str(error)
                        raise
                    else:
                        return
                    finally:
                        self._holder = None
        self.run(begin, timeout_s)

    def _run(self, begin: Begin[T], deadline: Deadline, owed: Deadline, settles: bool) -> T:
        me = threading.get_ident()
        if self._holder == me:
            # We are in a signal handler, amid a short call of our own thread.
            return self._run_beside(begin, deadline, owed)
        result: list[T] = []
        wait = None
        try:
            with self._turn:
                self._holder = me
                try:
                    is_main = self._waiter is None
                    if is_main:
                        connection = self._main_in_step(owed)
                        if settles:
                            connection.acknowledge(owed)
                        call = begin(self.is_careful)
                        wait = connection.begin(call, owed, result)
                        if wait is not None:
                            self._waiter = result
                finally:
                    self._holder = None
            if not is_main:
                return self._run_beside(begin, deadline, owed)
            if wait is not None:
                connection.finish(call, wait, owed, deadline, result)
            return result[0]
        finally:
            if self._waiter is result:
                self._waiter = None

    def _main_in_step(self, owed: Deadline) -> Connection:
        self._check()
        if not self.main.is_in_step:
            self.main.close()
            self.main = self._reconnect(self.endpoint, owed.remaining_s())
            self._see_whether_closed(self.main)
        return self.main

    def _run_beside(self, begin: Begin[T], deadline: Deadline, owed: Deadline) -> T:
        """Run a call on a side connection; writes are applied when it returns."""
        self._check()
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._reconnect(self.endpoint, owed.remaining_s())
            self._sides.append(connection)
            self._see_whether_closed(connection)
        result: list[T] = []
        try:
            call = begin(self.is_careful)
            wait = connection.begin(call, owed, result)
            if wait is not None:
                connection.finish(call, wait, owed, deadline, result)
            connection.acknowledge(owed)
            return result[0]
        finally:
            if connection.is_in_step and self._end is None and len(self._idle) < IDLE_SIDES_MAX:
                self._idle.append(connection)
            else:
                connection.close()
                self._sides.remove(connection)

    def _check(self) -> None:
        if self._end is not None:
            raise ConnectionLostError(self._end, endpoint=self.endpoint)

    def _see_whether_closed(self, connection: Connection) -> None:
        """Close a new connection if another thread has closed all.

        This comes after the connection was put where ``close`` looks: one of the two sees what the other did.
        """
        if self._end is not None:
            connection.close()

    @property
    def is_waiting(self) -> bool:
        """Tell whether a call waits on the main connection."""
        return self._waiter is not None

    def close(self, reason: str) -> None:
        """Close every connection; calls that other threads have under way end with ``ConnectionLostError``.

        Args:
            reason: what later calls are told.
        """
        self._end = self._end or reason
        for connection in (self.main, *self._sides):
            connection.close()
