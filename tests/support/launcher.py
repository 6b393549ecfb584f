"""``rallypoint run`` and ``rallypoint serve`` as real processes, each ended by its id."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

__all__ = ["PATIENCE_S", "WAIT", "Run", "has_ended", "serving", "until", "write_script"]

PATIENCE_S = 60.0
RALLYPOINT = (sys.executable, "-m", "rallypoint")
_HIDDEN = ("PET_", "RALLYPOINT_", "TORCH", "OMP_NUM_THREADS", "LOGLEVEL", "CUDA_VISIBLE_DEVICES")
_KEPT = ("RALLYPOINT_DIALECT", "RALLYPOINT_PURE")  # which of its ways the whole test run is to take

WAIT = "import time; time.sleep(600)"
"""A line of a worker's script: do nothing until somebody ends it."""

_REPORTING = """
import json, os, sys
def report(**more):
    line = json.dumps(dict(os.environ) | {"pid": str(os.getpid()), "arguments": json.dumps(sys.argv[1:])} | more)
    os.write(1, (line + "\\n").encode())
"""


def write_script(folder: Path, *lines: str) -> str:
    """Write ``work.py``, in which ``report(**more)`` writes the environment as one line; give its path."""
    (folder / "reporting.py").write_text(_REPORTING, encoding="utf-8")
    path = folder / "work.py"
    path.write_text("\n".join(["import os, sys", "from reporting import report", *lines]), encoding="utf-8")
    return str(path)


def until(what: str, is_true: Callable[[], bool]) -> None:
    """Wait for a condition of the outside world."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s in vain: {what}"
        time.sleep(0.02)


def has_ended(pid: int) -> bool:
    """Tell whether a process is gone; one that nobody has reaped yet counts as gone."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


class Run:
    """One ``rallypoint run``, as a context: killed at the end of the block if it still runs.

    Args:
        folder: where its output goes; also its working directory.
        arguments: what follows ``run`` on the command line.
        environ: added to the environment, from which this test run's own launcher variables are taken out.
        name: the name of the output's files, unique within ``folder``.
        before: stands in front of the command.
    """

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        environ: dict[str, str] | None = None,
        name: str = "run",
        before: tuple[str, ...] = (),
    ) -> None:
        self._paths = folder / f"{name}.out", folder / f"{name}.err"
        kept = {key: value for key, value in os.environ.items() if key in _KEPT or not key.startswith(_HIDDEN)}
        with contextlib.ExitStack() as stack:
            # A test runner in the background may ignore SIGINT, and an ignored signal is inherited.
            stack.callback(signal.signal, signal.SIGINT, signal.signal(signal.SIGINT, signal.default_int_handler))
            out, err = (stack.enter_context(path.open("wb")) for path in self._paths)
            self.process = subprocess.Popen(
                [*before, *RALLYPOINT, "run", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env=kept | {"TMPDIR": str(folder)} | (environ or {}),
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)

    def wait(self) -> int:
        """Wait for its end and give its exit code."""
        return self.process.wait(PATIENCE_S)

    @property
    def stdout(self) -> str:
        """What it and its workers have written so far."""
        return self._paths[0].read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        """As ``stdout``, for standard error."""
        return self._paths[1].read_text(encoding="utf-8")

    def reports(self) -> list[dict[str, str]]:
        """Give what its workers wrote as lines of JSON; one that is not all there yet counts for nothing."""
        return [json.loads(line) for line in self.stdout.split("\n")[:-1] if line.startswith("{")]

    def until_reports(self, count: int) -> list[dict[str, str]]:
        """Wait until its workers have reported ``count`` times."""

        def is_done() -> bool:
            assert self.process.poll() is None or len(self.reports()) >= count, self.stderr
            return len(self.reports()) >= count

        until(f"{count} reports of workers", is_done)
        return self.reports()


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Run ``rallypoint serve`` and give its endpoint."""
    process = subprocess.Popen(
        [*RALLYPOINT, "serve", "--bind", "127.0.0.1", "--port", "0", "--ready-json"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        yield f"{ready['host']}:{ready['port']}"
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
        assert process.stdout is not None
        process.stdout.close()
