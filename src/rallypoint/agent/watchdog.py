"""The agent's timer server: kills a worker that does not get through a piece of work in time, and says so.

It runs if ``TORCHELASTIC_ENABLE_FILE_TIMER`` is 1. Workers find its pipe in ``TORCHELASTIC_TIMER_FILE``; that variable,
if set for the agent, says where the pipe is to be. A killed worker is a failed worker: the run is restarted or ends,
and the report names the piece of work.

Source: the variables as observed in torch 2.13.0; there the agent is killed as well.
"""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rallypoint.errors import AgentError

if TYPE_CHECKING:
    from rallypoint.agent.expiry_fifo import FileTimerRequest, FileTimerServer

__all__ = ["ENABLE_ENV", "TIMER_FILE_ENV", "Watchdog"]

ENABLE_ENV = "TORCHELASTIC_ENABLE_FILE_TIMER"
TIMER_FILE_ENV = "TORCHELASTIC_TIMER_FILE"

LOOK_S = 0.1
"""The longest time between two looks, in seconds."""


class Watchdog:
    """Watches the workers of one agent, if the environment asks for it; a context manager.

    Args:
        environ: the agent's environment.
        run_id: the run, for the log.
        workers: gives the present workers' process ids, each also the number of a session.
        note: told what happens: what, and to whom.

    Attributes:
        path: the pipe, ``None`` if nobody asked.
    """

    def __init__(
        self,
        environ: Mapping[str, str],
        run_id: str,
        workers: Callable[[], list[int]],
        note: Callable[[str, str], None],
    ) -> None:
        self.path: str | None = None
        self._workers = workers
        self._note = note
        self._reasons: dict[int, str] = {}
        self._server: FileTimerServer | None = None
        if environ.get(ENABLE_ENV) == "1":
            from rallypoint.agent.expiry_fifo import FileTimerServer

            self.path = environ.get(TIMER_FILE_ENV) or str(
                Path(tempfile.gettempdir()) / f"watchdog_timer_{uuid.uuid4()}"
            )
            self._server = FileTimerServer(
                self.path, run_id, LOOK_S, log_event=self._take_event, may_signal=lambda pid: self._worker_of(pid) > 0
            )

    @property
    def env(self) -> dict[str, str]:
        """What workers are told."""
        return {} if self.path is None else {TIMER_FILE_ENV: self.path}

    @property
    def looked_at(self) -> int | None:
        """When it last looked, in whole seconds since 1970; ``None`` if nobody asked for it."""
        return None if self._server is None else self._server.get_last_progress_time()

    def reason(self, pid: int) -> str:
        """Say why a worker was killed; empty if it was not killed here."""
        return self._reasons.get(pid, "")

    def _worker_of(self, pid: int) -> int:
        """Give the worker that a process belongs to, 0 if it is none of ours."""
        try:
            session = os.getsid(pid)
        except OSError:
            return 0
        return session if session in self._workers() else 0

    def _take_event(self, name: str, request: FileTimerRequest | None) -> None:
        text = ""
        if request is not None:
            text = f"its timer expired in {request.scope_id}"
            if name == "kill worker process":
                self._reasons[self._worker_of(request.worker_pid)] = text
        self._note(name, text)

    def __enter__(self) -> Watchdog:
        if self._server is not None:
            try:
                self._server.start()
            except OSError as error:
                raise AgentError(f"the pipe {self.path} for timers cannot be made: {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.stop()
