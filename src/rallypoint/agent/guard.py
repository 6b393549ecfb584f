"""The guard: a small process beside the agent that ends the workers when the agent is gone, however it went.

Workers live in sessions of their own, so nothing of the system ends them with their agent. An agent that is killed
by SIGKILL cannot do so either; hence a second process, started once, whose program is ``sweep.py``. It has its own
session too (a Ctrl-C at the terminal is the agent's business), no packages to import, and nothing to do until the
agent's end.
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import TracebackType

from rallypoint.agent import sweep
from rallypoint.errors import AgentError
from rallypoint.server.descriptors import standard_error

__all__ = ["Guard"]

CLOSE_S = 5.0
"""How long a guard that was told to end may take, in seconds, before it is killed."""

_log = logging.getLogger("rallypoint.agent")


class Guard:
    """A process of its own that watches the agent and the groups of its workers.

    When the agent vanishes, by SIGKILL too, the guard kills every watched group and every process of this user
    whose environment carries :attr:`marker_id`, then ends. When the agent closes it, it ends and touches nobody.

    Make it with :meth:`start`, once an agent; it is a context manager.

    Attributes:
        marker_id: the agent's random id.
        marker: the value of ``RALLYPOINT_WORKER_OF`` in the workers' environment: the id, after those of outer
            agents if this one runs within a worker, so that either guard finds the inner workers.
    """

    def __init__(self) -> None:
        self.marker_id = os.urandom(8).hex()
        outer = os.environ.get(sweep.MARKER_ENV)
        self.marker = f"{outer}:{self.marker_id}" if outer else self.marker_id
        self._owner_pid = os.getpid()
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def start(cls) -> Guard:
        """Start the guard of this process.

        Raises:
            AgentError: if its process cannot be started.
        """
        guard = cls()
        guard._process = guard._spawn()
        return guard

    @property
    def pid(self) -> int | None:
        """Give the guard's process id, ``None`` once it is closed."""
        return None if self._process is None else self._process.pid

    def watch(self, pid: int) -> None:
        """Take the group led by ``pid`` into the guard's care; a guard that died is replaced first.

        Raises:
            AgentError: if the guard is closed, or died and cannot be replaced.
        """
        with self._lock:
            self._groups.add(pid)
            self._watch(b"+%d\n" % pid)

    def forget(self, pid: int) -> None:
        """Release the group led by ``pid``, because nobody is left in it and its number may be used again."""
        with self._lock:
            self._groups.discard(pid)
            if self._process is not None:
                with contextlib.suppress(OSError):  # a guard that died watches nobody; the next watch replaces it
                    _write(self._process, b"-%d\n" % pid)

    def tidy(self, folder: Path) -> None:
        """Have a folder removed when the agent vanishes, unless something is in it by then that is no folder."""
        line = b"d" + os.fsencode(folder)
        with self._lock:
            if self._process is not None and b"\n" not in line:
                with contextlib.suppress(OSError):  # a guard that died leaves the folder
                    _write(self._process, line + b"\n")

    def close(self) -> None:
        """End the guard without touching anybody. Calling it twice, or in a forked child, does no harm."""
        if os.getpid() != self._owner_pid:
            return
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            _end(process)

    def _spawn(self) -> subprocess.Popen[bytes]:
        # Without `site` the start takes half the time; where there is no /proc the guard needs psutil, so `site`.
        flags = ["-I", "-S"] if sys.platform == "linux" else ["-I"]
        program = str(Path(sweep.__file__).resolve())
        try:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and file
                [sys.executable, *flags, program, str(self._owner_pid), self.marker_id],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=standard_error(),
                start_new_session=True,
                cwd="/",
                bufsize=0,
            )
        except OSError as error:
            raise AgentError(f"the guard of the workers could not be started: {error}") from error

    def _watch(self, command: bytes) -> None:
        if self._process is None:
            raise AgentError(f"the guard of process {self._owner_pid} is closed and cannot watch workers any more")
        try:
            _write(self._process, command)
        except OSError:
            code = self._process.poll()
            _log.warning("the guard of the workers (pid %d) died (%s); starting another", self._process.pid, code)
            _end(self._process)
            self._process = self._spawn()
            _write(self._process, b"".join(b"+%d\n" % pid for pid in self._groups))

    def __enter__(self) -> Guard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _write(process: subprocess.Popen[bytes], text: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(text)


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it is gone already
        _write(process, b"q\n")
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(CLOSE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
