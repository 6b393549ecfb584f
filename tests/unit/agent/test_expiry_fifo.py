from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.workers import STAY, python_argv

from rallypoint.agent import expiry_fifo
from rallypoint.agent.expiry_fifo import FileTimerClient, FileTimerRequest, FileTimerServer

PATIENCE_S = 30.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "timers")


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(python_argv(STAY)) as process:
        yield process
        process.kill()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry_fifo, "SEND_PAUSE_S", 0.001)


def send(path: str, **fields: Any) -> None:
    line = {"version": 1, "pid": os.getpid(), "scope_id": "s", "expiration_time": time.time(), "signal": 9} | fields
    with open(path, "wb", buffering=0) as pipe:  # noqa: PTH123 - a pipe
        pipe.write(json.dumps(line).encode() + b"\n")


def test_a_request_is_a_line_of_json() -> None:
    request = FileTimerRequest(1, "s", 2.5, 9)

    assert request.to_json() == '{"version": 1, "pid": 1, "scope_id": "s", "expiration_time": 2.5, "signal": 9}'
    assert FileTimerRequest.from_json(request.to_json().encode()) == request
    assert request.worker_pid == 1


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"no json",
        b"[]",
        b'{"pid": 1}',
        b'{"pid": 0, "scope_id": "s", "expiration_time": 1, "signal": 9}',
        b'{"pid": -1, "scope_id": "s", "expiration_time": 1, "signal": 9}',
        b'{"pid": 7, "scope_id": "s", "expiration_time": NaN, "signal": 9}',
        b'{"pid": 7, "scope_id": "s", "expiration_time": 1e999, "signal": 9}',
    ],
)
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="is no request for a timer"):
        FileTimerRequest.from_json(line)


def test_without_a_server_a_timer_cannot_be_had_but_given_back(path: str, caplog: pytest.LogCaptureFixture) -> None:
    client = FileTimerClient(path)

    with pytest.raises(BrokenPipeError, match="FileTimerServer is not available"):
        client.acquire("s", time.time() + 60)
    client.release("s")

    assert "the timer of s could not be given back" in caplog.text


def test_every_request_of_many_clients_is_counted(path: str) -> None:
    server = FileTimerServer(path, "run", max_interval=0.01)
    server.start()
    assert stat.S_ISFIFO(os.stat(path).st_mode)  # noqa: PTH116 - the pipe's own text
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600  # noqa: PTH116

    def ask(number: int) -> None:
        client = FileTimerClient(path)
        for turn in range(5):
            client.acquire(f"{number}/{turn}", time.time() + 600)
            client.release(f"{number}/{turn}")

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.run_once()

    assert (server._request_count, server._timers) == (100, {})
    assert not os.path.exists(path)  # noqa: PTH110


def test_a_late_worker_is_killed_and_what_happens_is_told(path: str, worker: subprocess.Popen[bytes]) -> None:
    told: list[tuple[str, str]] = []
    server = FileTimerServer(
        path, "run", log_event=lambda name, request: told.append((name, request.scope_id if request else ""))
    )
    server.start()

    send(path, pid=worker.pid, scope_id="slow", expiration_time=time.time() + 600)
    send(path, pid=worker.pid, scope_id="late", expiration_time=time.time() + 0.05)
    assert worker.wait(PATIENCE_S) == -signal.SIGKILL
    server.stop()
    server.stop()

    assert told == [
        ("watchdog started", ""),
        ("timer expired", "late"),
        ("kill worker process", "late"),
        ("watchdog stopped", ""),
    ]
    assert server._timers == {}


def test_signal_zero_only_tells(path: str) -> None:
    told = threading.Event()
    server = FileTimerServer(path, "run", log_event=lambda name, _: told.set() if name == "timer expired" else None)
    server.start()

    send(path, signal=0)

    assert told.wait(PATIENCE_S)
    server.stop()


def test_only_who_may_be_signalled_is(path: str, worker: subprocess.Popen[bytes]) -> None:
    asked = threading.Event()
    server = FileTimerServer(path, "run", may_signal=lambda pid: asked.set() or False)  # type: ignore[func-returns-value]
    server.start()

    send(path, pid=worker.pid)

    assert asked.wait(PATIENCE_S)
    server.stop()
    assert worker.poll() is None


def test_garbage_in_the_pipe_is_passed_over(path: str, caplog: pytest.LogCaptureFixture) -> None:
    server = FileTimerServer(path, "run", max_interval=0.01)
    server.start()
    with open(path, "wb", buffering=0) as pipe:  # noqa: PTH123 - a pipe
        pipe.write(b"garbage\n" + b"x" * 10_000)
        pipe.write(b"the rest of an endless line\n")
    send(path, expiration_time=time.time() + 600)
    server.run_once()

    assert list(server._timers) == [(os.getpid(), "s")]
    assert "b'garbage' is no request" in caplog.text


def test_the_timers_of_the_dead_are_dropped(path: str, worker: subprocess.Popen[bytes]) -> None:
    worker.kill()
    worker.wait()
    server = FileTimerServer(path, "run")
    server.start()

    send(path, pid=worker.pid, expiration_time=time.time() + 600)
    server.run_once()

    assert server._timers == {}
    assert server._request_count == 1
    assert server.is_process_running(os.getpid()) is True
    assert server.is_process_running(worker.pid) is False
    assert server._reap_worker(worker.pid, 9) is True
    assert server._reap_worker(os.getpid(), 9999) is False


def test_a_pipe_that_is_left_over_is_replaced(path: str) -> None:
    Path(path).write_text("left over")
    server = FileTimerServer(path, "run")

    server.start()
    assert server.get_last_progress_time() > 0
    server.stop()

    assert not os.path.exists(path)  # noqa: PTH110


def test_a_clock_that_jumps_ends_nobody(
    path: str, worker: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = FileTimerServer(path, "run", max_interval=0.01)
    server.register_timers([FileTimerRequest(worker.pid, "s", time.time() + 600, 9)])
    later = time.time() + 10_000
    monkeypatch.setattr(time, "time", lambda: later)

    server.start()
    server.run_once()

    assert worker.poll() is None
    assert list(server.get_expired_timers(later)) == [worker.pid]


def test_a_look_that_fails_is_not_the_last(path: str, caplog: pytest.LogCaptureFixture) -> None:
    def fail(name: str, _request: FileTimerRequest | None) -> None:
        if name == "timer expired":
            raise ValueError("no")

    server = FileTimerServer(path, "run", log_event=fail)
    server.start()
    send(path, signal=0)
    server.run_once()

    assert "a look for expired timers failed" in caplog.text
