"""The processes of one node by themselves, without a rendezvous: torch's ``start_processes``.

The same guard, streams and error files as under an agent: whatever ends this process ends them too.

Source: names, signatures, defaults and results as observed in torch 2.13.0.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from rallypoint.agent.calls import FunctionCall, read_values
from rallypoint.agent.failure import ERROR_FILE_ENV, ProcessFailure
from rallypoint.agent.functions import check_call
from rallypoint.agent.guard import Guard
from rallypoint.agent.logs import WorkerLogs
from rallypoint.agent.logspecs import DefaultLogsSpecs, LogsDest, LogsSpecs, outputs_of
from rallypoint.agent.process import WorkerCommand, WorkerExit, WorkerProcesses
from rallypoint.agent.signals import SIGNALS_ENV, parse_signals, taken_signals
from rallypoint.clock import Deadline
from rallypoint.errors import SignalException, WorkerStartError
from rallypoint.events import emit

__all__ = [
    "MultiprocessContext",
    "PContext",
    "RunProcsResult",
    "SubprocessContext",
    "start_processes",
    "validate_full_rank",
]

CLOSE_S = 30.0
"""The seconds between asking processes to end and SIGKILL."""


@dataclass
class RunProcsResult:
    """What came of the processes, by local rank.

    Attributes:
        return_values: what each function returned, ``None`` for each command; empty after a failure.
        failures: the processes that failed. A command that was ended because another failed is one of them.
        stdouts: the file of each standard output, empty where none is kept.
        stderrs: as ``stdouts``, for standard error.
    """

    return_values: dict[int, Any] = field(default_factory=dict)
    failures: dict[int, ProcessFailure] = field(default_factory=dict)
    stdouts: dict[int, str] = field(default_factory=dict)
    stderrs: dict[int, str] = field(default_factory=dict)

    def is_failed(self) -> bool:
        """Tell whether any process failed."""
        return len(self.failures) > 0


class PContext:
    """Some processes that run the same program or function; made by :func:`start_processes`.

    Args:
        name: what prefixes and reports call them.
        entrypoint: the program, or the function.
        args: the arguments of each local rank.
        envs: what each one has in its environment beside this process' own.
        logs_specs: where the output goes.
        log_line_prefixes: what stands before each line of a tee'd stream; ``None``: ``[<name><local rank>]:``.
        start_method: how the process of a function is made.
        duplicate_stdout_filters: see :func:`start_processes`.
        duplicate_stderr_filters: see :func:`start_processes`.

    Raises:
        RuntimeError: if the local ranks of ``args`` are not 0, 1, ..., or those of ``envs`` differ.

    Threads: one thread calls the methods, any thread.
    """

    def __init__(  # noqa: PLR0917 - torch's signature
        self,
        name: str,
        entrypoint: Callable[..., Any] | str,
        args: Mapping[int, tuple[Any, ...]],
        envs: Mapping[int, Mapping[str, str]],
        logs_specs: LogsSpecs,
        log_line_prefixes: Mapping[int, str] | None = None,
        start_method: str = "spawn",
        duplicate_stdout_filters: Sequence[str] | None = None,
        duplicate_stderr_filters: Sequence[str] | None = None,
    ) -> None:
        validate_full_rank(args, len(args), "args")
        validate_full_rank(envs, len(args), "envs")
        self.name = name
        self.entrypoint = entrypoint
        self.args = dict(args)
        self.envs = {rank: dict(envs[rank]) for rank in sorted(envs)}
        self._start_method = start_method
        self._filters = duplicate_stdout_filters or (), duplicate_stderr_filters or ()
        self._logs_specs = logs_specs
        self._prefixes = {rank: (log_line_prefixes or {}).get(rank, f"[{name}{rank}]:") for rank in self.envs}
        self._dest = LogsDest()
        self._logs: dict[int, WorkerLogs] = {}
        self._exits: dict[int, WorkerExit] = {}
        self._processes: WorkerProcesses | None = None
        self._result: RunProcsResult | None = None
        self._resources = ExitStack()
        self._is_starting = True
        self._signal: int | None = None

    def start(self) -> None:
        """Start all of them. In the main thread the signals that end a run raise ``SignalException`` from now on.

        Raises:
            OSError: if one cannot be started; those that ran have been ended.
            Exception: what ``pickle`` raises for a function that cannot travel.
        """
        calls = [self._call(rank) for rank in self.envs]
        for call in calls[:1]:
            if call is not None:
                check_call(call)
        self._dest = self._logs_specs.reify(self.envs)
        self._logs = outputs_of(self._dest, self._prefixes, *self._filters)
        self._resources.enter_context(taken_signals(_signals(), self._take_signal))
        guard = self._resources.enter_context(Guard.start())
        if isinstance(self._logs_specs, DefaultLogsSpecs) and self._logs_specs.private is not None:
            guard.tidy(self._logs_specs.private)
        commands = [self._command(rank, call) for rank, call in zip(self.envs, calls, strict=True)]
        try:
            self._processes = WorkerProcesses.start(commands, guard=guard)
        except WorkerStartError as error:
            cause = error.__cause__
            raise cause if isinstance(cause, OSError) else error from None
        finally:
            self._is_starting = False
        if self._signal is not None:
            raise _signal_error(self._signal)

    def pids(self) -> dict[int, int]:
        """Give the process ids, by local rank."""
        return {} if self._processes is None else dict(sorted(self._processes.pids.items()))

    def wait(self, timeout: float = -1, period: float = 1) -> RunProcsResult | None:  # noqa: ARG002 - torch's signature
        """Wait until all have ended, or one has failed; the others are ended then.

        Args:
            timeout: seconds; 0 looks once, less than 0 waits without end.
            period: not used: an end is seen at once.

        Returns:
            What came of them, ``None`` if nothing has yet. Once there is a result it stays the same.
        """
        deadline = Deadline.never() if timeout < 0 else Deadline(timeout)
        while self._result is None and self._processes is not None:
            self._take(self._processes.wait(deadline.remaining_s()))
            if len(self._exits) == len(self.envs) or self._failed_ranks():
                self._result = self._finish(self._processes)
            elif deadline.has_passed():
                break
        return self._result

    def close(self, death_sig: int | None = None, timeout: float = CLOSE_S) -> None:
        """End those that still run, and all that they started. Calling it twice does no harm.

        Args:
            death_sig: the first signal; ``None``: SIGTERM.
            timeout: seconds until SIGKILL.
        """
        with self._resources:
            if self._processes is not None:
                self._take(self._processes.stop(signal.SIGTERM if death_sig is None else death_sig, timeout))
            if isinstance(self._logs_specs, DefaultLogsSpecs):
                self._logs_specs.close(clean=not self._failed_ranks())

    def _take_signal(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal: raise, or while processes are being started, which must not be broken into, make a note."""
        if not self._is_starting:
            raise _signal_error(number)
        self._signal = number

    def _call(self, rank: int) -> FunctionCall | None:
        if isinstance(self.entrypoint, str):
            return None
        return FunctionCall(self.entrypoint, tuple(self.args[rank]), self._start_method)

    def _command(self, rank: int, call: FunctionCall | None) -> WorkerCommand:
        logs = self._logs[rank]
        env = {**os.environ, **self.envs[rank]}
        env.setdefault(ERROR_FILE_ENV, str(logs.error_file))
        argv = (call.name,) if call is not None else (str(self.entrypoint), *(str(part) for part in self.args[rank]))
        return WorkerCommand(rank, argv, env, logs.stdout, logs.stderr, call)

    def _take(self, exits: Sequence[WorkerExit]) -> None:
        self._exits.update({exited.local_rank: exited for exited in exits})

    def _failed_ranks(self) -> list[int]:
        return [rank for rank, exited in sorted(self._exits.items()) if exited.returncode != 0]

    def _finish(self, processes: WorkerProcesses) -> RunProcsResult:
        failed = self._failed_ranks()
        self._take(processes.stop(signal.SIGTERM, CLOSE_S))
        if failed and isinstance(self.entrypoint, str):
            failed = self._failed_ranks()
        failures = {}
        for rank in failed:
            _, pid, returncode = self._exits[rank]
            failures[rank] = ProcessFailure(rank, pid, returncode, str(self._logs[rank].error_file))
            failures[rank].stderr_tail = processes.tail(rank)
        values = {} if failed else read_values({rank: processes.value(rank) for rank in self.envs}, self.envs)
        return RunProcsResult(values, failures, dict(self._dest.stdouts), dict(self._dest.stderrs))


class SubprocessContext(PContext):
    """Processes that run a program."""


class MultiprocessContext(PContext):
    """Processes that call a function."""


def validate_full_rank(ranks: Mapping[int, object], nprocs: int, what: str) -> None:
    """Look whether something is there for each local rank from 0 on.

    Raises:
        RuntimeError: if not, or for others too.
    """
    if set(ranks) != set(range(nprocs)):
        raise RuntimeError(
            f"{what}, local rank mapping mismatch, expected: {set(range(nprocs)) or '{}'}, actual: {set(ranks) or '{}'}"
        )


def _signals() -> tuple[int, ...]:
    """Give the signals that end a run; where handlers cannot be had, say so."""
    if threading.current_thread() is not threading.main_thread():
        emit("agent.note", "signals are not taken, because the processes are started outside the main thread")
        return ()
    found: list[int] = []
    for name in os.environ.get(SIGNALS_ENV, "SIGTERM,SIGINT,SIGHUP,SIGQUIT").split(","):
        try:
            found += parse_signals(name)
        except ValueError as error:  # noqa: PERF203 - each name is judged by itself
            emit("agent.trouble", f"{SIGNALS_ENV}: {error}")
    return tuple(found)


def _signal_error(number: int) -> SignalException:
    return SignalException(f"Process {os.getpid()} got signal: {number}", number)


def start_processes(  # noqa: PLR0917 - torch's signature
    name: str,
    entrypoint: Callable[..., Any] | str,
    args: Mapping[int, tuple[Any, ...]],
    envs: Mapping[int, Mapping[str, str]],
    logs_specs: LogsSpecs,
    log_line_prefixes: Mapping[int, str] | None = None,
    start_method: str = "spawn",
    numa_options: None = None,
    duplicate_stdout_filters: Sequence[str] | None = None,
    duplicate_stderr_filters: Sequence[str] | None = None,
) -> PContext:
    """Start processes that run the same program or function, one for each local rank.

    Args:
        name: what prefixes and reports call them.
        entrypoint: the program, or the function.
        args: the arguments of each local rank, from 0 on.
        envs: what each one has in its environment beside this process' own.
        logs_specs: where the output goes.
        log_line_prefixes: what stands before each line of a tee'd stream; ``None``: ``[<name><local rank>]:``.
        start_method: how the process of a function is made: ``spawn``, ``forkserver`` or ``fork``.
        numa_options: must be ``None``; there is no NUMA binding.
        duplicate_stdout_filters: a tee'd line of standard output that contains any of these texts is collected in
            ``filtered_stdout.log`` too.
        duplicate_stderr_filters: as ``duplicate_stdout_filters``, for standard error.

    Returns:
        The running processes; call its ``close`` in any case.

    Raises:
        RuntimeError: if ``args`` and ``envs`` do not cover the same local ranks.
        ValueError: if the start method is unknown, or something is asked for that is not there.
        OSError: if a process cannot be started.
    """
    if numa_options is not None:
        raise ValueError("numa_options cannot be set: rallypoint does not have it")
    kind = SubprocessContext if isinstance(entrypoint, str) else MultiprocessContext
    context = kind(
        name,
        entrypoint,
        args,
        envs,
        logs_specs,
        log_line_prefixes,
        start_method,
        duplicate_stdout_filters,
        duplicate_stderr_filters,
    )
    try:
        context.start()
    except BaseException:
        context.close(signal.SIGKILL, 0)
        raise
    return context
