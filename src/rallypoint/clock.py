"""Time, for drivers only: machines take ``now`` as an argument and never import this file.

Every wait is measured on the waiter's own monotonic clock. Wall clocks are read for log lines, never for
decisions.
"""

from __future__ import annotations

import math
import time
from typing import Protocol

from rallypoint.types import Timeout, as_seconds

__all__ = ["SYSTEM_CLOCK", "Clock", "Deadline", "SystemClock"]


class Clock(Protocol):
    """What a driver needs of time. ``rallypoint.testing.ManualClock`` is the other implementation."""

    def now(self) -> float:
        """Give seconds on a clock that never goes back; only differences mean something."""
        ...

    def sleep(self, duration_s: float) -> None:
        """Pause the calling thread for ``duration_s`` seconds (at least 0)."""
        ...


class SystemClock:
    """The machine's monotonic clock."""

    now = staticmethod(time.monotonic)

    def sleep(self, duration_s: float) -> None:
        """Pause the calling thread; a signal handler runs at once, the rest of the pause follows."""
        time.sleep(max(0.0, duration_s))


SYSTEM_CLOCK = SystemClock()


class Deadline:
    """A point in time on one clock: the internal form of every public ``timeout``.

    Args:
        timeout: seconds or a ``timedelta`` from now; 0 or less has passed at once, infinity never passes.
        clock: the clock to measure on.
    """

    __slots__ = ("_clock", "at", "started", "timeout_s")

    def __init__(self, timeout: Timeout, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self.timeout_s = as_seconds(timeout)
        self.started = clock.now()
        self.at = self.started + self.timeout_s

    def later(self, by_s: float) -> Deadline:
        """Give the deadline that began with this one and passes ``by_s`` seconds later."""
        twin = object.__new__(Deadline)
        twin._clock = self._clock
        twin.started = self.started
        twin.timeout_s = self.timeout_s + by_s
        twin.at = self.at + by_s
        return twin

    @classmethod
    def never(cls, clock: Clock = SYSTEM_CLOCK) -> Deadline:
        """Give the deadline that does not pass."""
        return cls(math.inf, clock)

    def remaining_s(self) -> float:
        """Give the seconds left, never below 0."""
        return max(0.0, self.at - self._clock.now())

    def waited_s(self) -> float:
        """Give the seconds since the deadline was made."""
        return self._clock.now() - self.started

    def has_passed(self) -> bool:
        """Tell whether the time is up."""
        return self._clock.now() >= self.at

    def __repr__(self) -> str:
        return f"Deadline({self.timeout_s:g} s, {self.remaining_s():.3f} s left)"
