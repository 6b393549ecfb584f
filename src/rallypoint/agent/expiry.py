"""Timers over pieces of a worker's work: a worker that does not get through in time is killed.

A worker asks its client for a timer before a piece of work and gives it back after it::

    with expires(after=60):      # this line, in this process, has 60 seconds
        synchronize_gradients()

A server beside the worker takes the requests, from a queue or a named pipe, and kills workers whose timers expired. A
worker that was killed leaves no timer behind. Times are seconds since 1970, on one host.

Source: names, signatures and the order of calls as observed in torch 2.13.0. Unlike there, a timer without a scope is
named after the line of its ``with``, so that two of them do not share one timer.
"""

from __future__ import annotations

import abc
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["RequestQueue", "TimerClient", "TimerRequest", "TimerServer", "configure", "expires"]

_log = logging.getLogger("rallypoint.agent")


@dataclass
class TimerRequest:
    """A worker asks for a timer, or gives it back.

    Attributes:
        worker_id: the worker, as client and server know it.
        scope_id: the piece of work; asking again for it sets its one timer anew.
        expiration_time: until when, in seconds since 1970; below 0: the timer is given back.
    """

    worker_id: Any
    scope_id: str
    expiration_time: float


class TimerClient(abc.ABC):
    """A worker's way to its timer server."""

    @abc.abstractmethod
    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Ask for a timer over a piece of work.

        Args:
            scope_id: the piece of work.
            expiration_time: until when, in seconds since 1970.
        """

    @abc.abstractmethod
    def release(self, scope_id: str) -> None:
        """Give a timer back."""


class RequestQueue(abc.ABC):
    """Where requests wait for the server."""

    @abc.abstractmethod
    def size(self) -> int:
        """Give about how many wait."""

    @abc.abstractmethod
    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        """Take requests.

        Args:
            size: how many to wait for.
            timeout: seconds to wait for all of them.

        Returns:
            Those that came in time, in order.
        """


class TimerServer(abc.ABC):
    """Takes requests and ends workers that were not through in time, in a thread of its own.

    Args:
        request_queue: where requests come from.
        max_interval: the longest time between two looks for expired timers, in seconds.
        daemon: whether the thread may be left behind at the end of the process.
    """

    def __init__(self, request_queue: RequestQueue, max_interval: float, daemon: bool = True) -> None:
        self._request_queue = request_queue
        self._max_interval = max_interval
        self._daemon = daemon
        self._watchdog_thread: threading.Thread | None = None
        self._stop_signaled = threading.Event()

    @abc.abstractmethod
    def register_timers(self, timer_requests: list[TimerRequest]) -> None:
        """Set and drop timers as requested."""

    @abc.abstractmethod
    def clear_timers(self, worker_ids: set[Any]) -> None:
        """Drop all timers of some workers."""

    @abc.abstractmethod
    def get_expired_timers(self, deadline: float) -> dict[Any, list[TimerRequest]]:
        """Give the timers whose time is up at ``deadline``, by worker."""

    @abc.abstractmethod
    def _reap_worker(self, worker_id: Any) -> bool:
        """End a worker; give whether it is gone."""

    def _reap_worker_no_throw(self, worker_id: Any) -> bool:
        try:
            return self._reap_worker(worker_id)
        except Exception:  # noqa: BLE001 - a subclass may raise anything; its other workers are still to be watched
            _log.exception("worker %s, whose timer expired, could not be ended and is not watched any more", worker_id)
            return True

    def start(self) -> None:
        """Begin to watch."""
        self._stop_signaled.clear()
        self._watchdog_thread = threading.Thread(
            target=self._watchdog_loop, name=type(self).__name__, daemon=self._daemon
        )
        self._watchdog_thread.start()

    def stop(self) -> None:
        """End the watch. Calling it twice, or before the start, does no harm."""
        self._stop_signaled.set()
        thread, self._watchdog_thread = self._watchdog_thread, None
        if thread is not None:
            thread.join()

    def _watchdog_loop(self) -> None:
        while not self._stop_signaled.is_set():
            try:
                self._run_watchdog()
            except Exception:  # noqa: BLE001, PERF203 - the workers of the next round are still to be watched
                _log.exception("a look for expired timers failed")
                self._stop_signaled.wait(self._max_interval)

    def _run_watchdog(self) -> None:
        """Take the requests that wait, or the next one, then end the workers whose timers expired."""
        size = max(1, self._request_queue.size())
        self.register_timers(self._request_queue.get(size, self._max_interval))
        reaped = set()
        for worker_id, expired in self.get_expired_timers(time.time()).items():
            scopes = ", ".join(sorted({request.scope_id for request in expired}))
            _log.warning("ending worker %s, whose timer expired in %s", worker_id, scopes)
            if self._reap_worker_no_throw(worker_id):
                reaped.add(worker_id)
        self.clear_timers(reaped)


_client: list[TimerClient] = []


def configure(timer_client: TimerClient) -> None:
    """Set the client that this process' timers use."""
    _client[:] = [timer_client]


class _Scope:
    """The line of code that a timer stands in."""

    @staticmethod
    def of_caller(depth: int) -> str:
        frame = sys._getframe(depth + 1)  # noqa: SLF001 - documented, and what inspect itself uses
        return f"{os.path.basename(frame.f_code.co_filename)}#{frame.f_lineno}"  # noqa: PTH119 - a name, not a path


@contextmanager
def _held(after: float, scope: str, client: TimerClient) -> Iterator[None]:
    client.acquire(scope, time.time() + after)
    try:
        yield
    finally:
        client.release(scope)


def expires(after: float, scope: str | None = None, client: TimerClient | None = None) -> Any:
    """Give a block of code some time; when it takes longer the timer server ends this process.

    Args:
        after: seconds.
        scope: the timer's name; ``None`` for the present line of code.
        client: the way to the server; ``None`` for the configured one.

    Raises:
        RuntimeError: when the block is entered, if there is no client.
    """
    name = _Scope.of_caller(1) if scope is None else scope
    used = client if client is not None else (_client[0] if _client else None)
    if used is None:
        raise RuntimeError("Configure timer client before using countdown timers.")
    return _held(after, name, used)
