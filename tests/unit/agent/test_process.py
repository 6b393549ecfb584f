from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.workers import STAY, PipeConsole, python_worker

from rallypoint.agent import process as process_module
from rallypoint.agent import sweep
from rallypoint.agent.guard import Guard
from rallypoint.agent.logs import Output
from rallypoint.agent.process import RETURNCODE_UNKNOWN, WorkerCommand, WorkerExit, WorkerProcesses
from rallypoint.errors import AgentError, SignalException, WorkerStartError

HOUR = 3600.0

TELL_AND_STAY = "print('up', flush=True)\n" + STAY
REFUSE_TO_END = (
    "import os, signal\n"
    "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'asked\\n'))\n"  # print is not safe in a handler
    "os.write(1, b'up\\n')\n" + STAY
)
LEAVE_A_CHILD = "import os\nif not os.fork():\n    print('child', os.getppid() > 0, flush=True)\n    " + STAY.replace(
    "\n", "\n    "
)


@pytest.fixture(scope="module")
def guard() -> Iterator[Guard]:
    with Guard.start() as started:
        yield started


@pytest.fixture
def console() -> Iterator[PipeConsole]:
    with PipeConsole() as made:
        yield made


class Runner:
    """Starts workers under the test's guard, on the test's console; whoever is left at the end is killed."""

    def __init__(self, guard: Guard, console: PipeConsole) -> None:
        self.guard = guard
        self.console = console
        self.started: list[WorkerProcesses] = []

    def __call__(self, *workers: str | WorkerCommand) -> WorkerProcesses:
        commands = [
            python_worker(worker, rank) if isinstance(worker, str) else worker for rank, worker in enumerate(workers)
        ]
        processes = WorkerProcesses.start(commands, guard=self.guard, console=self.console.descriptors)
        self.started.append(processes)
        return processes


@pytest.fixture
def start(guard: Guard, console: PipeConsole) -> Iterator[Runner]:
    runner = Runner(guard, console)
    yield runner
    for processes in runner.started:
        processes.stop(signal.SIGKILL, 0)


@pytest.fixture(params=["pidfd", "looking", "no waitid"])
def _way_of_seeing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSYS, "not implemented")

    if request.param != "pidfd":
        monkeypatch.setattr(os, "pidfd_open", refuse)
    if request.param == "no waitid":
        monkeypatch.delattr(os, "waitid")
        monkeypatch.setattr(sweep, "_HAS_PROC", False)


def all_exits(processes: WorkerProcesses) -> list[WorkerExit]:
    exits = []
    while processes.running:
        exits += processes.wait(HOUR)
    return exits


def in_background(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action)
    thread.start()
    return thread


# --- seeing ends ---


@pytest.mark.usefixtures("_way_of_seeing")
def test_each_exit_is_given_once_with_its_code_or_signal(start: Runner) -> None:
    processes = start("", "raise SystemExit(42)", "import os; os.kill(os.getpid(), 9)")
    pids = processes.pids

    exits = all_exits(processes)

    assert sorted(exits) == [WorkerExit(0, pids[0], 0), WorkerExit(1, pids[1], 42), WorkerExit(2, pids[2], -9)]
    assert processes.poll() == []
    assert processes.wait(HOUR) == []
    assert processes.stop(signal.SIGTERM, HOUR) == []


@pytest.mark.usefixtures("_way_of_seeing")
def test_a_wait_gives_what_has_ended_and_leaves_the_others_running(start: Runner) -> None:
    processes = start(STAY, "raise SystemExit(1)")

    (ended,) = processes.wait(HOUR)

    assert (ended.local_rank, ended.returncode) == (1, 1)
    assert processes.running == {0: processes.pids[0]}


def test_a_wait_that_sees_no_exit_gives_nothing(start: Runner) -> None:
    processes = start(STAY)

    assert processes.wait(0.01) == []
    assert processes.wait(0) == []
    assert processes.poll() == []
    assert list(processes.running) == [0]


@pytest.mark.usefixtures("_way_of_seeing")
def test_a_wait_is_woken_from_elsewhere(start: Runner) -> None:
    processes = start(STAY)

    waker = in_background(processes.wake)
    assert processes.wait() == []
    waker.join()
    for _ in range(100_000):
        processes.wake()  # more than the pipe takes, and none of it blocks
    assert processes.wait() == []
    assert processes.wait(0) == []


def test_a_worker_that_left_nobody_is_reaped_at_once(start: Runner) -> None:
    processes = start("")

    all_exits(processes)

    with pytest.raises(ProcessLookupError):
        os.kill(processes.pids[0], 0)


def test_a_worker_that_left_children_keeps_its_number_until_they_are_ended(start: Runner) -> None:
    processes = start(LEAVE_A_CHILD)
    assert start.console.line() == "child True"
    all_exits(processes)

    assert sweep.state_of(processes.pids[0]) == "state Z"
    processes.stop(signal.SIGTERM, HOUR)

    assert sweep.state_of(processes.pids[0]) == ""
    assert start.console.rest() == ""


def test_an_exit_code_that_others_took_away_is_a_failure(start: Runner, caplog: pytest.LogCaptureFixture) -> None:
    processes = start("")
    os.waitpid(processes.pids[0], 0)

    assert [ended.returncode for ended in processes.wait(HOUR)] == [RETURNCODE_UNKNOWN]
    assert "was taken by other code in this process" in caplog.text


# --- starting ---


def test_a_failed_start_ends_those_that_already_run(start: Runner) -> None:
    with pytest.raises(WorkerStartError, match="worker 1 could not be started: '/nowhere/x'"):
        start(TELL_AND_STAY, WorkerCommand(1, ("/nowhere/x",), {}))

    assert start.console.rest() in ("", "up\n")  # its end: nobody holds the console any more


def test_a_failed_start_ends_the_tee_too(start: Runner, tmp_path: Path) -> None:
    teed = python_worker(TELL_AND_STAY, 0, Output(tmp_path / "log"))

    with pytest.raises(WorkerStartError):
        start(teed, WorkerCommand(1, ("/nowhere/x",), {}))

    assert (tmp_path / "log").read_text() in ("", "up\n")


def test_a_start_that_nobody_guards_is_none(console: PipeConsole) -> None:
    guard = Guard.start()
    guard.close()

    with pytest.raises(AgentError, match="the guard of process"):
        WorkerProcesses.start([python_worker(TELL_AND_STAY)], guard=guard, console=console.descriptors)

    assert console.rest() in ("", "up\n")


def test_commands_that_cannot_start_together_are_refused(start: Runner) -> None:
    with pytest.raises(ValueError, match="must differ"):
        start(python_worker("", 1), python_worker("", 1))


# --- stopping ---


@pytest.mark.usefixtures("_way_of_seeing")
def test_a_stop_asks_first_and_takes_the_workers_own_code(start: Runner) -> None:
    polite = "import signal, sys\nsignal.signal(15, lambda *_: sys.exit(7))\nprint('up', flush=True)\n" + STAY
    processes = start(polite, TELL_AND_STAY)
    assert {start.console.line(), start.console.line()} == {"up"}

    exits = processes.stop(signal.SIGTERM, HOUR)

    assert [(ended.local_rank, ended.returncode) for ended in exits] == [(0, 7), (1, -signal.SIGTERM)]
    assert processes.running == {}


@pytest.mark.usefixtures("_way_of_seeing")
def test_whoever_outlives_the_grace_is_killed(start: Runner) -> None:
    processes = start(REFUSE_TO_END)
    start.console.line()

    (ended,) = processes.stop(signal.SIGTERM, 0.05)

    assert ended.returncode == -signal.SIGKILL
    assert start.console.rest() in ("", "asked\n")


def test_without_a_grace_nobody_is_asked(start: Runner) -> None:
    processes = start(REFUSE_TO_END)
    start.console.line()

    processes.stop(signal.SIGTERM, 0)

    assert start.console.rest() == ""


@pytest.mark.usefixtures("_way_of_seeing")
def test_children_of_a_worker_that_has_crashed_are_ended_too(start: Runner) -> None:
    processes = start(LEAVE_A_CHILD + "\nraise SystemExit(1)")
    start.console.line()
    all_exits(processes)

    processes.stop(signal.SIGTERM, HOUR)

    assert start.console.rest() == ""


@pytest.mark.usefixtures("_way_of_seeing")
def test_a_daemon_in_a_session_of_its_own_is_ended_too(start: Runner) -> None:
    daemon = (
        "import os\n"
        "if not os.fork():\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        "    print('daemon', flush=True)\n    " + STAY.replace("\n", "\n    ")
    )
    processes = start(daemon)
    assert start.console.line() == "daemon"
    all_exits(processes)

    processes.stop(signal.SIGTERM, HOUR)

    assert start.console.rest() == ""


def test_a_stop_leaves_other_starts_of_the_same_guard_alone(start: Runner) -> None:
    first, second = start(STAY), start(STAY)

    first.stop(signal.SIGKILL, 0)

    assert second.poll() == []
    assert list(second.running) == [0]


def test_an_exit_is_told_while_others_are_waited_for(start: Runner) -> None:
    processes = start(REFUSE_TO_END, TELL_AND_STAY)
    assert sorted(start.console.line() for _ in range(2)) == ["up", "up"]
    told: list[WorkerExit] = []

    def tell(exited: WorkerExit) -> None:
        told.append(exited)
        assert 0 in processes.running
        processes.hurry()

    left = processes.stop(signal.SIGTERM, HOUR, tell)

    assert [(exited.local_rank, exited.returncode) for exited in told] == [(1, -signal.SIGTERM)]
    assert [(exited.local_rank, exited.returncode) for exited in left] == [(0, -signal.SIGKILL)]


def test_a_second_stop_does_no_harm(start: Runner) -> None:
    processes = start(STAY)

    assert len(processes.stop(signal.SIGTERM, HOUR)) == 1
    assert processes.stop(signal.SIGTERM, HOUR) == []
    processes.wake()
    processes.hurry()
    assert processes.wait() == []


def test_a_hurried_stop_gives_no_more_grace(start: Runner) -> None:
    processes = start(REFUSE_TO_END)
    start.console.line()
    hurrier = in_background(lambda: (start.console.line(), processes.hurry()))

    (ended,) = processes.stop(signal.SIGTERM, HOUR)

    hurrier.join()
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SignalException, SystemExit])
def test_an_interrupt_cuts_the_grace_and_is_raised_when_all_is_done(start: Runner, kind: type[BaseException]) -> None:
    def raise_it(number: int, _: object) -> None:
        raise SignalException("stop", number) if kind is SignalException else kind()

    processes = start(REFUSE_TO_END)
    start.console.line()
    before = signal.signal(signal.SIGINT, raise_it)
    interrupter = in_background(lambda: (start.console.line(), os.kill(os.getpid(), signal.SIGINT)))
    try:
        with pytest.raises(kind):
            processes.stop(signal.SIGTERM, HOUR)
    finally:
        interrupter.join()
        signal.signal(signal.SIGINT, before)

    assert processes.running == {}
    assert [ended.returncode for ended in processes.poll()] == [-signal.SIGKILL]
    assert start.console.rest() == ""


def test_a_stop_runs_where_no_thread_is_to_be_had(start: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    processes = start(STAY)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        exits = processes.stop(signal.SIGKILL, 0)

    assert [ended.returncode for ended in exits] == [-signal.SIGKILL]


def test_a_process_that_does_not_die_is_reported_and_not_waited_for(
    start: Runner, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    processes = start(STAY)
    worker = processes._running[0]
    with monkeypatch.context() as patched:
        patched.setattr(process_module, "KILL_WAIT_S", 0.01)
        patched.setattr(sweep, "kill_group", lambda *_: False)
        patched.setattr(sweep, "signal_members", lambda *_, **__: [])

        assert processes.stop(signal.SIGKILL, 0) == []

    assert processes.running == {0: worker.pid}
    assert processes.poll() == []
    assert f"worker 0 (pid {worker.pid}) has not died 0.01 s after SIGKILL: state " in caplog.text
    worker.process.kill()
    worker.process.wait()


def test_a_with_block_ends_its_workers(guard: Guard, console: PipeConsole) -> None:
    with WorkerProcesses.start([python_worker(STAY)], guard=guard, console=console.descriptors) as processes:
        assert list(processes.running) == [0]

    assert processes.running == {}
    assert console.rest() == ""


# --- output ---


def test_the_last_words_of_a_worker_are_known_when_its_end_is(start: Runner, tmp_path: Path) -> None:
    code = "import os; os.write(2, b'line 1\\nline 2')"
    redirected = Output(tmp_path / "stderr.log", console=False)
    processes = start(
        python_worker(code, 0, None, redirected),
        python_worker(code, 1, None, Output(prefix="[1]:")),
        python_worker(code, 2, None, Output(console=False)),
    )

    all_exits(processes)

    assert processes.tail(0) == ("line 1", "line 2")
    assert processes.tail(1) == ("line 1", "line 2")
    assert processes.tail(2) == ()
    processes.stop(signal.SIGTERM, HOUR)
    assert processes.tail(1) == ("line 1", "line 2")


def test_teed_output_is_complete_when_the_stop_is_done(start: Runner, tmp_path: Path) -> None:
    code = "for n in range(20000): print('line', n)"
    processes = start(
        *(python_worker(code, rank, Output(tmp_path / str(rank), prefix=f"{rank}>")) for rank in range(2))
    )
    shown: list[str] = []
    reader = in_background(lambda: shown.extend(start.console.line() for _ in range(40_000)))

    all_exits(processes)
    processes.stop(signal.SIGTERM, HOUR)

    reader.join()
    expected = [f"line {number}" for number in range(20_000)]
    for rank in range(2):
        assert (tmp_path / str(rank)).read_text().splitlines() == expected
        assert [line[2:] for line in shown if line.startswith(f"{rank}>")] == expected
