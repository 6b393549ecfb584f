"""Start the workers of one node, none waiting for another, and say why one did not start."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from rallypoint.agent import sweep
from rallypoint.agent.logs import Output
from rallypoint.agent.tee import Tee
from rallypoint.errors import AgentError, WorkerStartError
from rallypoint.server.descriptors import is_standard_stream

if TYPE_CHECKING:
    from rallypoint.agent.calls import FunctionCall
    from rallypoint.agent.functions import FunctionProcess

__all__ = ["WorkerCommand", "WorkerProcess", "check_commands", "keep_exit_codes", "spawn_all"]


WorkerProcess: TypeAlias = "subprocess.Popen[bytes] | FunctionProcess"
"""What a started worker is to whoever watches it."""


@dataclass(frozen=True)
class WorkerCommand:
    """What to start as one worker.

    Attributes:
        local_rank: the worker's index on this node, unique among the commands of one start.
        argv: the program and its arguments, none of them interpreted; for a function, what reports call it.
        env: the complete environment; the guard's marker, and behind it an id of this start, are added.
        stdout: where its standard output goes.
        stderr: where its standard error goes.
        call: the function that is called in the worker, ``None`` for a command.
    """

    local_rank: int
    argv: tuple[str, ...]
    env: Mapping[str, str]
    stdout: Output = field(default=Output())
    stderr: Output = field(default=Output())
    call: FunctionCall | None = None


def check_commands(commands: Sequence[WorkerCommand]) -> None:
    """Refuse commands that cannot be started together.

    Raises:
        ValueError: if two have the same local rank, or one names no program.
    """
    for command in commands:
        if not command.argv:
            raise ValueError(f"the command of local rank {command.local_rank} names no program")
    local_ranks = [command.local_rank for command in commands]
    if len(set(local_ranks)) < len(local_ranks):
        raise ValueError(f"the local ranks of one start must differ, not be {local_ranks}")


def keep_exit_codes() -> None:
    """Make sure that the system keeps the exit codes of children: some parents leave SIGCHLD ignored.

    Raises:
        AgentError: if it does not, and this is not the main thread, which alone may change it.
    """
    if signal.getsignal(signal.SIGCHLD) is not signal.SIG_IGN:
        return
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    except ValueError as error:
        raise AgentError(
            "SIGCHLD is ignored in this process, so the exit codes of workers would be lost;"
            " set it to signal.SIG_DFL in the main thread first"
        ) from error


def spawn_all(
    commands: Sequence[WorkerCommand],
    marker: str,
    console: tuple[int, int],
    tee: Tee | None,
    on_started: Callable[[int, WorkerProcess], None],
) -> None:
    """Start every worker, in a session and process group of its own.

    Args:
        commands: what to start.
        marker: the value of ``RALLYPOINT_WORKER_OF`` for all of them.
        console: the descriptors that stand for the console's standard output and error.
        tee: who carries piped outputs; ``None`` if there are none.
        on_started: called with local rank and process of each, in the thread that started it. A forked function is
            started in the caller's thread, before any other thread is.

    Raises:
        WorkerStartError: if one could not be started. The others are running and were passed to ``on_started``.
    """
    failed: dict[int, BaseException] = {}

    def launch(command: WorkerCommand, stdout: int, stderr: int) -> None:
        try:
            on_started(command.local_rank, _spawn(command, marker, stdout, stderr))
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failed[command.local_rank] = error

    with contextlib.ExitStack() as opened:
        threads = []
        for command in commands:
            streams = [_open(command, tee, console, opened, is_stderr=is_stderr) for is_stderr in (False, True)]
            if command.call is not None and command.call.is_forked:
                launch(command, *streams)
            else:
                threads.append(threading.Thread(target=launch, args=(command, *streams)))
        try:
            for thread in threads:
                thread.start()
        finally:
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
    if failed:
        raise failed[min(failed)]


def _spawn(command: WorkerCommand, marker: str, stdout: int, stderr: int) -> WorkerProcess:
    env = {**command.env, sweep.MARKER_ENV: marker}
    if command.call is not None:
        return _start_call(command, command.call, env, stdout, stderr)
    try:
        return subprocess.Popen(  # noqa: S603 - running the user's program is what this is for
            command.argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise _start_error(command, error) from error


def _start_call(
    command: WorkerCommand, call: FunctionCall, env: Mapping[str, str], stdout: int, stderr: int
) -> WorkerProcess:
    from rallypoint.agent.functions import start_call

    try:
        return start_call(call, env, stdout, stderr)
    except Exception as error:  # pickling runs the user's code, which may raise anything
        raise _start_error(command, error) from error


def _open(
    command: WorkerCommand,
    tee: Tee | None,
    console: tuple[int, int],
    opened: contextlib.ExitStack,
    *,
    is_stderr: bool,
) -> int:
    """Give the descriptor for one stream of a worker; those opened for it alone are closed by ``opened``."""
    output = command.stderr if is_stderr else command.stdout
    try:
        if output.is_piped:
            assert tee is not None
            descriptor = tee.add(command.local_rank, output, is_stderr=is_stderr)
        elif output.path is not None:
            descriptor = os.open(output.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        elif output.console and is_standard_stream(console[is_stderr]):
            return console[is_stderr]
        else:
            return subprocess.DEVNULL
    except OSError as error:
        raise _start_error(command, error, str(output.path)) from error
    opened.callback(os.close, descriptor)
    return descriptor


def _start_error(command: WorkerCommand, error: Exception, path: str | None = None) -> WorkerStartError:
    subject = command.argv[0] if path is None else path
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number is not None else str(error)
    if command.call is not None:
        return WorkerStartError(
            f"worker {command.local_rank} could not be started: {command.call.name}: {reason}",
            local_rank=command.local_rank,
            argv=command.argv,
            errno=number,
        )
    if number == errno.ENOENT and path is None and os.sep in subject and Path(subject).exists():
        reason = "the interpreter that its first line names does not exist"
    return WorkerStartError(
        f"worker {command.local_rank} could not be started: {subject!r}: {reason}"
        f" (its command: {shlex.join(command.argv)})",
        local_rank=command.local_rank,
        argv=command.argv,
        errno=number,
    )
