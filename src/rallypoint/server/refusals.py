"""Which refusals are logged: all of them, unless there are so many that the log would be the damage.

A bucket of lines: it holds ``BURST`` at most and fills at ``LINES_PER_S``. A refusal that finds it empty is counted,
and the next line that is logged tells the count.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["BURST", "LINES_PER_S", "RefusalLog", "log_line"]

BURST = 100
"""Lines that may come at once."""

LINES_PER_S = 10
"""Lines that may go on coming, each second."""


def log_line(message: str) -> None:
    """Write one line to the program's log ``rallypoint.server``."""
    import logging  # here, because a server that refuses nobody need not load it

    logging.getLogger("rallypoint.server").warning(message)


class RefusalLog:
    """One server's log of refusals.

    Args:
        log: takes one line.
        now: seconds on the caller's monotonic clock.
    """

    def __init__(self, log: Callable[[str], None], now: float) -> None:
        self._log = log
        self._lines = float(BURST)
        self._filled_at = now
        self._left_out = 0

    def leave_out(self, count: int) -> None:
        """Count refusals that came without a line of their own."""
        self._left_out += count

    def note(self, message: str, now: float) -> None:
        """Log one refusal, or count it: one that cannot be logged too."""
        self._lines = min(float(BURST), self._lines + (now - self._filled_at) * LINES_PER_S)
        self._filled_at = now
        if self._lines < 1:
            self._left_out += 1
            return
        self._lines -= 1
        if self._left_out:
            message = f"{message} ({self._left_out} refusals before this one were not logged)"
        try:
            self._log(message)
        except Exception:  # noqa: BLE001 - a program's log that fails is no reason to end the server
            self._left_out += 1
        else:
            self._left_out = 0
