"""Timers whose requests come through a queue of ``multiprocessing``.

Source: names and behaviour as observed in torch 2.13.0.
"""

from __future__ import annotations

import os
import queue
import signal
from typing import TYPE_CHECKING, Any

from rallypoint.agent.expiry import RequestQueue, TimerClient, TimerRequest, TimerServer
from rallypoint.clock import Deadline

if TYPE_CHECKING:
    import multiprocessing.queues

__all__ = ["LocalTimerClient", "LocalTimerServer", "MultiprocessingRequestQueue"]

RELEASED = -1.0


class LocalTimerClient(TimerClient):
    """A worker's way to a server in its parent.

    Args:
        mp_queue: the queue that both have.
    """

    def __init__(self, mp_queue: multiprocessing.queues.Queue[TimerRequest]) -> None:
        self._mp_queue = mp_queue

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Ask for a timer over this process; see ``TimerClient``."""
        self._mp_queue.put(TimerRequest(os.getpid(), scope_id, expiration_time))

    def release(self, scope_id: str) -> None:
        """Give a timer back."""
        self._mp_queue.put(TimerRequest(os.getpid(), scope_id, RELEASED))


class MultiprocessingRequestQueue(RequestQueue):
    """Requests in a queue of ``multiprocessing``."""

    def __init__(self, mp_queue: multiprocessing.queues.Queue[TimerRequest]) -> None:
        self._mp_queue = mp_queue

    def size(self) -> int:
        """Give about how many wait."""
        return self._mp_queue.qsize()

    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        """Take up to ``size`` requests within ``timeout`` seconds."""
        deadline = Deadline(timeout)
        requests: list[TimerRequest] = []
        while len(requests) < size:
            try:
                requests.append(self._mp_queue.get(timeout=deadline.remaining_s()))
            except queue.Empty:  # noqa: PERF203 - the end of the time, once
                break
        return requests


class LocalTimerServer(TimerServer):
    """Watches processes of this host; kills with SIGKILL.

    Args:
        mp_queue: the queue that workers have too.
        max_interval: the longest time between two looks for expired timers, in seconds.
        daemon: whether the thread may be left behind at the end of the process.
    """

    def __init__(
        self, mp_queue: multiprocessing.queues.Queue[TimerRequest], max_interval: float = 60, daemon: bool = True
    ) -> None:
        super().__init__(MultiprocessingRequestQueue(mp_queue), max_interval, daemon)
        self._timers: dict[tuple[Any, str], TimerRequest] = {}

    def register_timers(self, timer_requests: list[TimerRequest]) -> None:
        """Set and drop timers as requested; one that is not there is dropped in silence."""
        for request in timer_requests:
            key = (request.worker_id, request.scope_id)
            if request.expiration_time < 0:
                self._timers.pop(key, None)
            else:
                self._timers[key] = request

    def clear_timers(self, worker_ids: set[Any]) -> None:
        """Drop all timers of some processes."""
        self._timers = {key: request for key, request in self._timers.items() if key[0] not in worker_ids}

    def get_expired_timers(self, deadline: float) -> dict[Any, list[TimerRequest]]:
        """Give the timers whose time is up at ``deadline``, by process id."""
        expired: dict[Any, list[TimerRequest]] = {}
        for request in self._timers.values():
            if request.expiration_time <= deadline:
                expired.setdefault(request.worker_id, []).append(request)
        return expired

    def _reap_worker(self, worker_id: Any) -> bool:
        try:
            os.kill(worker_id, signal.SIGKILL)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return True
