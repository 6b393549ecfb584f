"""Whose turn it is: connections that cost the server much wait in a line, and each wake-up serves a slice of it.

Theory of operation. The loop serves light connections as they become ready. A connection of which two steps took
longer than ``HEAVY_S`` each is heavy, and so is a newcomer: when it is ready again it goes to the end of the line. A
short step makes it light again, but not until ``HEAVY_TIMES`` the time of the long one has passed: a request of many
reads has many short steps before its long one. A wake-up serves the line for ``HEAVY_SLICE_S``, at least one
connection, and then looks at the sockets again::

    ready --light--> served at once, for SLICE_S; those that are left first in the next wake-up
      '-----heavy--> [ 9 | 4 | 7 | ... ] --at least one, for HEAVY_SLICE_S--> served

So what a light connection waits for does not grow with the number of heavy ones. Nor does it with what one of them has
sent: a step that has taken ``STEP_S`` serves no other request, and its connection stands in line with the rest.

What this file does not know: what serving is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from rallypoint.clock import Clock
from rallypoint.server.connection import Connection

__all__ = ["HEAVY_S", "HEAVY_SLICE_S", "HEAVY_TIMES", "SLICE_S", "STEP_S", "StepTime", "Turns"]

HEAVY_S = 0.0002
"""Seconds above which a step is slow."""

HEAVY_TIMES = 100
"""For how many times as long as it took a slow step counts: who takes more than that part of all time stays heavy."""

SLICE_S = 0.005
"""Seconds that one wake-up spends on light connections before the rest has to stand in line, and on those in line."""

HEAVY_SLICE_S = 0.0002
"""Seconds that one wake-up spends on heavy connections: light ones that have become ready wait for so long."""

STEP_S = 0.0001
"""Seconds after which a step begins no other request of those that its connection has sent."""


class StepTime:
    """How long a step takes, for an engine, which knows no clock; see ``Ground.is_late``.

    Args:
        clock: what it is measured on.
    """

    __slots__ = ("_clock", "_until")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until = 0.0

    def is_late(self, requests: int) -> bool:
        """Tell whether a step that has served so many requests, and was asked this after each, is to end."""
        now = self._clock.now()
        if requests == 1:
            self._until = now + STEP_S
        return now >= self._until


class Turns:
    """Two lines, of light and of heavy connections; each connection is in one of them at most, once.

    Args:
        clock: what slices are measured on.

    Cost: O(1) for each connection added, discarded or given.
    Threads: none but the caller's.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._light: OrderedDict[int, Connection] = OrderedDict()
        self._heavy: OrderedDict[int, Connection] = OrderedDict()

    def __len__(self) -> int:
        """Count the connections in line."""
        return len(self._light) + len(self._heavy)

    def add(self, connection: Connection) -> None:
        """Put a connection at the end of its line, unless it is in it; a paused one has caused much output."""
        is_heavy = connection.slow_steps > 1 or connection.is_paused
        (self._heavy if is_heavy else self._light).setdefault(connection.fd, connection)

    def discard(self, connection: Connection) -> None:
        """Take a connection out of line, if it is in one."""
        self._light.pop(connection.fd, None)
        self._heavy.pop(connection.fd, None)

    def take(self) -> Iterator[Connection]:
        """Give light ones, then at least one heavy one, until the slice is over; each has left its line when given."""
        until = self._clock.now() + SLICE_S
        while self._light and self._clock.now() < until:
            yield self._light.popitem(last=False)[1]
        until = min(until, self._clock.now() + HEAVY_SLICE_S)
        while self._heavy:
            yield self._heavy.popitem(last=False)[1]
            if self._clock.now() >= until:
                return
