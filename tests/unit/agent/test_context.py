from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.agents import observed

from rallypoint.agent.context import MultiprocessContext, PContext, SubprocessContext, start_processes
from rallypoint.agent.logs import Std
from rallypoint.agent.logspecs import DefaultLogsSpecs
from rallypoint.agent.process import WorkerProcesses
from rallypoint.errors import SignalException

SHELL = "/bin/sh"
WAIT = "exec sleep 600"


@pytest.fixture(autouse=True)
def temporary_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


Starter = Callable[..., PContext]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Starter]:
    """Start processes that are ended with the test."""
    contexts: list[PContext] = []

    def start_one(entrypoint: Any, *args: tuple[Any, ...], **settings: Any) -> PContext:
        settings = {
            "envs": {rank: {} for rank in range(len(args))},
            "logs_specs": DefaultLogsSpecs(tmp_path),
        } | settings
        context = start_processes("trainer", entrypoint, dict(enumerate(args)), **settings)
        contexts.append(context)
        return context

    yield start_one
    for context in reversed(contexts):  # each gives back the signal handlers that it found
        context.close(signal.SIGKILL, 0)


def shell(*scripts: str) -> tuple[Any, ...]:
    return (SHELL, *(("-c", script) for script in scripts))


def echo(text: str) -> str:
    os.write(1, f"{text} {os.environ.get('WHO', '')}\n".encode())
    return text * 2


def fail_or_stay(rank: int) -> None:
    if rank == 0:
        raise ValueError("boom")
    threading.Event().wait(600)


def test_functions_give_what_they_return(start: Starter, tmp_path: Path) -> None:
    specs = DefaultLogsSpecs(tmp_path, redirects=Std.OUT)
    context = start(echo, ("a",), ("b",), envs={0: {"WHO": "x"}, 1: {"WHO": "y"}}, logs_specs=specs)

    result = context.wait()

    assert isinstance(context, MultiprocessContext)
    assert result is not None
    assert (result.return_values, result.failures, result.is_failed()) == ({0: "aa", 1: "bb"}, {}, False)
    assert [Path(result.stdouts[rank]).read_text() for rank in range(2)] == ["a x\n", "b y\n"]
    assert result.stderrs == {0: "", 1: ""}
    assert context.wait(0) is result


def test_commands_give_nothing(start: Starter) -> None:
    context = start(*shell("exit 0", "exit 0"))

    result = context.wait()

    assert isinstance(context, SubprocessContext)
    assert result is not None
    assert result.return_values == {0: None, 1: None}


def test_the_first_function_that_fails_ends_the_others_and_is_the_failure(start: Starter) -> None:
    context = start(fail_or_stay, (0,), (1,))

    result = context.wait()

    assert result is not None
    assert result.is_failed()
    assert (list(result.failures), result.return_values) == ([0], {})
    assert (result.failures[0].exitcode, result.failures[0].message) == (1, "ValueError: boom")
    assert Path(result.failures[0].error_file).parts[-4:][1:] == ("attempt_0", "0", "error.json")


def test_commands_that_were_ended_are_failures_too(start: Starter) -> None:
    result = start(*shell("exit 4", WAIT)).wait()

    assert result is not None
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {0: 4, 1: -signal.SIGTERM}


def test_a_wait_that_ends_in_time_gives_nothing(start: Starter) -> None:
    context = start(*shell(WAIT))

    assert context.wait(timeout=0) is None
    assert context.wait(timeout=0.01, period=0.01) is None
    assert list(context.pids()) == [0]


def test_any_thread_may_wait(start: Starter) -> None:
    found: list[Any] = []
    context = start(echo, ("a",))
    thread = threading.Thread(target=lambda: found.append(context.wait()))

    thread.start()
    thread.join()

    assert found[0].return_values == {0: "aa"}


def test_a_tee_shows_lines_with_the_name_unless_told(
    start: Starter, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    start(*shell("echo hi"), logs_specs=DefaultLogsSpecs(tmp_path, tee=Std.ALL)).wait()
    start(
        *shell("echo hi >&2"), logs_specs=DefaultLogsSpecs(tmp_path, tee=Std.ALL), log_line_prefixes={0: "<0>"}
    ).wait()

    assert capfd.readouterr() == ("[trainer0]:hi\n", "<0>hi\n")


def test_a_folder_that_nobody_asked_for_goes_with_the_processes(start: Starter, tmp_path: Path) -> None:
    context = start(*shell("exit 0"), logs_specs=DefaultLogsSpecs())
    context.wait()
    assert len(list(tmp_path.iterdir())) == 1

    context.close()
    context.close()

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "envs", "complaint"),
    [
        ({0: ("a",), 1: ("b",)}, {0: {}}, "envs, local rank mapping mismatch"),
        ({1: ("a",)}, {1: {}}, "args, local rank mapping mismatch"),
    ],
)
def test_local_ranks_must_agree(args: Any, envs: Any, complaint: str) -> None:
    with pytest.raises(RuntimeError, match=complaint):
        start_processes("trainer", echo, args, envs, DefaultLogsSpecs())


def test_what_cannot_be_started_is_told_by_the_systems_own_error(start: Starter) -> None:
    with pytest.raises(FileNotFoundError):
        start("/nowhere/program", ())
    with pytest.raises(ValueError, match="start_method is 'bogus'"):
        start(echo, ("a",), start_method="bogus")
    with pytest.raises(Exception, match=r"[Pp]ickle"):
        start(lambda: 1, ())


def test_what_is_not_there_is_refused_by_name(start: Starter) -> None:
    with pytest.raises(ValueError, match="numa_options cannot be set"):
        start(echo, ("a",), numa_options=object())


def test_lines_with_certain_texts_are_collected_too(start: Starter, tmp_path: Path) -> None:
    scripts = [f"echo error in {rank}; echo fine; echo warning in {rank} >&2" for rank in range(2)]
    specs = DefaultLogsSpecs(tmp_path, tee=Std.ALL)

    start(*shell(*scripts), logs_specs=specs, duplicate_stdout_filters=["error", "x"]).wait()

    (collected,) = tmp_path.rglob("filtered_stdout.log")
    assert sorted(collected.read_text().splitlines()) == ["[trainer0]:error in 0", "[trainer1]:error in 1"]
    assert not list(tmp_path.rglob("filtered_stderr.log"))


def test_a_signal_raises_in_the_main_thread_until_the_processes_are_closed(
    start: Starter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGUSR1,SIGBOGUS")
    before = signal.getsignal(signal.SIGUSR1)
    with observed() as events:
        context = start(*shell(WAIT))
        with pytest.raises(SignalException, match=f"Process {os.getpid()} got signal: {int(signal.SIGUSR1)}") as info:
            signal.raise_signal(signal.SIGUSR1)
        context.close()

    assert info.value.sigval == signal.SIGUSR1
    assert signal.getsignal(signal.SIGUSR1) == before
    assert any("SIGBOGUS" in event.message for event in events)


def test_a_signal_during_the_start_ends_it(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return real(*_, **__)

    real = WorkerProcesses.start
    monkeypatch.setattr(WorkerProcesses, "start", interrupted)

    with pytest.raises(SignalException, match="got signal: 15"):
        start(*shell(WAIT))


def test_outside_the_main_thread_signals_are_left_alone(start: Starter) -> None:
    with observed() as events:
        thread = threading.Thread(target=lambda: start(*shell("exit 0")).wait())
        thread.start()
        thread.join()

    assert any("outside the main thread" in event.message for event in events)
