"""The worker processes of one node: started together, seen at once when they end, stopped with their children.

Each worker leads a session and a process group of its own. Its number must not pass to a stranger while the group is
still to be signalled; therefore a worker that ends and leaves children behind stays a zombie until :meth:`stop`,
any other is reaped as soon as its end is seen::

    start ──▶ running ──exit──▶ children left? ──no──▶ reaped, forgotten by the guard
                 │                    └──yes──▶ held (zombie) ──stop──▶ group killed, reaped
                 └──stop: signal, grace, SIGKILL──▶ seen as an exit like any other

Ends are seen through pidfds in one selector; where there are none, by looking every ``LOOK_S`` seconds.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import NamedTuple

from rallypoint.agent import sweep
from rallypoint.agent.guard import Guard
from rallypoint.agent.logs import Output
from rallypoint.agent.spawn import WorkerCommand, WorkerProcess, check_commands, keep_exit_codes, spawn_all
from rallypoint.agent.tee import Tee, read_tail
from rallypoint.agent.uninterrupted import run_to_its_end
from rallypoint.clock import SYSTEM_CLOCK, Deadline

__all__ = ["RETURNCODE_UNKNOWN", "WorkerCommand", "WorkerExit", "WorkerProcesses"]

LOOK_S = 0.05
"""How often to look where the system cannot tell, in seconds: for ends without pidfds, for groups to become empty."""

KILL_WAIT_S = 5.0
"""How long a process may take to die of SIGKILL, in seconds, before it is reported as stuck."""

TEE_DRAIN_S = 5.0
"""How long the last output of workers may take on its way to a slow console, in seconds."""

LEAVE_GRACE_S = 10.0
"""The grace of a stop at the end of a ``with`` block, in seconds."""

RETURNCODE_UNKNOWN = 255
"""Stands for an exit code that somebody else in this process took away: never a success."""

_log = logging.getLogger("rallypoint.agent")


class WorkerExit(NamedTuple):
    """One worker that has ended.

    Attributes:
        local_rank: which worker.
        pid: its process id.
        returncode: its exit code, or the negative number of the signal that killed it.
    """

    local_rank: int
    pid: int
    returncode: int


class _Worker:
    """One started worker, until it is reaped."""

    def __init__(self, process: WorkerProcess) -> None:
        self.process = process
        self.pid = process.pid
        self.pidfd = _open_pidfd(process.pid)


class WorkerProcesses:
    """The running workers of one start.

    Make it with :meth:`start`; call :meth:`stop` in any case, after a success too: it also ends what workers left
    behind and writes out the last lines of their output. A context manager does so with SIGTERM.

    Threads: one thread calls the methods; :meth:`wake` and :meth:`hurry` are safe from any thread and from signal
    handlers.
    """

    def __init__(self, guard: Guard, console: tuple[int, int]) -> None:
        self._guard = guard
        self._marker_id = os.urandom(8).hex()
        self._console = console
        self._tee: Tee | None = None
        self._stderrs: dict[int, Output] = {}
        self._pids: dict[int, int] = {}
        self._running: dict[int, _Worker] = {}
        self._held: list[_Worker] = []
        self._kin: dict[int, float] = {}
        self._exits: list[WorkerExit] = []
        self._values: dict[int, bytes] = {}
        self._is_hurried = False
        self._is_stopped = False
        self._selector = selectors.DefaultSelector()
        self._wake_lock = threading.RLock()  # re-entrant: a signal handler may break into a wake()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ)

    @classmethod
    def start(
        cls, commands: Sequence[WorkerCommand], *, guard: Guard, console: tuple[int, int] = (1, 2)
    ) -> WorkerProcesses:
        """Start all workers, none waiting for another.

        Args:
            commands: one for each worker.
            guard: who ends the workers when this process is gone.
            console: the file descriptors for standard output and error that stand for the console.

        Raises:
            WorkerStartError: if a worker cannot be started, naming its command and the reason; those already
                started have been killed. An ``OSError`` is its ``__cause__``.
            ValueError: if two commands have the same local rank, or one names no program.
        """
        check_commands(commands)
        keep_exit_codes()
        processes = cls(guard, console)
        try:
            processes._launch_all(commands)
        except BaseException:
            processes.stop(signal.SIGKILL, 0)
            raise
        return processes

    @property
    def pids(self) -> dict[int, int]:
        """Give the process id of every worker that was started, by local rank."""
        return dict(self._pids)

    @property
    def running(self) -> dict[int, int]:
        """Give the process ids of the workers whose end has not been seen yet, by local rank.

        After :meth:`stop` these are the workers that did not die even after SIGKILL: stuck in the kernel.
        """
        return {rank: worker.pid for rank, worker in sorted(self._running.items())}

    def poll(self) -> list[WorkerExit]:
        """Give the exits that were not given before, without waiting."""
        if not self._is_stopped:
            self._collect()
        return self._take_exits()

    def wait(self, timeout_s: float | None = None) -> list[WorkerExit]:
        """Wait until a worker ends, :meth:`wake` is called, or the time is up.

        Args:
            timeout_s: seconds; ``None`` waits without end, 0 or less does not wait.

        Returns:
            The exits that were not given before, in the order of local ranks; empty if there was none in time, or
            no worker is left (then at once).
        """
        if not self._is_stopped:
            self._wait(Deadline.never() if timeout_s is None else Deadline(timeout_s))
        return self._take_exits()

    def wake(self) -> None:
        """Make a :meth:`wait` in progress, or else the next one, return at once. Safe in a signal handler."""
        with self._wake_lock, contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            if not self._is_stopped:
                os.write(self._wake_write, b"\0")

    def hurry(self) -> None:
        """Cut the grace of a :meth:`stop` in progress, or of the next one, to nothing. Safe in a signal handler."""
        self._is_hurried = True
        self.wake()

    def stop(
        self, signal_number: int, grace_s: float, tell: Callable[[WorkerExit], None] | None = None
    ) -> list[WorkerExit]:
        """End all workers and all that they started.

        The signal goes to the whole group of every worker, of those already gone too, and to whoever else carries
        this start's marker; after the grace SIGKILL goes to those who are left. It always runs to its end: an
        exception raised by a signal handler meanwhile (KeyboardInterrupt) cuts the grace and is raised when
        everything is done; :meth:`poll` then gives the exits. Calling it again does no harm.

        Args:
            signal_number: the first signal.
            grace_s: seconds until SIGKILL; 0 sends it at once.
            tell: called with each exit as soon as it is seen, while others are still waited for; must not raise.

        Returns:
            The exits that were not given before, to ``tell`` either.
        """
        if not self._is_stopped:
            # Signal handlers run in the main thread only: in a thread of its own nothing can break into this.
            interrupt = run_to_its_end(lambda: self._stop(signal_number, grace_s, tell), self.hurry)
            if interrupt is not None:
                raise interrupt
        return self._take_exits()

    def tail(self, local_rank: int) -> tuple[str, ...]:
        """Give the last lines of a worker's standard error, if it was tee'd or redirected; else nothing."""
        carried = None if self._tee is None else self._tee.tail(local_rank)
        if carried is not None:
            return carried
        path = self._stderrs[local_rank].path
        return () if path is None else read_tail(path)

    def value(self, local_rank: int) -> bytes:
        """Give what the function of a worker that ended well returned, packed; empty for a command."""
        return self._values.get(local_rank, b"")

    def __enter__(self) -> WorkerProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(signal.SIGTERM, LEAVE_GRACE_S)

    # --- starting ----------------------------------------------------------------------------------------

    def _launch_all(self, commands: Sequence[WorkerCommand]) -> None:
        if any(output.is_piped for command in commands for output in (command.stdout, command.stderr)):
            self._tee = Tee(self._console)
        self._stderrs = {command.local_rank: command.stderr for command in commands}
        try:
            spawn_all(commands, f"{self._guard.marker}:{self._marker_id}", self._console, self._tee, self._add)
        finally:
            for worker in self._running.values():
                if worker.pidfd is not None:
                    self._selector.register(worker.pidfd, selectors.EVENT_READ)
        if self._tee is not None:
            self._tee.start()

    def _add(self, local_rank: int, process: WorkerProcess) -> None:
        """Take a worker that has just started into care; called by the thread that started it."""
        self._pids[local_rank] = process.pid
        self._running[local_rank] = _Worker(process)
        self._guard.watch(process.pid)

    # --- seeing ends -------------------------------------------------------------------------------------

    def _take_exits(self) -> list[WorkerExit]:
        exits, self._exits = self._exits, []
        return sorted(exits)

    def _wait(self, deadline: Deadline) -> None:
        self._collect()
        can_be_told = all(worker.pidfd is not None for worker in self._running.values())
        while self._running and not self._exits and not deadline.has_passed():
            left_s = deadline.remaining_s() if can_be_told else min(deadline.remaining_s(), LOOK_S)
            ready = self._selector.select(None if left_s == float("inf") else left_s)
            self._collect()
            if any(key.fd == self._wake_read for key, _ in ready):
                with contextlib.suppress(BlockingIOError):
                    while os.read(self._wake_read, 4096):
                        pass
                return

    def _collect(self) -> None:
        """Take note of the workers that have ended; reap those who leave nobody behind."""
        ended = {}
        for rank, worker in self._running.items():
            returncode = _peek(worker.process)
            if returncode is not None:
                ended[rank] = returncode
        if not ended:
            return
        pids = {self._running[rank].pid for rank in ended}
        in_use = {number for member in sweep.members(None, pids) for number in (member.group, member.session)}
        for rank, returncode in ended.items():
            worker = self._running.pop(rank)
            self._exits.append(WorkerExit(rank, worker.pid, returncode))
            if returncode == 0 and not isinstance(worker.process, subprocess.Popen):
                self._values[rank] = worker.process.value()
            if worker.pidfd is not None:
                self._selector.unregister(worker.pidfd)
                os.close(worker.pidfd)
            if worker.pid in in_use:
                self._held.append(worker)
            else:
                self._release(worker)

    def _release(self, worker: _Worker) -> None:
        worker.process.wait()
        self._guard.forget(worker.pid)
        if not isinstance(worker.process, subprocess.Popen):
            worker.process.close()

    # --- stopping ----------------------------------------------------------------------------------------

    def _groups(self) -> list[int]:
        return [worker.pid for worker in (*self._running.values(), *self._held)]

    def _is_anybody_left(self) -> bool:
        self._collect()
        return bool(self._running) or bool(sweep.members(self._marker_id, self._groups(), self._kin))

    def _signal(self, number: int, *, is_first: bool) -> None:
        if is_first:  # before parents end, and with them the way to those who left group, session and environment
            sweep.members(self._marker_id, self._groups(), self._kin)
        for group in self._groups():
            sweep.kill_group(group, number)
        sweep.signal_members(self._marker_id, self._groups(), number, self._kin, is_first=is_first)

    def _stop(self, signal_number: int, grace_s: float, tell: Callable[[WorkerExit], None] | None) -> None:
        deadline = Deadline(grace_s)
        if grace_s > 0 and not self._is_hurried:
            self._signal(signal_number, is_first=True)
        while not self._is_hurried and not deadline.has_passed() and self._is_anybody_left():
            if tell is not None:
                for exited in self._take_exits():
                    tell(exited)
            self._pause(deadline.remaining_s() if self._running else LOOK_S)
        deadline = Deadline(KILL_WAIT_S)
        while self._is_anybody_left() and not deadline.has_passed():
            self._signal(signal.SIGKILL, is_first=False)
            self._pause(LOOK_S)
        for worker in self._held:
            self._release(worker)
        self._held.clear()
        if self._tee is not None:
            self._tee.close(TEE_DRAIN_S)
        for rank, worker in self._running.items():
            _report_stuck(rank, worker)
        self._selector.close()
        with self._wake_lock:
            self._is_stopped = True
            os.close(self._wake_read)
            os.close(self._wake_write)

    def _pause(self, duration_s: float) -> None:
        """Wait for the next end of a worker or, where only their children are left, for a moment."""
        if self._running:
            seen, self._exits = self._exits, []
            self._wait(Deadline(duration_s))
            self._exits = seen + self._exits
        else:
            SYSTEM_CLOCK.sleep(duration_s)


def _report_stuck(rank: int, worker: _Worker) -> None:
    why = sweep.state_of(worker.pid) or "the system does not say why"
    _log.error("worker %d (pid %d) has not died %g s after SIGKILL: %s", rank, worker.pid, KILL_WAIT_S, why)
    if worker.pidfd is not None:
        os.close(worker.pidfd)


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, an old kernel, or out of descriptors: then by looking
        return None


def _peek(process: WorkerProcess) -> int | None:
    """Give the exit code of a child that has ended, and leave it a zombie where the system can do that."""
    if not hasattr(os, "waitid"):
        return process.poll()
    try:
        status = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        _log.warning("the exit code of pid %d was taken by other code in this process", process.pid)
        return RETURNCODE_UNKNOWN
    if status is None:
        return None
    return status.si_status if status.si_code == os.CLD_EXITED else -status.si_status
