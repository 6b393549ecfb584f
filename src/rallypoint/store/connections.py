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

import math
import os
import threading
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectionLostError, LocalProtocolError, QueueEmptyError, ReplyTimeoutError
from rallypoint.net.retry import connect_with_retries
from rallypoint.net.stream import Stream
from rallypoint.protocol import client
from rallypoint.types import Endpoint

__all__ = ["IDLE_SIDES_MAX", "REPLY_GRACE_S", "Connection", "Connections", "connect"]

T = TypeVar("T")

Begin: TypeAlias = Callable[[bool], client.Call[T]]
"""Makes a call, given whether the server is torch's legacy one and must be asked carefully."""

REPLY_GRACE_S = 5.0
"""How much longer than the caller's timeout an answer may take that the server owes at once, in seconds. A timeout
is about keys that do not come; a server that is merely busy should not fail a store that was told to look once."""

IDLE_SIDES_MAX = 4
"""Side connections kept open for the next need."""

IN_STEP = (client.WaitExpired, QueueEmptyError, LocalProtocolError)
"""Errors that a call ends with when all answers are in hand, or nothing was sent."""


class Connection:
    """One connection, past its handshake; drives one call at a time.

    Attributes:
        stream: the bytes.
        is_in_step: every answer was fetched; false while a call runs, and for good if it was cut short.
        is_acknowledged: the server has answered after the last thing that was sent.
    """

    __slots__ = ("is_acknowledged", "is_in_step", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.is_in_step = True
        self.is_acknowledged = True

    def run(self, call: client.Call[T], deadline: Deadline, owed: Deadline, on_wait: Callable[[], None]) -> T:
        """Do what a call asks for until it has its result.

        Args:
            call: a fresh generator of ``protocol.client``.
            deadline: when the call's waits end.
            owed: when an answer that is owed at once is overdue.
            on_wait: called before each wait.

        Raises:
            ReplyTimeoutError: if the server owes an answer and is silent.
            ConnectionLostError: if the server closed the connection.
            DistError: the call's own verdict.
        """
        stream = self.stream
        was_sent = False
        self.is_in_step = False
        try:
            step = next(call)
            while True:
                try:
                    if isinstance(step, bytes):
                        was_sent = True
                        stream.send(step, owed)
                        data = b""
                    elif isinstance(step, int):
                        data = stream.receive_exactly(step, owed)
                        was_sent = False
                    else:
                        on_wait()
                        data = stream.receive_exactly(step.size, deadline)
                        was_sent = False
                except ConnectionLostError as error:  # noqa: PERF203 - the call decides how to go on
                    step = call.throw(error)
                except ReplyTimeoutError:
                    if not isinstance(step, client.Wait):
                        raise
                    step = call.throw(client.WaitExpired())
                else:
                    step = call.send(data)
        except StopIteration as end:
            self.is_in_step = True
            self.is_acknowledged = self.is_acknowledged and not was_sent
            result: T = end.value
            return result
        except IN_STEP:
            self.is_in_step = True
            self.is_acknowledged = self.is_acknowledged and not was_sent
            raise

    def close(self) -> None:
        """Close the connection; from any thread, any number of times."""
        self.is_in_step = False
        self.stream.close()


def connect(endpoint: Endpoint, timeout_s: float) -> Connection:
    """Connect to a server, which may come later, and make sure that it is one.

    Args:
        endpoint: the server.
        timeout_s: seconds for everything together; 0 looks once.

    Raises:
        ConnectTimeoutError: if nobody answered as a store does.
    """

    def shake_hands(stream: Stream, deadline: Deadline) -> None:
        Connection(stream).run(client.handshake(_nonce()), deadline, deadline, _nothing)

    return Connection(connect_with_retries(endpoint, timeout_s, shake_hands))


def _nonce() -> int:
    """Give what torch's clients put into a PING."""
    return os.getpid() & 0xFFFFFFFF


def _nothing() -> None:
    """Do nothing before a wait: a new connection has no other users."""


class _Lease:
    """One thread's use of one connection for one call."""

    __slots__ = ("connection", "is_main", "is_waiting", "thread")

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.connection: Connection | None = None
        self.is_main = False
        self.is_waiting = False


class Connections:
    """All connections of one store object.

    Args:
        endpoint: the server.
        main: the main connection, made already.
        is_careful: assume torch's legacy server from the start.

    Attributes:
        endpoint: the server.
        main: the main connection; ``None`` between its loss and the next call.
        is_careful: the server is torch's legacy one, which must not be asked for missing keys.
    """

    def __init__(self, endpoint: Endpoint, main: Connection, *, is_careful: bool = False) -> None:
        self.endpoint = endpoint
        self.main: Connection | None = main
        self.is_careful = is_careful
        # A re-entrant lock inside: a signal handler may use the store while its thread is in here.
        self._changed = threading.Condition()
        self._main_lease: _Lease | None = None
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
        deadline, owed = Deadline(timeout_s), Deadline(timeout_s + REPLY_GRACE_S)
        lease = _Lease()
        try:
            return self._run_leased(lease, begin, deadline, owed, settles)
        except client.LegacyServerError:
            self.is_careful = True
        except ConnectionLostError as error:
            if self._end is None:
                self._end = str(error)
                raise
            raise ConnectionLostError(self._end, endpoint=self.endpoint) from error
        finally:
            self._give_back(lease)
        return self.run(begin, deadline.remaining_s(), settles=settles)

    def _run_leased(self, lease: _Lease, begin: Begin[T], deadline: Deadline, owed: Deadline, settles: bool) -> T:
        connection = self._take(lease, owed)

        def on_wait() -> None:
            if lease.is_main and not lease.is_waiting:
                with self._changed:
                    lease.is_waiting = True
                    self._changed.notify_all()

        if settles and not connection.is_acknowledged:
            connection.run(client.ping(_nonce()), owed, owed, on_wait)
        result = connection.run(begin(self.is_careful), deadline, owed, on_wait)
        if not lease.is_main and not connection.is_acknowledged:
            connection.run(client.ping(_nonce()), owed, owed, on_wait)
        return result

    def _take(self, lease: _Lease, owed: Deadline) -> Connection:
        with self._changed:
            while True:
                if self._end is not None:
                    raise ConnectionLostError(self._end, endpoint=self.endpoint)
                holder = self._main_lease
                if holder is None:
                    self._main_lease = lease
                    lease.is_main = True
                    lease.connection = self.main
                    break
                # The holder's own thread comes here from a signal handler, and must not wait for itself.
                if holder.is_waiting or holder.thread == lease.thread:
                    lease.connection = self._idle.pop() if self._idle else None
                    break
                self._await_turn(owed)
        if lease.connection is None:
            self._replace(lease, owed)
        assert lease.connection is not None
        return lease.connection

    def _await_turn(self, owed: Deadline) -> None:
        left_s = owed.remaining_s()
        try:
            is_notified = self._changed.wait(None if math.isinf(left_s) else left_s)
        except BaseException:
            self._changed.notify()  # it may have been our turn: pass it on
            raise
        if not is_notified and owed.has_passed():
            self._changed.notify()
            raise ReplyTimeoutError(
                f"another thread's call on {self.endpoint} was not answered within {owed.waited_s():.3f} s",
                endpoint=self.endpoint,
                waited_s=owed.waited_s(),
            )

    def _replace(self, lease: _Lease, owed: Deadline) -> None:
        """Connect for a lease that found no connection."""
        connection = connect(self.endpoint, owed.remaining_s())
        lease.connection = connection
        with self._changed:
            if lease.is_main:
                self.main = connection
            else:
                self._sides.append(connection)
            is_over = self._end is not None
        if is_over:  # closed meanwhile by another thread
            connection.close()

    def _give_back(self, lease: _Lease) -> None:
        connection = lease.connection
        is_usable = connection is not None and connection.is_in_step and self._end is None
        if connection is not None and not is_usable:
            connection.close()
        with self._changed:
            if self._main_lease is lease:
                self._main_lease = None
                if connection is not None and not is_usable:
                    self.main = None
                self._changed.notify()
            elif connection is not None:
                if is_usable and len(self._idle) < IDLE_SIDES_MAX:
                    self._idle.append(connection)
                    return
                if connection in self._sides:
                    self._sides.remove(connection)
        if not lease.is_main and connection is not None:
            connection.close()

    def close(self, reason: str) -> None:
        """Close every connection; calls that other threads have under way end with ``ConnectionLostError``.

        Args:
            reason: what later calls are told.
        """
        self._end = self._end or reason
        for connection in [self.main, *self._sides]:
            if connection is not None:
                connection.close()
