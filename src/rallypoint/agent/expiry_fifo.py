"""Timers whose requests come through a named pipe: no queue has to be handed down, a path is enough.

One line of JSON a request, short enough that writers never mix; a time below 0 gives the timer back::

    {"version": 1, "pid": 812, "scope_id": "train.py#40", "expiration_time": 1795227434.5, "signal": 9}

Whoever can write to the pipe can name any process, so a server may be told which ones it may signal; the pipe itself
is for its owner only.

Source: the line, names and behaviour as observed in torch 2.13.0, so that torch's workers can be watched. Unlike
there, time that has begun to run is measured on the monotonic clock, a pipe that somebody holds open blocks nobody,
only the worker is signalled, and giving a timer back never fails.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import select
import signal as signals
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

from rallypoint.agent.expiry import TimerClient, TimerRequest
from rallypoint.events import emit

__all__ = ["FileTimerClient", "FileTimerRequest", "FileTimerServer", "log_debug_info_for_expired_timers"]

VERSION = 1
SCOPE_SIZE_MAX = 512
"""The characters of a scope that count; a whole line then fits into one write that no other can break into."""

LINE_SIZE_MAX = 4096
READ_SIZE = 65536
SEND_TRIES, SEND_PAUSE_S = 10, 0.1
"""How often, and how far apart, a client tries to reach its server."""

_log = logging.getLogger("rallypoint.agent")


@dataclass(init=False)
class FileTimerRequest(TimerRequest):
    """A worker asks for a timer, or gives it back.

    Attributes:
        signal: what ends the worker; 0 or less: nothing does.
    """

    signal: int = 0

    def __init__(self, worker_pid: int, scope_id: str, expiration_time: float, signal: int = 0) -> None:
        super().__init__(worker_pid, scope_id, expiration_time)
        self.version = VERSION
        self.signal = signal

    @property
    def worker_pid(self) -> int:
        """The worker's process id."""
        return int(self.worker_id)

    def to_json(self) -> str:
        """Give the line."""
        fields = asdict(self)
        return json.dumps({"version": self.version, "pid": fields.pop("worker_id")} | fields)

    @classmethod
    def from_json(cls, line: bytes) -> FileTimerRequest:
        """Read a line.

        Raises:
            ValueError: if it is none.
        """
        try:
            fields = json.loads(line)
            pid, scope, until = int(fields["pid"]), str(fields["scope_id"]), float(fields["expiration_time"])
            if pid < 1 or not math.isfinite(until):  # 0 and below mean whole groups of processes
                raise ValueError(f"pid {pid}, time {until}")  # noqa: TRY301 - caught below like what Python finds
            return cls(pid, scope, until, int(fields["signal"]))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ValueError(f"{line[:100]!r} is no request for a timer") from error


class FileTimerClient(TimerClient):
    """A worker's way to a server on its host.

    Args:
        file_path: the server's pipe.
        signal: what ends this process when its time is up.
    """

    def __init__(self, file_path: str, signal: int = signals.SIGKILL) -> None:
        self._file_path = file_path
        self._signal = int(signal)

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        """Ask for a timer over this process; see ``TimerClient``.

        Raises:
            BrokenPipeError: if no server reads.
        """
        self._send(FileTimerRequest(os.getpid(), scope_id[:SCOPE_SIZE_MAX], expiration_time, self._signal))

    def release(self, scope_id: str) -> None:
        """Give a timer back; without a server there is none to give back."""
        try:
            self._send(FileTimerRequest(os.getpid(), scope_id[:SCOPE_SIZE_MAX], -1, 0))
        except BrokenPipeError as error:
            _log.warning("the timer of %s could not be given back: %s", scope_id, error)

    def _send(self, request: FileTimerRequest) -> None:
        line = request.to_json().encode() + b"\n"
        reason: OSError | None = None
        for attempt in range(SEND_TRIES):
            if attempt:
                time.sleep(SEND_PAUSE_S)
            try:
                descriptor = os.open(self._file_path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:  # nobody reads, or nothing is there
                reason = error
                continue
            try:
                os.write(descriptor, line)
            except OSError as error:  # full, or the server has just gone
                reason = error
            else:
                return
            finally:
                os.close(descriptor)
        raise BrokenPipeError(
            "Could not send the FileTimerRequest because FileTimerServer is not available."
            f" ({self._file_path}: {reason})"
        )


class FileTimerServer:
    """Watches processes of this host through a named pipe that it makes; a thread of its own does the watching.

    Args:
        file_path: the pipe; one that is left over there is replaced.
        run_id: the run, for the log.
        max_interval: the longest time between two looks for expired timers, in seconds.
        daemon: whether the thread may be left behind at the end of the process.
        log_event: told what happens, with the request that it is about: ``watchdog started``, ``timer expired``,
            ``kill worker process``, ``watchdog stopped``.
        may_signal: tells which processes may be signalled; ``None``: all of this user.
    """

    def __init__(  # noqa: PLR0917 - torch's signature
        self,
        file_path: str,
        run_id: str,
        max_interval: float = 10,
        daemon: bool = True,
        log_event: Callable[[str, FileTimerRequest | None], None] | None = None,
        may_signal: Callable[[int], bool] | None = None,
    ) -> None:
        self._file_path = file_path
        self._run_id = run_id
        self._max_interval = max_interval
        self._daemon = daemon
        self._log_event = log_event if log_event is not None else lambda _name, _request: None
        self._may_signal = may_signal if may_signal is not None else lambda _pid: True
        self._timers: dict[tuple[int, str], FileTimerRequest] = {}
        self._due: dict[tuple[int, str], float] = {}
        self._request_count = 0
        self._last_progress_time = int(time.time())
        self._rest = b""
        self._is_ending = threading.Event()
        self._thread: threading.Thread | None = None
        self._pipe = self._wake_read = self._wake_write = -1

    def start(self) -> None:
        """Make the pipe and begin to watch.

        Raises:
            OSError: if the pipe cannot be made.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file_path)  # noqa: PTH108 - torch's users give text
        os.mkfifo(self._file_path, 0o600)
        # Open for writing too: the pipe does not end with its last client, and opening waits for nobody.
        self._pipe = os.open(self._file_path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake_read, self._wake_write = os.pipe()
        self._is_ending.clear()
        self._thread = threading.Thread(target=self._watch, name="rallypoint-timers", daemon=self._daemon)
        self._thread.start()
        self._log_event("watchdog started", None)

    def stop(self) -> None:
        """End the watch and remove the pipe. Calling it twice, or before the start, does no harm."""
        if self._end():
            self._log_event("watchdog stopped", None)

    def run_once(self) -> None:
        """Take all requests that were sent until now, look once for expired timers, then stop."""
        self._end()

    def _end(self) -> bool:
        thread, self._thread = self._thread, None
        if thread is None:
            return False
        self._is_ending.set()
        os.write(self._wake_write, b"\0")
        thread.join()
        for descriptor in (self._pipe, self._wake_read, self._wake_write):
            os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._file_path)  # noqa: PTH108 - torch's users give text
        return True

    @staticmethod
    def is_process_running(pid: int) -> bool:
        """Tell whether there is such a process."""
        try:
            os.kill(pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            return True
        return True

    def get_last_progress_time(self) -> int:
        """Give when the watch last looked, in whole seconds since 1970."""
        return self._last_progress_time

    def register_timers(self, timer_requests: list[FileTimerRequest]) -> None:
        """Set and drop timers as requested; one that is not there is dropped in silence."""
        now, wall = time.monotonic(), time.time()
        for request in timer_requests:
            key = (request.worker_pid, request.scope_id)
            self._request_count += 1
            if request.expiration_time < 0:
                self._timers.pop(key, None)
                self._due.pop(key, None)
            else:
                self._timers[key] = request
                self._due[key] = now + request.expiration_time - wall

    def clear_timers(self, worker_pids: set[int]) -> None:
        """Drop all timers of some processes."""
        for key in [key for key in self._timers if key[0] in worker_pids]:
            del self._timers[key]
            self._due.pop(key, None)

    def get_expired_timers(self, deadline: float) -> dict[int, list[FileTimerRequest]]:
        """Give the timers whose time is up at ``deadline``, in seconds since 1970, by process id."""
        return self._by_pid([request for request in self._timers.values() if request.expiration_time <= deadline])

    @staticmethod
    def _by_pid(requests: list[FileTimerRequest]) -> dict[int, list[FileTimerRequest]]:
        found: dict[int, list[FileTimerRequest]] = {}
        for request in requests:
            found.setdefault(request.worker_pid, []).append(request)
        return found

    # --- the thread ------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        poller = select.poll()
        poller.register(self._pipe, select.POLLIN)
        poller.register(self._wake_read, select.POLLIN)
        while True:
            poller.poll(self._pause_s() * 1000)
            is_ending = self._is_ending.is_set()
            try:
                self._run_watchdog()
            except Exception:  # noqa: BLE001 - log_event and may_signal are the caller's; the watch goes on
                _log.exception("a look for expired timers failed")
            if is_ending:
                return

    def _pause_s(self) -> float:
        due = min(self._due.values(), default=float("inf"))
        return max(0.0, min(self._max_interval, due - time.monotonic()))

    def _run_watchdog(self) -> None:
        self.register_timers(self._take_requests())
        now = time.monotonic()
        self._last_progress_time = int(time.time())
        self.clear_timers({pid for pid, _ in self._timers if not self.is_process_running(pid)})
        expired = self._by_pid([self._timers[key] for key, due in list(self._due.items()) if due <= now])
        for pid, requests in expired.items():
            self._expire(pid, requests)
        self.clear_timers(set(expired))

    def _take_requests(self) -> list[FileTimerRequest]:
        lines: list[bytes] = []
        while True:
            try:
                data = os.read(self._pipe, READ_SIZE)
            except BlockingIOError:
                break
            *whole, self._rest = (self._rest + data).split(b"\n")
            lines += whole
            if len(self._rest) > LINE_SIZE_MAX:
                self._rest = b""
        requests = []
        for line in lines:
            try:
                requests.append(FileTimerRequest.from_json(line))
            except ValueError as error:  # noqa: PERF203 - each line is judged by itself
                _log.warning("%s: %s", self._file_path, error)
        return requests

    def _expire(self, pid: int, requests: list[FileTimerRequest]) -> None:
        first = min(requests, key=lambda request: request.expiration_time)
        scopes = sorted({request.scope_id for request in requests})
        self._log_event("timer expired", first)
        if first.signal <= 0:
            return
        if not self._may_signal(pid):
            _log.warning("a timer of process %d expired (%s), which is none of ours", pid, ", ".join(scopes))
            return
        log_debug_info_for_expired_timers(self._run_id, {pid: scopes})
        self._log_event("kill worker process", first)
        self._reap_worker(pid, first.signal)

    def _reap_worker(self, worker_pid: int, signal: int) -> bool:
        try:
            os.kill(worker_pid, signal)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError, ValueError):
            _log.exception("process %d, whose timer expired, could not be ended", worker_pid)
            return False
        return True


def log_debug_info_for_expired_timers(run_id: str, expired_timers: dict[int, list[str]]) -> None:
    """Tell whose time is up.

    Args:
        run_id: the run.
        expired_timers: the scopes of each process.
    """
    for pid, scopes in expired_timers.items():
        emit(
            "agent.timer_expired", f"the timer of process {pid} expired in {', '.join(scopes)}", run_id=run_id, pid=pid
        )
