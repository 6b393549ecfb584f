"""How a worker's failure reaches the user: error files, their reader, and the report of all failures of a run.

A worker whose main function is decorated with :func:`record` (torch's decorator does the same) leaves the exception
that ended it in the file named by ``TORCHELASTIC_ERROR_FILE``::

    {"message": {"message": "ValueError: boom",
                 "extraInfo": {"py_callstack": "Traceback ...", "timestamp": "1795227434"}}}

The agent reads it into a :class:`ProcessFailure` and raises all of them as one :class:`ChildFailedError`. Reading
never fails: what is absent, cut short or foreign is said in the failure's message.

Source: the file's form, the names and the sentences for signals and for missing files as observed in torch 2.13.0.
"""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import json
import logging
import os
import signal
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from rallypoint.errors import AgentError

__all__ = [
    "ERROR_FILE_ENV",
    "ChildFailedError",
    "ErrorHandler",
    "ProcessFailure",
    "exit_status",
    "get_error_handler",
    "record",
]

ERROR_FILE_ENV = "TORCHELASTIC_ERROR_FILE"
"""The variable that tells a worker where to leave its error; torch's name, so that torch's workers obey it too."""

ERROR_FILE_SIZE_MAX = 4 * 1024 * 1024
"""A larger error file, in bytes, is not read: nothing that a person would read is that long."""

NOT_AVAILABLE = "<N/A>"
NO_TRACEBACK = "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"
"""What ``ProcessFailure.message`` says where nothing is known, as torch's does; our report has words of its own."""

_HERE = Path(__file__).parent

_log = logging.getLogger("rallypoint.agent")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def exit_status(returncode: int) -> int:
    """Give the exit code that a launcher owes for a worker's: the worker's own, 128 + n for signal n.

    Args:
        returncode: an exit code (0 to 255), or the negative number of a signal.
    """
    return 128 - returncode if returncode < 0 else returncode


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return NOT_AVAILABLE


# --- reading -----------------------------------------------------------------------------------------------


@dataclass
class ProcessFailure:
    """One worker that failed.

    Attributes:
        local_rank: the worker's index on its node.
        pid: its process id.
        exitcode: its exit code, or the negative number of the signal that killed it.
        error_file: where it left its error; ``"<N/A>"`` if there is no such file.
        stderr_tail: the last lines of its standard error, where they were kept.
        error_file_data: the file's content, ``{"message": "<NONE>"}`` if there is none to be had.
        message: one sentence: the exception, the signal, or why neither is known.
        timestamp: when it failed, in whole seconds since 1970.
        failed_at: the same as exactly as it is known, to put the failures of one node in order.
    """

    local_rank: int
    pid: int
    exitcode: int
    error_file: str
    stderr_tail: tuple[str, ...] = ()
    error_file_data: dict[str, Any] = field(init=False)
    message: str = field(init=False)
    timestamp: int = field(init=False)
    failed_at: float = field(init=False)

    def __post_init__(self) -> None:
        self.error_file_data = {"message": "<NONE>"}
        self.failed_at = time.time()
        self.message = self._own_message()
        try:
            data = _read_error_file(self.error_file)
        except FileNotFoundError:
            self.error_file = NOT_AVAILABLE
        except (OSError, ValueError) as error:
            self.message = f"{self.message} (the error file {self.error_file} cannot be used: {error})"
        else:
            self.error_file_data = data
            self.message = _message_of(data)
            self.failed_at = _time_of(data, self.failed_at)
        self.timestamp = int(self.failed_at)

    def _own_message(self) -> str:
        if self.exitcode < 0:
            return f"Signal {-self.exitcode} ({self.signal_name()}) received by PID {self.pid}"
        return NO_TRACEBACK

    @property
    def traceback(self) -> str | None:
        """Give the recorded traceback, or ``None`` if there is none."""
        message = self.error_file_data.get("message")
        extra = message.get("extraInfo") if isinstance(message, dict) else None
        stack = extra.get("py_callstack") if isinstance(extra, dict) else None
        return stack if isinstance(stack, str) else None

    def signal_name(self) -> str:
        """Give the name of the signal that killed the worker, ``"<N/A>"`` if none did."""
        return _signal_name(-self.exitcode) if self.exitcode < 0 else NOT_AVAILABLE

    def timestamp_isoformat(self) -> str:
        """Give the time of the failure for people, local time."""
        return time.strftime("%Y-%m-%d_%H:%M:%S", time.localtime(self.timestamp))


def _read_error_file(path: str) -> dict[str, Any]:
    """Read an error file, nested or flat.

    Raises:
        FileNotFoundError: if there is none.
        OSError: if it cannot be read.
        ValueError: if it is too large, cut short, or holds something else.
    """
    if path in ("", NOT_AVAILABLE):
        raise FileNotFoundError(path)
    with Path(path).open("rb") as file:
        raw = file.read(ERROR_FILE_SIZE_MAX + 1)
    if len(raw) > ERROR_FILE_SIZE_MAX:
        raise ValueError(f"it is larger than {ERROR_FILE_SIZE_MAX} bytes")
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its {len(raw)} bytes are no JSON: {error}") from error
    if not isinstance(data, dict) or "message" not in data:
        raise ValueError('it holds no "message"')
    return data


def _message_of(data: Mapping[str, Any]) -> str:
    message = data["message"]
    if isinstance(message, dict):
        message = message.get("message", message)
    return message if isinstance(message, str) else json.dumps(message)


def _time_of(data: Mapping[str, Any], otherwise: float) -> float:
    """Give when an error was recorded: our own nanoseconds, else seconds, as a number or as text."""
    message = data["message"]
    extra = message.get("extraInfo") if isinstance(message, dict) else data
    if not isinstance(extra, dict):
        return otherwise
    name, unit_s = ("timestamp_ns", 1e-9) if "timestamp_ns" in extra else ("timestamp", 1.0)
    try:
        return int(extra[name]) * unit_s
    except (KeyError, TypeError, ValueError, OverflowError):
        return otherwise


class ChildFailedError(AgentError):
    """Workers failed.

    Args:
        name: what was run, for the report.
        failures: at least one failure, by global rank.

    Attributes:
        name: what was run.
        failures: the failures of this node, by global rank.
    """

    def __init__(self, name: str, failures: Mapping[int, ProcessFailure]) -> None:
        if not failures:
            raise ValueError(f"a ChildFailedError of {name!r} needs at least one failure, not none")
        self.name = name
        self.failures = dict(failures)
        super().__init__(self.format_msg())

    def get_first_failure(self) -> tuple[int, ProcessFailure]:
        """Give the global rank that failed first on this node, and its failure.

        Among failures of the same moment those that recorded an error come first, then lower ranks.
        """
        return min(
            self.failures.items(),
            key=lambda item: (item[1].failed_at, item[1].error_file == NOT_AVAILABLE, item[0]),
        )

    def format_msg(self) -> str:
        """Give the report for people: the first failure with all that is known, then the others."""
        first_rank, first = self.get_first_failure()
        count = len(self.failures)
        lines = [
            f"{self.name} failed: {count} worker{'s' if count > 1 else ''} on {os.uname().nodename}",
            "First failure:",
            *_describe(first_rank, first),
        ]
        others = [(rank, failure) for rank, failure in sorted(self.failures.items()) if rank != first_rank]
        if others:
            lines.append("Other failures:")
        for rank, failure in others:
            lines += _describe(rank, failure)
        if first.message.startswith(NO_TRACEBACK):
            lines.append(
                "To see the traceback of a Python worker here, decorate its main function with"
                " rallypoint.elastic.multiprocessing.errors.record."
            )
        return "\n".join(lines)


def _describe(rank: int, failure: ProcessFailure) -> list[str]:
    ended = (
        f"killed by signal {-failure.exitcode} ({failure.signal_name()})"
        if failure.exitcode < 0
        else f"exit code {failure.exitcode}"
    )
    who = f"rank {rank} (local rank {failure.local_rank}, pid {failure.pid})"
    lines = [
        f"  {who}: {ended} at {failure.timestamp_isoformat()}",
        f"    error file: {failure.error_file}",
        f"    message: {failure.message.replace(NO_TRACEBACK, 'no exception was recorded')}",
    ]
    if failure.traceback is not None:
        lines += [f"    {line}" for line in failure.traceback.splitlines()]
    elif failure.stderr_tail:
        lines.append("    last lines of its stderr:")
        lines += [f"      {line}" for line in failure.stderr_tail]
    return lines


# --- writing -----------------------------------------------------------------------------------------------


class ErrorHandler:
    """Leaves the error of this process where its agent looks for it. Does nothing where no agent asked for it."""

    def initialize(self) -> None:
        """Have crashes of the interpreter print every thread's stack; a stream that cannot take it is survived."""
        try:
            faulthandler.enable(all_threads=True)
        except (OSError, ValueError, RuntimeError, AttributeError) as error:
            _log.warning("stacks will not be printed at a crash: %s", error)

    def error_file_path(self) -> Path | None:
        """Give where this process is to leave its error, or ``None`` if nobody asked."""
        text = os.environ.get(ERROR_FILE_ENV)
        return Path(text) if text else None

    def record_exception(self, error: BaseException) -> None:
        """Write an exception, its traceback and the time. A failing disk is logged, never raised."""
        path = self.error_file_path()
        if path is None:
            return
        now_ns = time.time_ns()
        stack = error.__traceback__
        while (
            stack is not None and stack.tb_next is not None and Path(stack.tb_frame.f_code.co_filename).parent == _HERE
        ):
            stack = stack.tb_next  # our own frames around the user's function tell the user nothing
        extra = {
            "py_callstack": "".join(traceback.format_exception(type(error), error, stack)),
            "timestamp": str(now_ns // 1_000_000_000),
            "timestamp_ns": str(now_ns),
        }
        _write_error_file(path, {"message": {"message": f"{type(error).__name__}: {error}", "extraInfo": extra}})

    def dump_error_file(self, rootcause_error_file: str, error_code: int = 0) -> None:
        """Pass a child's error on to whoever started this process.

        Args:
            rootcause_error_file: the child's error file; one that cannot be used is replaced by a note that says so.
            error_code: the child's exit code, added to the record as ``errorCode`` if it is not 0.
        """
        path = self.error_file_path()
        if path is None:
            return
        try:
            data = _read_error_file(rootcause_error_file)
        except (OSError, ValueError) as error:
            data = {"message": {"message": f"the child's error file {rootcause_error_file} cannot be used: {error}"}}
        if error_code and isinstance(data["message"], dict):
            data["message"]["errorCode"] = error_code
        _write_error_file(path, data)


def _write_error_file(path: Path, data: Mapping[str, Any]) -> None:
    """Put a whole error file in place, or none: a reader never sees half of it."""
    scratch = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_text(json.dumps(data), encoding="utf-8")
        scratch.replace(path)
    except OSError as error:
        _log.warning("the error file %s could not be written: %s", path, error)
        with contextlib.suppress(OSError):  # the scratch file was never made, or its folder is gone
            scratch.unlink()


def get_error_handler() -> ErrorHandler:
    """Give the handler that :func:`record` uses."""
    return ErrorHandler()


def record(fn: Callable[_P, _R], error_handler: ErrorHandler | None = None) -> Callable[_P, _R | None]:
    """Decorate a worker's main function so that the exception that ends it reaches the agent.

    An exception is written and raised again; ``SystemExit`` with status 0 becomes a normal return, with any other
    status it passes unwritten; a :class:`ChildFailedError` passes its first child's error file on.

    Args:
        fn: the main function.
        error_handler: who writes; the default writes to ``TORCHELASTIC_ERROR_FILE``, or nothing if that is unset.
    """

    @functools.wraps(fn)
    def recorded(*args: _P.args, **kwargs: _P.kwargs) -> _R | None:
        handler = error_handler if error_handler is not None else get_error_handler()
        handler.initialize()
        try:
            return fn(*args, **kwargs)
        except SystemExit as ended:
            if ended.code in (0, None):
                return None
            raise
        except ChildFailedError as error:
            failure = error.get_first_failure()[1]
            if failure.error_file != NOT_AVAILABLE:
                handler.dump_error_file(failure.error_file, failure.exitcode)
            raise
        except Exception as error:
            handler.record_exception(error)
            raise

    return recorded
