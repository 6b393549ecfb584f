"""The worker processes of one node: started together, seen at once when they end, stopped with their children."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple

from rallypoint.agent.guard import Guard
from rallypoint.agent.logs import Output

__all__ = ["WorkerCommand", "WorkerExit", "WorkerProcesses"]


@dataclass(frozen=True)
class WorkerCommand:
    """What to start as one worker.

    Attributes:
        local_rank: the worker's index on this node, unique among the commands of one start.
        argv: the program and its arguments, none of them interpreted.
        env: the complete environment; the guard's marker is added.
        stdout: where its standard output goes.
        stderr: where its standard error goes.
    """

    local_rank: int
    argv: tuple[str, ...]
    env: Mapping[str, str]
    stdout: Output = field(default=Output())
    stderr: Output = field(default=Output())


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


class WorkerProcesses:
    """The running workers of one start.

    Make it with :meth:`start`; call :meth:`stop` in any case, after a success too: it also ends what workers left
    behind and writes out the last lines of their output. A context manager does so with SIGTERM.

    Threads: one thread calls the methods; :meth:`wake` and :meth:`hurry` are safe from any thread and from signal
    handlers.
    """

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
                started have been ended. An ``OSError`` is its ``__cause__``.
        """
        raise NotImplementedError

    @property
    def pids(self) -> dict[int, int]:
        """Give the process id of every worker that was started, by local rank."""
        raise NotImplementedError

    @property
    def running(self) -> dict[int, int]:
        """Give the process ids of the workers whose end has not been seen yet, by local rank.

        After :meth:`stop` these are the workers that did not die even after SIGKILL: stuck in the kernel.
        """
        raise NotImplementedError

    def poll(self) -> list[WorkerExit]:
        """Give the exits that were not given before, without waiting."""
        raise NotImplementedError

    def wait(self, timeout_s: float | None = None) -> list[WorkerExit]:
        """Wait until a worker ends, :meth:`wake` is called, or the time is up.

        Args:
            timeout_s: seconds; ``None`` waits without end, 0 or less does not wait.

        Returns:
            The exits that were not given before, in the order of local ranks; empty if there was none in time, or
            no worker is left (then at once).
        """
        raise NotImplementedError

    def wake(self) -> None:
        """Make a :meth:`wait` in progress, or else the next one, return at once. Safe in a signal handler."""
        raise NotImplementedError

    def hurry(self) -> None:
        """Cut the grace of a :meth:`stop` in progress, or of the next one, to nothing. Safe in a signal handler."""
        raise NotImplementedError

    def stop(self, signal_number: int, grace_s: float) -> list[WorkerExit]:
        """End all workers and all that they started.

        The signal goes to the whole group of every worker, of those already gone too, then SIGKILL after the grace
        to whoever is left there or carries the guard's marker. It always runs to its end: an exception raised by a
        signal handler meanwhile (KeyboardInterrupt) cuts the grace and is raised when everything is done.
        Calling it again does no harm.

        Args:
            signal_number: the first signal.
            grace_s: seconds until SIGKILL; 0 sends it at once.

        Returns:
            The exits that were not given before.
        """
        raise NotImplementedError

    def tail(self, local_rank: int) -> tuple[str, ...]:
        """Give the last lines of a worker's standard error, if it was tee'd or redirected; else nothing."""
        raise NotImplementedError

    def __enter__(self) -> WorkerProcesses:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError
