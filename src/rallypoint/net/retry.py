"""Connecting again and again under one total deadline: the server may come later than its clients.

The caller's timeout is the total: name resolution (repeated at every attempt, because names move), connecting, the
caller's own handshake, and the pauses between. A peer that accepts and then stays silent counts as not there.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from rallypoint.clock import SYSTEM_CLOCK, Clock, Deadline
from rallypoint.errors import AuthenticationError, ConnectTimeoutError, DistNetworkError
from rallypoint.net.address import UNIX_PREFIX
from rallypoint.net.connect import connect
from rallypoint.net.stream import Stream
from rallypoint.types import Endpoint, Timeout, as_seconds

__all__ = [
    "ATTEMPT_S_MAX",
    "DEFAULT_BACKOFF",
    "LOOK_ONCE_S",
    "MOMENT_S",
    "Backoff",
    "Handshake",
    "connect_with_retries",
]

LOOK_ONCE_S = 1.0
"""How long the one attempt of a timeout of 0 may take, in seconds: enough for a living server to answer."""

ATTEMPT_S_MAX = 30.0
"""After this many seconds an attempt is given up for a new one, which resolves the name again."""

MOMENT_S = 0.001
"""With less than so many seconds left there is no other attempt: it would say nothing but that it had no time."""

Handshake: TypeAlias = Callable[[Stream, Deadline], None]
"""Makes sure that the right kind of server is there; raises ``DistNetworkError`` if not."""


class Backoff(NamedTuple):
    """How long to pause between attempts: growing, bounded, and spread, so that many clients do not march in step.

    Attributes:
        first_s: the first pause, in seconds, before it is spread.
        factor: how much longer each further one is.
        max_s: the longest, in seconds, before it is spread.
        spread: a pause is drawn evenly from ``1 - spread`` to ``1 + spread`` times its nominal length.
    """

    first_s: float = 0.05
    factor: float = 1.6
    max_s: float = 2.0
    spread: float = 0.5

    def pause_s(self, attempts: int, chance: float) -> float:
        """Give the pause after a number of failed attempts.

        Args:
            attempts: 1 or more.
            chance: a number from 0 to 1 that places the pause in its range.
        """
        nominal_s = self.first_s
        for _ in range(attempts - 1):
            if nominal_s >= self.max_s:
                break
            nominal_s *= self.factor
        return min(nominal_s, self.max_s) * (1 - self.spread + 2 * self.spread * chance)


DEFAULT_BACKOFF = Backoff()
"""Quick at first, because servers and clients of one job start together; then about one attempt in 2 s a client."""


def connect_with_retries(
    endpoint: Endpoint,
    timeout: Timeout,
    handshake: Handshake,
    *,
    backoff: Backoff = DEFAULT_BACKOFF,
    clock: Clock = SYSTEM_CLOCK,
    attempt: Callable[[Endpoint, Deadline], Stream] = connect,
    chance: Callable[[], float] = random.random,
) -> Stream:
    """Connect to a server that may not be there yet.

    Args:
        endpoint: the server.
        timeout: seconds or a ``timedelta`` for everything together; infinity never gives up. 0 or less looks once:
            one attempt, which may take up to ``LOOK_ONCE_S``.
        handshake: called with each new stream and the attempt's deadline.
        backoff: the pauses between attempts.
        clock: measures the deadline and makes the pauses.
        attempt: connects once.
        chance: gives the numbers that spread the pauses.

    Returns:
        A stream whose handshake was done.

    Raises:
        ConnectTimeoutError: if no attempt ended well in time; the last one's error is its cause.
        AuthenticationError: at once, as an attempt raised it: no other would end better.
    """
    timeout_s = as_seconds(timeout)
    deadline = Deadline(timeout_s if timeout_s > 0 else LOOK_ONCE_S, clock)
    attempts = 0
    while True:
        attempts += 1
        this_deadline = Deadline(min(ATTEMPT_S_MAX, deadline.remaining_s()), clock)
        try:
            return _connect_once(endpoint, this_deadline, handshake, attempt)
        except AuthenticationError:
            raise
        except DistNetworkError as error:
            if timeout_s > 0:
                # Never more than half of what is left: a server that comes shortly before the deadline is met.
                left_s = deadline.remaining_s()
                clock.sleep(min(left_s, backoff.pause_s(attempts, chance()), max(left_s / 2, backoff.first_s)))
            if timeout_s <= 0 or deadline.remaining_s() < MOMENT_S:
                raise _given_up(endpoint, timeout_s, attempts, deadline, error) from error


def _connect_once(
    endpoint: Endpoint, deadline: Deadline, handshake: Handshake, attempt: Callable[[Endpoint, Deadline], Stream]
) -> Stream:
    stream = attempt(endpoint, deadline)
    try:
        handshake(stream, deadline)
    except BaseException:
        stream.close()
        raise
    return stream


def _given_up(
    endpoint: Endpoint, timeout_s: float, attempts: int, deadline: Deadline, last: DistNetworkError
) -> ConnectTimeoutError:
    where = f"({endpoint.host})" if endpoint.host.startswith(UNIX_PREFIX) else f"({endpoint.host}, {endpoint.port})"
    # The first sentence is torch's, word for word, because people search logs for it.
    return ConnectTimeoutError(
        f"The client socket has timed out after {max(0.0, timeout_s) * 1000:.0f}ms while trying to connect to {where}. "
        f"{attempts} {'attempt' if attempts == 1 else 'attempts'}; the last one: {last}",
        endpoint=endpoint,
        waited_s=deadline.waited_s(),
        attempts=attempts,
    )
