from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.workers import STAY, python_argv

from rallypoint.agent.expiry_fifo import FileTimerClient, FileTimerRequest
from rallypoint.agent.watchdog import ENABLE_ENV, TIMER_FILE_ENV, Watchdog
from rallypoint.errors import AgentError


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(python_argv(STAY), start_new_session=True) as process:
        yield process
        process.kill()


def watchdog(notes: list[tuple[str, str]], *pids: int, **environ: str) -> Watchdog:
    return Watchdog(environ, "run", lambda: list(pids), lambda what, text: notes.append((what, text)))


def test_nobody_asked_is_nothing_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with watchdog([], **{ENABLE_ENV: "0"}) as subject:
        assert (subject.path, subject.env, subject.looked_at, subject.reason(1)) == (None, {}, None, "")
        assert list(tmp_path.iterdir()) == []


def test_the_pipe_is_where_the_user_says_or_a_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with watchdog([], **{ENABLE_ENV: "1"}) as subject:
        assert Path(subject.env[TIMER_FILE_ENV]).name.startswith("watchdog_timer_")
        assert Path(subject.env[TIMER_FILE_ENV]).is_fifo()
    with watchdog([], **{ENABLE_ENV: "1", TIMER_FILE_ENV: str(tmp_path / "mine")}) as subject:
        assert subject.path == str(tmp_path / "mine")
        assert subject.looked_at is not None
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_that_cannot_be_made_ends_the_agent() -> None:
    with (
        pytest.raises(AgentError, match="/nowhere/pipe for timers cannot be made"),
        watchdog([], **{ENABLE_ENV: "1", TIMER_FILE_ENV: "/nowhere/pipe"}),
    ):
        raise AssertionError("entered")


def test_a_late_worker_is_killed_with_a_reason(tmp_path: Path, worker: subprocess.Popen[bytes]) -> None:
    notes: list[tuple[str, str]] = []
    with watchdog(notes, worker.pid, **{ENABLE_ENV: "1", TIMER_FILE_ENV: str(tmp_path / "p")}) as subject:
        request = FileTimerRequest(worker.pid, "step", time.time(), signal.SIGKILL)
        FileTimerClient(str(tmp_path / "p"))._send(request)

        assert worker.wait(30) == -signal.SIGKILL
        assert subject.reason(worker.pid) == "its timer expired in step"
    assert ("kill worker process", "its timer expired in step") in notes


def test_a_stranger_is_left_alone(tmp_path: Path, worker: subprocess.Popen[bytes]) -> None:
    subject = watchdog([], 1, **{ENABLE_ENV: "1", TIMER_FILE_ENV: str(tmp_path / "p")})
    with subject:
        FileTimerClient(str(tmp_path / "p"))._send(FileTimerRequest(worker.pid, "s", time.time(), 9))
        FileTimerClient(str(tmp_path / "p"))._send(FileTimerRequest(os.getpid(), "s", time.time(), 9))
        assert subject._server is not None
        subject._server.run_once()

    assert worker.poll() is None
    assert subject._worker_of(2**22 + 5) == 0
