"""Members of torch's groups as processes that begin at once: forks of one that has imported torch already.

Importing torch takes a processor for about two seconds; a test of four members would do little else. ``TorchForks.run``
runs a script of tests for each list of arguments, as ``python SCRIPT ARGUMENTS`` would, but takes nothing down at a
member's end. What torch reads from the environment while it is imported is what the first process found.

Run as a script this is the process that forks. A caller's connection is the fork's own: the first line that it gives is
its id, the last how it ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import pytest

__all__ = ["GLOO_ENVIRON", "End", "TorchForks", "torch_forks"]

GLOO_ENVIRON = {"GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
IMPORT_S = 100.0


class End(NamedTuple):
    """How a member ended.

    Attributes:
        code: its exit code; -1 if it ended without a word.
        output: what it wrote.
        errors: what it wrote to stderr.
    """

    code: int
    output: str
    errors: str


class TorchForks:
    """The process that forks, as a context: it ends with the block, or when this process does.

    Args:
        folder: where its socket lies.
    """

    def __init__(self, folder: str) -> None:
        self._address = f"{folder}/forks"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._address)
            listener.listen()
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                env={**os.environ, **GLOO_ENVIRON},
            )

    def __enter__(self) -> TorchForks:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def run(self, script: Path, arguments: Sequence[Sequence[object]], patience_s: float, **environ: str) -> list[End]:
        """Run one member for each list of arguments, all at once, and wait for their ends; none of them is left."""
        with contextlib.ExitStack() as running:
            members = [
                running.enter_context(_Member(self._address, [script, *each], environ, patience_s))
                for each in arguments
            ]
            return [member.end() for member in members]


class _Member:
    """One fork, as a context: killed at the end of the block, if it still runs."""

    def __init__(self, address: str, command: Sequence[object], environ: Mapping[str, str], patience_s: float) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(IMPORT_S + patience_s)
        self._sock.connect(address)
        self._lines = self._sock.makefile("rw", encoding="utf-8")
        _write(self._lines, {"argv": [*map(str, command)], "environ": {**os.environ, **GLOO_ENVIRON, **environ}})
        self._pid = int(self._lines.readline())
        self._has_ended = False

    def end(self) -> End:
        line = self._lines.readline()
        self._has_ended = True
        return End(**json.loads(line)) if line else End(-1, "", "it ended without a word")

    def __enter__(self) -> _Member:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._has_ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
        self._lines.close()
        self._sock.close()


@pytest.fixture(scope="session")
def torch_forks() -> Iterator[TorchForks]:
    """What runs members of torch's groups, for all tests of a run."""
    with tempfile.TemporaryDirectory(prefix="rallypoint-torch-") as folder, TorchForks(folder) as forks:
        yield forks


def _write(lines: IO[str], what: object) -> None:
    lines.write(json.dumps(what) + "\n")
    lines.flush()


# --- the process that forks ------------------------------------------------------------------------------


def _serve(listener: socket.socket) -> None:
    """Import torch, then give each connection a fork of its own, until the parent has ended."""
    warnings.simplefilter("ignore")
    import rallypoint.integrations.torch  # noqa: F401 - for the forks

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # a connection says how its fork ended
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        sock, _ = listener.accept()
        with sock:
            if os.fork() == 0:
                listener.close()
                _run(sock)
                os._exit(0)


def _run(sock: socket.socket) -> None:
    """Do what a new process would do that runs the script."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    lines = sock.makefile("rw", encoding="utf-8")
    _write(lines, os.getpid())
    task = json.loads(lines.readline())
    os.environ.clear()
    os.environ.update(task["environ"])
    sys.argv = task["argv"]
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        os.dup2(output.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        code = _play(sys.argv[0])
        sys.stdout.flush()
        sys.stderr.flush()
        _write(lines, {"code": code, "output": _text(output), "errors": _text(errors)})


def _play(script: str) -> int:
    """Run a script; give its exit code."""
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter does
        traceback.print_exc()
        return 1
    return 0


def _text(file: IO[Any]) -> str:
    file.seek(0)
    return str(file.read().decode("utf-8", "replace"))


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
