"""Small real processes as workers, and a pipe as their console: no test needs to sleep to know what they did."""

from __future__ import annotations

import os
import sys
from types import TracebackType

from rallypoint.agent.logs import Output
from rallypoint.agent.process import WorkerCommand

__all__ = ["STAY", "PipeConsole", "python_argv", "python_worker"]

STAY = "import signal\nwhile True: signal.pause()\n"
"""Ends a program that is to stay until a signal ends it."""


def python_argv(code: str) -> tuple[str, ...]:
    """Give the command of an interpreter that starts quickly."""
    return (sys.executable, "-I", "-S", "-c", code)


def python_worker(
    code: str, local_rank: int = 0, stdout: Output | None = None, stderr: Output | None = None
) -> WorkerCommand:
    """Give the command of a worker that runs some code; its output goes to the console unless told."""
    return WorkerCommand(
        local_rank, python_argv(code), dict(os.environ), stdout or Output(), stderr or Output(console=False)
    )


class PipeConsole:
    """A console that the test reads. Its end comes when nobody holds it any more: no worker, and no child of one."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        self._reader = os.fdopen(self._read_end, "rb")

    @property
    def descriptors(self) -> tuple[int, int]:
        """Give what stands for the console's standard output and error."""
        return self._write_end, self._write_end

    def line(self) -> str:
        """Wait for the next line; empty at the end."""
        return self._reader.readline().decode().rstrip("\n")

    def leave(self) -> None:
        """Let go of the writing end, so that only others hold it."""
        if self._write_end >= 0:
            os.close(self._write_end)
            self._write_end = -1

    def rest(self) -> str:
        """Wait until nobody holds the console any more; give what was written until then."""
        self.leave()
        return self._reader.read().decode()

    def __enter__(self) -> PipeConsole:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()
        self._reader.close()
