from __future__ import annotations

import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.workers import STAY, PipeConsole, python_worker

from rallypoint.agent import spawn, sweep
from rallypoint.agent.logs import Output
from rallypoint.agent.spawn import WorkerCommand, check_commands, keep_exit_codes, spawn_all
from rallypoint.agent.tee import Tee
from rallypoint.errors import AgentError, WorkerStartError


@pytest.fixture
def console() -> Iterator[PipeConsole]:
    with PipeConsole() as made:
        yield made


class Started(dict[int, "subprocess.Popen[bytes]"]):
    """The processes of one start; killed and reaped at the end."""

    def __enter__(self) -> Started:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.values():
            process.kill()
            process.wait()


def run(*commands: WorkerCommand, console: PipeConsole, tee: Tee | None = None) -> Started:
    """Run commands to their end."""
    with Started() as started:
        spawn_all(commands, "mark", console.descriptors, tee, started.__setitem__)
        for process in started.values():
            process.wait()
    return started


def test_a_worker_leads_a_session_and_reads_nothing_and_holds_nothing(console: PipeConsole) -> None:
    inherited = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(inherited, True)
    code = (
        "import os, sys\n"
        "print(os.getsid(0) == os.getpgid(0) == os.getpid(), repr(sys.stdin.read()))\n"
        f"print(os.path.exists('/proc/self/fd/{inherited}'))\n"
    )

    run(python_worker(code), console=console)
    os.close(inherited)

    assert console.rest() == "True ''\nFalse\n"


def test_arguments_and_environment_arrive_as_they_are(console: PipeConsole) -> None:
    code = "import os, sys; print(sys.argv[1:], sorted(os.environ))"
    argv = (*python_worker(code).argv, "a$$b", "${rank}", "", " *")

    run(WorkerCommand(0, argv, {"ONLY": "this", "LC_ALL": "C.UTF-8"}), console=console)

    assert console.rest() == "['a$$b', '${rank}', '', ' *'] ['LC_ALL', 'ONLY', 'RALLYPOINT_WORKER_OF']\n"


def test_workers_start_without_waiting_for_each_other(console: PipeConsole, monkeypatch: pytest.MonkeyPatch) -> None:
    meeting = threading.Barrier(3, timeout=30)

    class SlowPopen(subprocess.Popen[bytes]):
        def __init__(self, *args: object, **kwargs: object) -> None:
            meeting.wait()
            super().__init__(*args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(spawn.subprocess, "Popen", SlowPopen)

    started = run(*(python_worker("", rank) for rank in range(3)), console=console)

    assert sorted(started) == [0, 1, 2]


def test_a_missing_program_is_named_and_the_others_are_handed_over(console: PipeConsole) -> None:
    missing = WorkerCommand(1, ("/nowhere/train", "two words"), {})
    with Started() as started:
        with pytest.raises(WorkerStartError) as info:
            spawn_all([python_worker(STAY), missing], "m", console.descriptors, None, started.__setitem__)

        assert list(started) == [0]
    assert str(info.value) == (
        "worker 1 could not be started: '/nowhere/train': No such file or directory"
        " (its command: /nowhere/train 'two words')"
    )
    assert isinstance(info.value, AgentError)
    assert isinstance(info.value.__cause__, FileNotFoundError)
    assert (info.value.local_rank, info.value.argv, info.value.errno) == (1, missing.argv, errno.ENOENT)


def refused(command: WorkerCommand, console: PipeConsole) -> str:
    with pytest.raises(WorkerStartError) as info:
        spawn_all([command], "m", console.descriptors, None, lambda *_: None)
    return str(info.value)


def test_each_reason_not_to_start_is_told(console: PipeConsole, tmp_path: Path) -> None:
    (tmp_path / "data").touch(mode=0o644)
    (tmp_path / "script").write_text("#!/nowhere/interpreter\n")
    (tmp_path / "script").chmod(0o755)
    (tmp_path / "garbage").write_bytes(b"\0\1\2")
    (tmp_path / "garbage").chmod(0o755)

    def reason(*argv: str, stdout: Output | None = None) -> str:
        return refused(WorkerCommand(0, argv, {}, stdout or Output()), console)

    assert "Permission denied" in reason(str(tmp_path / "data"))
    assert "the interpreter that its first line names does not exist" in reason(str(tmp_path / "script"))
    assert "Exec format error" in reason(str(tmp_path / "garbage"))
    assert "embedded null byte" in reason("a\0b")
    path = tmp_path / "missing" / "log"
    assert f"{str(path)!r}: No such file or directory" in reason("true", stdout=Output(path, console=False))


def test_of_several_failures_the_lowest_rank_is_told(console: PipeConsole) -> None:
    commands = [WorkerCommand(rank, (f"/nowhere/{rank}",), {}) for rank in (2, 0, 1)]

    with pytest.raises(WorkerStartError, match="worker 0 could not be started"):
        spawn_all(commands, "m", console.descriptors, None, lambda *_: None)


def test_an_error_of_the_one_who_is_told_is_raised_too(console: PipeConsole) -> None:
    with Started() as started:

        def refuse(local_rank: int, process: subprocess.Popen[bytes]) -> None:
            started[local_rank] = process
            raise AgentError("nobody guards it")

        with pytest.raises(AgentError, match="nobody guards it"):
            spawn_all([python_worker("")], "m", console.descriptors, None, refuse)


def test_output_goes_where_it_is_told(console: PipeConsole, tmp_path: Path) -> None:
    code = "import os; os.write(1, b'out\\n'); os.write(2, b'err\\n')"
    path = tmp_path / "log"
    path.write_text("earlier\n")
    tee = Tee(console.descriptors)

    run(
        python_worker(code, 0, Output(path, console=False), Output(console=False)),
        python_worker(code, 1, Output(console=False), Output()),
        python_worker(code, 2, Output(prefix="[2]:"), Output(console=False)),
        console=console,
        tee=tee,
    )
    tee.close(30)

    assert path.read_text() == "earlier\nout\n"
    assert sorted(console.rest().splitlines()) == ["[2]:out", "err"]


def test_a_closed_console_is_nowhere() -> None:
    with PipeConsole() as console:
        closed = os.dup(console.descriptors[0])
        os.close(closed)
        with Started() as started:
            spawn_all([python_worker("print('x')")], "m", (closed, closed), None, started.__setitem__)

            assert started[0].wait() == 0


def test_commands_that_cannot_start_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must differ, not be \[3, 3\]"):
        check_commands([python_worker("", 3), python_worker("", 3)])
    with pytest.raises(ValueError, match="the command of local rank 7 names no program"):
        check_commands([WorkerCommand(7, (), {})])


@pytest.fixture
def ignored_children() -> Iterator[None]:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGCHLD, before)


@pytest.mark.usefixtures("ignored_children")
def test_an_ignored_sigchld_is_put_right_because_exit_codes_would_be_lost() -> None:
    keep_exit_codes()

    assert signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL


@pytest.mark.usefixtures("ignored_children")
def test_an_ignored_sigchld_is_an_error_where_it_cannot_be_put_right() -> None:
    assert "SIGCHLD is ignored in this process" in in_another_thread(keep_exit_codes)


def in_another_thread(action: Callable[[], None]) -> str:
    said = []

    def target() -> None:
        try:
            action()
        except AgentError as error:
            said.append(str(error))

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return said[0]


def test_the_marker_replaces_that_of_an_outer_agent(console: PipeConsole) -> None:
    command = python_worker("import os; print(os.environ['RALLYPOINT_WORKER_OF'])")

    run(WorkerCommand(0, command.argv, {**command.env, sweep.MARKER_ENV: "outer"}), console=console)

    assert console.rest() == "mark\n"
