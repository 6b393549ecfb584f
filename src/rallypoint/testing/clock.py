"""A clock for tests: time passes when the test says so."""

from __future__ import annotations

import threading

__all__ = ["ManualClock"]

WAIT_FOR_SLEEPERS_S = 30.0
"""Real seconds that a test waits for its threads to reach their sleep."""


class ManualClock:
    """A :class:`rallypoint.clock.Clock` that stands still until it is moved.

    Args:
        start: what :meth:`now` gives at first, in seconds.
        jumps: whether :meth:`sleep` moves the clock itself and returns, which suits a test with one thread. If not, a
            sleeping thread sleeps until another has moved the clock far enough.

    Attributes:
        slept: the durations that were asked for, in order, in seconds.

    Threads: any.
    """

    def __init__(self, start: float = 0.0, *, jumps: bool = True) -> None:
        self.slept: list[float] = []
        self._now = start
        self._jumps = jumps
        self._sleepers = 0
        self._changed = threading.Condition()

    def now(self) -> float:
        """Give the time that was set."""
        with self._changed:
            return self._now

    def advance(self, duration_s: float) -> None:
        """Let time pass, and wake the sleepers whose time has come.

        Raises:
            ValueError: the duration is negative; this clock never goes back.
        """
        if duration_s < 0:
            raise ValueError(f"a clock does not go back, got {duration_s} s")
        with self._changed:
            self._now += duration_s
            self._changed.notify_all()

    def sleep(self, duration_s: float) -> None:
        """Sleep in this clock's time."""
        with self._changed:
            self.slept.append(duration_s)
            until = self._now + max(0.0, duration_s)
            if self._jumps:
                self._now = until
                self._changed.notify_all()
                return
            self._sleepers += 1
            self._changed.notify_all()
            try:
                while self._now < until:
                    self._changed.wait()
            finally:
                self._sleepers -= 1

    def wait_for_sleepers(self, count: int = 1, timeout_s: float = WAIT_FOR_SLEEPERS_S) -> None:
        """Wait, in real time, until so many threads sleep: then nothing happens before the next :meth:`advance`.

        Args:
            count: how many.
            timeout_s: real seconds after which the test has failed.

        Raises:
            AssertionError: they do not.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._sleepers >= count, timeout_s):
                raise AssertionError(f"{self._sleepers} threads sleep after {timeout_s:g} s, expected {count}")
