"""Things that happen again and again beside the main thread, and pauses of random length."""

from __future__ import annotations

import logging
import random
import threading
import weakref
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rallypoint.clock import SYSTEM_CLOCK
from rallypoint.types import Timeout, as_seconds

__all__ = ["PeriodicTimer", "delay"]

_log = logging.getLogger("rallypoint.rendezvous")


def delay(seconds: float | tuple[float, float]) -> None:
    """Pause the calling thread.

    Args:
        seconds: how long; a pair: at least the first, at most the second, chosen at random.
    """
    if isinstance(seconds, tuple):
        seconds = random.uniform(*seconds)  # noqa: S311 - it spreads load, it hides nothing
    SYSTEM_CLOCK.sleep(seconds)


class PeriodicTimer:
    """Calls a function every ``interval`` in a daemon thread of its own, never early, until cancelled.

    A call that raises is logged and the next one comes all the same. Calls do not overlap: a late one delays the
    next. The timer also ends when nobody refers to it any more, so the function should not refer to it, nor to
    whatever owns it.

    Args:
        interval: seconds or a ``timedelta`` between two calls, and before the first.
        function: what to call, with the arguments that follow.

    Source: torch 2.13.0's private class of the same use.
    """

    def __init__(self, interval: timedelta | Timeout, function: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        self._interval_s = as_seconds(interval, "interval")
        self._call = lambda: function(*args, **kwargs)
        self._name = "PeriodicTimer"
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def name(self) -> str:
        """The name of the timer's thread."""
        return self._name

    def set_name(self, name: str) -> None:
        """Name the timer's thread.

        Raises:
            RuntimeError: if it runs already.
        """
        self._refuse_if_started()
        self._name = name

    def start(self) -> None:
        """Begin; the first call comes after one interval.

        Raises:
            RuntimeError: if the timer was started before, cancelled or not.
        """
        self._refuse_if_started()
        self._thread = threading.Thread(
            target=_run, args=(self._stopping, self._interval_s, self._call), name=self._name, daemon=True
        )
        weakref.finalize(self, self._stopping.set)
        self._thread.start()

    def cancel(self) -> None:
        """Make no further call and wait until the one under way has returned; doing it again is fine."""
        self._stopping.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _refuse_if_started(self) -> None:
        if self._thread is not None:
            raise RuntimeError("The timer has already started.")


def _run(stopping: threading.Event, interval_s: float, call: Callable[[], None]) -> None:
    while not stopping.wait(interval_s):
        _call_safely(call, interval_s)


def _call_safely(call: Callable[[], None], interval_s: float) -> None:
    try:
        call()
    except Exception:  # noqa: BLE001 - one failed beat must not end the beating
        _log.exception("a periodic call failed; the next one follows in %g s", interval_s)
