from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rallypoint.agent import functions
from rallypoint.agent.calls import FunctionCall
from rallypoint.agent.functions import FunctionProcess, check_call, read_value, start_call
from rallypoint.errors import AgentError

METHODS = ("spawn", "forkserver", "fork")


@contextmanager
def started(call: FunctionCall, **environ: str) -> Iterator[FunctionProcess]:
    env = {**os.environ, **environ}
    process = start_call(call, env, subprocess.DEVNULL, subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.close()


def outcome(function: Callable[..., Any], *args: Any, method: str = "spawn", **environ: str) -> tuple[int, Any]:
    """Run a call to its end; give its exit code and what it returned."""
    with started(FunctionCall(function, args, method), **environ) as process:
        returncode = process.wait()
        return returncode, read_value(process.value()) if returncode == 0 else None


def place() -> dict[str, Any]:
    return {
        "marked": os.environ.get("MARKED"),
        "leads": os.getsid(0) == os.getpgid(0) == os.getpid(),
        "is_main": threading.current_thread() is threading.main_thread(),
        "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        "stdin": os.fstat(0).st_rdev == Path(os.devnull).stat().st_rdev,
    }


def fail(text: str) -> None:
    raise ValueError(text)


def many(count: int) -> list[int]:
    return list(range(count))


def unsendable() -> Callable[[], int]:
    return lambda: 1


class Unreadable:
    def __reduce__(self) -> tuple[Any, ...]:
        return fail, ("cannot be made here",)


@pytest.mark.parametrize("method", METHODS)
def test_a_function_has_the_environment_session_and_streams_of_a_worker(method: str) -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        returncode, seen = outcome(place, method=method, MARKED="yes")
    finally:
        signal.signal(signal.SIGTERM, before)

    assert returncode == 0
    assert seen == {"marked": "yes", "leads": True, "is_main": True, "term": True, "stdin": True}


@pytest.mark.parametrize("method", METHODS)
def test_values_of_any_size_come_back(method: str) -> None:
    assert outcome(many, 300_000, method=method) == (0, list(range(300_000)))
    assert outcome(len, b"x" * 3_000_000, method=method) == (0, 3_000_000)


@pytest.mark.parametrize("method", METHODS)
def test_an_exception_is_exit_code_one_and_an_error_file(method: str, tmp_path: Path) -> None:
    path = tmp_path / "error.json"

    returncode, _ = outcome(fail, "boom", method=method, TORCHELASTIC_ERROR_FILE=str(path))

    message = json.loads(path.read_text())["message"]
    assert returncode == 1
    assert message["message"] == "ValueError: boom"
    assert "in fail" in message["extraInfo"]["py_callstack"]
    assert "functions.py" not in message["extraInfo"]["py_callstack"].replace("test_functions.py", "")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("leave", "status", "returncode"), [(sys.exit, 3, 3), (sys.exit, "words", 1), (os._exit, 4, 4)]
)
def test_leaving_is_an_exit_code_without_an_error_file(
    method: str, leave: Callable[[Any], None], status: Any, returncode: int, tmp_path: Path
) -> None:
    path = tmp_path / "error.json"

    assert outcome(leave, status, method=method, TORCHELASTIC_ERROR_FILE=str(path)) == (returncode, None)
    assert not path.exists()


@pytest.mark.parametrize("leave", [sys.exit, os._exit])
def test_leaving_well_without_returning_is_a_success_with_nothing(leave: Callable[[Any], None]) -> None:
    assert outcome(leave, 0) == (0, None)


def test_a_signal_is_told_as_by_subprocess() -> None:
    assert outcome(signal.raise_signal, signal.SIGKILL) == (-signal.SIGKILL, None)
    assert outcome(signal.raise_signal, signal.SIGKILL, method="fork") == (-signal.SIGKILL, None)


def test_a_value_that_cannot_be_sent_is_the_workers_error(tmp_path: Path) -> None:
    path = tmp_path / "error.json"

    returncode, _ = outcome(unsendable, TORCHELASTIC_ERROR_FILE=str(path))

    assert returncode == 1
    assert "what unsendable returned, a function, cannot be sent" in json.loads(path.read_text())["message"]["message"]


def test_a_value_that_cannot_be_read_is_the_agents_error() -> None:
    with started(FunctionCall(Unreadable)) as process:
        assert process.wait() == 0
        with pytest.raises(AgentError, match="cannot be read: ValueError: cannot be made here"):
            read_value(process.value())


def test_a_closure_needs_a_fork() -> None:
    kept = [41]

    def closure() -> int:
        return kept[0] + 1

    assert outcome(closure, method="fork") == (0, 42)
    with pytest.raises(Exception, match="pickle") as info:
        check_call(FunctionCall(closure))
    assert "start_method='fork'" in "".join(getattr(info.value, "__notes__", ["start_method='fork'"]))
    check_call(FunctionCall(closure, start_method="fork"))


def test_a_program_from_no_file_needs_a_fork() -> None:
    script = (
        "from rallypoint.agent.calls import FunctionCall\n"
        "from rallypoint.agent.functions import check_call\n"
        "check_call(FunctionCall(print, start_method='fork'))\n"
        "check_call(FunctionCall(print))\n"
    )

    done = subprocess.run([sys.executable], input=script, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 1
    assert "is no file: put print into one, or use start_method='fork'" in done.stderr


def put(queue: Any, lock: Any, value: int) -> None:
    with lock:
        queue.put(value)


def test_queues_and_locks_of_multiprocessing_go_along() -> None:
    context = multiprocessing.get_context("spawn")
    queue, lock = context.Queue(), context.Lock()
    call = FunctionCall(put, (queue, lock, 7))
    check_call(call)

    with started(call) as process:
        assert queue.get(timeout=60) == 7
        assert process.wait() == 0
    queue.close()
    queue.join_thread()


def parent_lives() -> bool:
    parent = multiprocessing.parent_process()
    assert parent is not None
    return parent.is_alive()


def test_the_worker_sees_that_its_parent_lives() -> None:
    assert outcome(parent_lives) == (0, True)


def descriptors() -> list[int]:
    """Give the open descriptors below 256."""
    found = []
    for number in range(256):
        try:
            os.fstat(number)
        except OSError:
            continue
        found.append(number)
    return found


def test_a_process_that_cannot_be_started_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome(len, "")  # what multiprocessing keeps for good is there
    before = descriptors()
    monkeypatch.setattr(functions.spawn, "get_command_line", lambda **_: ["/nowhere/python"])

    with pytest.raises(FileNotFoundError):
        start_call(FunctionCall(len, ("",)), {}, subprocess.DEVNULL, subprocess.DEVNULL)

    assert descriptors() == before


def test_without_memory_files_a_temporary_file_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)

    assert outcome(many, 3) == (0, [0, 1, 2])


def test_a_forked_child_that_others_reaped_has_ended() -> None:
    with started(FunctionCall(len, ("",), "fork")) as process:
        os.waitpid(process.pid, 0)

        assert (process.poll(), process.wait()) == (0, 0)
