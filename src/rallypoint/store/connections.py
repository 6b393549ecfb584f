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

import os
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectionLostError, LocalProtocolError, QueueEmptyError, ReplyTimeoutError
from rallypoint.net.resolve import resolve
from rallypoint.net.retry import connect_with_retries
from rallypoint.net.stream import Stream
from rallypoint.net.stream import connect as connect_once
from rallypoint.protocol import client
from rallypoint.types import Endpoint

if TYPE_CHECKING:
    from rallypoint.net.tls import Tls

__all__ = ["IDLE_SIDES_MAX", "REPLY_GRACE_S", "Connection", "Connections", "connect", "ping", "shake_hands"]

T = TypeVar("T")

Begin: TypeAlias = Callable[[bool], client.Call[T]]
"""Makes a call, given whether the server is torch's legacy one and must be asked carefully."""

REPLY_GRACE_S = 2.0
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

    def begin(self, call: client.Call[T], owed: Deadline, result: list[T]) -> client.Wait | None:
        """Do what a fresh call asks for, until it ends or wants to wait.

        Args:
            call: a generator of ``protocol.client``.
            owed: when an answer that is owed at once is overdue.
            result: where the call's result is put.

        Returns:
            The wait, to go on with in ``finish``; ``None`` if the call has ended.

        Raises:
            ReplyTimeoutError: if the server owes an answer and is silent.
            ConnectionLostError: if the server closed the connection.
            DistError: the call's own verdict.
        """
        self.is_in_step = False
        return self._drive(call, None, owed, None, result)

    def finish(
        self, call: client.Call[T], wait: client.Wait, owed: Deadline, deadline: Deadline, result: list[T]
    ) -> None:
        """Wait, until ``deadline``, and go on until the call ends; otherwise as ``begin``."""
        self._drive(call, wait, owed, deadline, result)

    def _drive(  # noqa: PLR0912 - the hot loop, in one piece
        self,
        call: client.Call[T],
        step: client.Step | None,
        owed: Deadline,
        deadline: Deadline | None,
        result: list[T],
    ) -> client.Wait | None:
        stream = self.stream
        was_sent = False
        try:
            if step is None:
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
                        self.is_acknowledged = True
                    elif deadline is None:
                        return step
                    else:
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
            result.append(end.value)
            self._end(was_sent)
            return None
        except IN_STEP:
            self._end(was_sent)
            raise
        except BaseException:
            self.stream.close()
            raise

    def post(self, call: client.Call[None], timeout_s: float) -> None:
        """Do what a fresh call asks for that sends one message, or none, and reads nothing.

        Raises:
            ReplyTimeoutError: if the server does not take the message.
            ConnectionLostError: if the server closed the connection.
            LocalProtocolError: if the message cannot be made; nothing was sent.
        """
        message = next(call, b"")
        assert isinstance(message, bytes)
        self.is_in_step = False
        try:
            sent = self.stream.send_at_once(message) if message else 0
            if sent != len(message):
                self.stream.send(memoryview(message)[sent:], Deadline(timeout_s + REPLY_GRACE_S))
        except BaseException:
            self.stream.close()
            raise
        self._end(was_sent=True)

    def _end(self, was_sent: bool) -> None:
        if was_sent:
            self.is_acknowledged = False
        self.is_in_step = True

    def acknowledge(self, owed: Deadline) -> None:
        """Make sure that the server has applied all that was sent. Cost: one round trip, none if it is known."""
        if not self.is_acknowledged:
            self.begin(ping(), owed, [])

    def close(self) -> None:
        """Close the connection; from any thread, any number of times."""
        self.is_in_step = False
        self.stream.close()


def connect(endpoint: Endpoint, timeout_s: float, *, via: Endpoint | None = None, tls: Tls | None = None) -> Connection:
    """Connect to a server, which may come later, and make sure that it is one.

    Args:
        endpoint: the server, as everybody calls it.
        timeout_s: seconds for everything together; 0 looks once.
        via: where this process reaches it, if that is a shorter way. The host name must mean something all the same:
            the others have nothing else.
        tls: the files to secure the connection with.

    Raises:
        ConnectTimeoutError: if nobody answered as a store does.
        AuthenticationError: the server wants a token, which c10d cannot prove.
    """

    def attempt(target: Endpoint, deadline: Deadline) -> Stream:
        if via is None:
            stream = connect_once(target, deadline)
        else:
            resolve(target.host, target.port, deadline)
            stream = connect_once(via, deadline)
        if tls is None:
            return stream
        from rallypoint.net.tlsstream import secure  # loads the system's TLS

        return secure(stream, tls, deadline, target.host)

    def greet(stream: Stream, deadline: Deadline) -> None:
        try:
            shake_hands(stream, deadline)
        except ConnectionLostError:
            from rallypoint.store.refusal import check_whether_welcome  # loads the session dialect

            check_whether_welcome(partial(attempt, endpoint), endpoint, deadline.remaining_s())
            raise

    return Connection(connect_with_retries(endpoint, timeout_s, greet, attempt=attempt))


def shake_hands(stream: Stream, deadline: Deadline) -> None:
    """Make sure that a store is at the other end.

    Raises:
        DistNetworkError: if there is none.
    """
    Connection(stream).begin(client.handshake(_nonce()), deadline, [])


def ping() -> client.Call[None]:
    """Make the call that has the server acknowledge what was sent before."""
    return client.ping(_nonce())


def _nonce() -> int:
    """Give what torch's clients put into a PING."""
    return os.getpid() & 0xFFFFFFFF


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
                        self.main.post(begin(self.is_careful), timeout_s)
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
