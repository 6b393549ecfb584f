"""One connection of a TCP store's client: how it is made, and how it drives one call of ``protocol.client`` at a time.

What this file does not know: other connections, threads.
"""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectionLostError, LocalProtocolError, QueueEmptyError, ReplyTimeoutError
from rallypoint.net.connect import connect as connect_once
from rallypoint.net.resolve import resolve
from rallypoint.net.retry import connect_with_retries
from rallypoint.net.stream import Stream
from rallypoint.protocol import client
from rallypoint.types import Endpoint

if TYPE_CHECKING:
    from rallypoint.net.tls import Tls

__all__ = ["IN_STEP", "Connection", "connect", "ping", "shake_hands"]

T = TypeVar("T")

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

    def post(self, call: client.Call[None], owed_s: float) -> None:
        """Do what a fresh call asks for that sends one message, or none, and reads nothing.

        Args:
            call: a generator of ``protocol.client``.
            owed_s: seconds after which it is overdue that the server takes the message.

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
                self.stream.send(memoryview(message)[sent:], Deadline(owed_s))
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
