from __future__ import annotations

import os
import signal
import subprocess

import pytest
from tests.support.workers import STAY, python_argv

from rallypoint.agent import guard as guard_module
from rallypoint.agent import sweep
from rallypoint.agent.guard import Guard
from rallypoint.errors import AgentError


def is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_guard_runs_beside_its_agent_in_a_session_of_its_own_and_ends_when_closed() -> None:
    guard = Guard.start()
    pid = guard.pid
    assert pid is not None
    assert os.getsid(pid) == pid

    guard.close()
    guard.close()

    assert guard.pid is None
    assert not is_there(pid)


def test_closing_touches_nobody() -> None:
    with subprocess.Popen(python_argv(STAY), start_new_session=True) as worker:
        with Guard.start() as guard:
            guard.watch(worker.pid)

        assert worker.poll() is None
        worker.kill()


def test_each_guard_has_an_id_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sweep.MARKER_ENV, raising=False)

    assert Guard().marker_id != Guard().marker_id
    guard = Guard()
    assert guard.marker == guard.marker_id


def test_within_a_worker_the_marker_names_the_outer_agent_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sweep.MARKER_ENV, "outer:start")

    guard = Guard()

    assert guard.marker == f"outer:start:{guard.marker_id}"
    assert sweep.is_marked(guard.marker, "outer")


def test_signals_meant_for_the_agent_do_not_end_the_guard() -> None:
    with Guard.start() as guard:
        assert guard.pid is not None
        with subprocess.Popen(python_argv(STAY), start_new_session=True) as worker:
            guard.watch(worker.pid)
            guard.forget(worker.pid)
            worker.kill()
        process = guard._process
        assert process is not None
        wait_until_it_ignores(guard.pid, signal.SIGTERM)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(guard.pid, number)
    assert process.returncode == 0


def wait_until_it_ignores(pid: int, number: int) -> None:
    while True:
        with open(f"/proc/{pid}/status") as file:  # noqa: PTH123 - short-lived
            (ignored,) = (line.split()[1] for line in file if line.startswith("SigIgn:"))
        if int(ignored, 16) >> (number - 1) & 1:
            return


def test_a_guard_that_died_is_replaced_and_told_everything(caplog: pytest.LogCaptureFixture) -> None:
    with subprocess.Popen(python_argv(STAY), start_new_session=True) as worker, Guard.start() as guard:
        first = guard._process
        assert first is not None
        first.kill()
        first.wait()
        guard.forget(worker.pid)  # is no error either

        guard.watch(worker.pid)

        assert guard.pid != first.pid
        assert f"the guard of the workers (pid {first.pid}) died" in caplog.text
        worker.kill()


def test_a_closed_guard_watches_nobody() -> None:
    guard = Guard.start()
    guard.close()

    with pytest.raises(AgentError, match="is closed and cannot watch workers any more"):
        guard.watch(1)
    guard.forget(1)


def test_a_guard_that_cannot_start_is_an_agent_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module.sys, "executable", "/nowhere/python")

    with pytest.raises(AgentError, match=r"could not be started: .*No such file"):
        Guard.start()


def test_a_guard_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "CLOSE_S", 0.01)
    guard = Guard.start()
    process = guard._process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)

    guard.close()

    assert process.returncode == -signal.SIGKILL


def test_a_forked_child_cannot_close_its_parents_guard() -> None:
    with Guard.start() as guard:
        child = os.fork()
        if child == 0:
            guard.close()
            os._exit(0)
        os.waitpid(child, 0)

        assert guard.pid is not None
        assert is_there(guard.pid)


def test_the_guards_program_imports_next_to_nothing() -> None:
    code = f"import sys; exec(open({sweep.__file__!r}).read(), {{'__name__': 'guard'}}); print(*sys.modules)"

    loaded = subprocess.run(python_argv(code), check=True, capture_output=True, text=True).stdout.split()

    assert not {"typing", "pathlib", "subprocess", "threading", "logging", "psutil", "rallypoint"} & set(loaded)
