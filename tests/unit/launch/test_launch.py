from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.agents import ScriptedHandler, observed, round_info

from rallypoint.agent import membership
from rallypoint.agent.failure import ChildFailedError
from rallypoint.agent.logs import LogOptions
from rallypoint.agent.spec import WorkerState
from rallypoint.errors import AgentError, RendezvousConnectionError, RendezvousTimeoutError, SignalException
from rallypoint.launch import launch as module
from rallypoint.launch.config import ConfigError, LaunchConfig
from rallypoint.launch.launch import elastic_launch, entrypoint_name, launch, launch_agent, name_of, run_agent
from rallypoint.launch.script import run_script_path
from rallypoint.rendezvous.handler import RendezvousHandler, RendezvousInfo, RendezvousParameters
from rallypoint.rendezvous.registry import rendezvous_handler_registry

SHELL = "/bin/sh"


@pytest.fixture(autouse=True)
def temporary_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def config(**changes: Any) -> LaunchConfig:
    return LaunchConfig(
        **{"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 1, "run_id": "r", "rdzv_backend": "scripted"}
        | {"max_restarts": 0}
        | changes
    )


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Callable[[RendezvousHandler | Exception], None]:
    """Lets a test say what the backend named "scripted" is."""

    def put(handler: RendezvousHandler | Exception) -> None:
        def create(params: RendezvousParameters) -> RendezvousHandler:
            if isinstance(handler, Exception):
                raise handler
            return handler

        monkeypatch.setitem(rendezvous_handler_registry._registry, "scripted", create)

    return put


Put = Callable[[RendezvousHandler | Exception], None]


def test_success_is_zero_and_says_nothing(backend: Put) -> None:
    backend(handler := ScriptedHandler(round_info()))
    said: list[str] = []

    assert launch(config(), [SHELL, "-c", "exit 0"], said.append) == 0
    assert said == []
    assert handler.calls[-1] == "shutdown"


def test_a_failed_worker_gives_its_code_and_one_report(backend: Put) -> None:
    backend(ScriptedHandler(round_info()))
    said: list[str] = []

    assert launch(config(), [SHELL, "-c", "exit 42"], said.append) == 42
    (report,) = said
    assert report.startswith("/bin/sh failed: 1 worker")
    assert "exit code 42" in report


@pytest.mark.parametrize(
    "handler",
    [RendezvousConnectionError("host-a:1 does not answer"), ScriptedHandler(RendezvousTimeoutError("1 of 2 nodes"))],
    ids=["unreachable", "alone"],
)
def test_a_rendezvous_that_fails_is_one_sentence_and_code_one(
    backend: Put, handler: RendezvousHandler | Exception
) -> None:
    backend(handler)
    said: list[str] = []

    assert launch(config(), [SHELL, "-c", "exit 0"], said.append) == 1
    assert said in (["rallypoint: host-a:1 does not answer"], ["rallypoint: 1 of 2 nodes"])


def test_without_a_listener_the_report_goes_to_standard_error(backend: Put, capsys: pytest.CaptureFixture[str]) -> None:
    backend(RendezvousConnectionError("host-a:1 does not answer"))

    launch(config(), [SHELL])

    assert capsys.readouterr().err == "rallypoint: host-a:1 does not answer\n"


def test_without_standard_error_the_report_goes_nowhere(
    backend: Put, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend(RendezvousConnectionError("host-a:1 does not answer"))
    monkeypatch.setattr("sys.stderr", None)

    assert launch(config(), [SHELL]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["bogus", "scripted"])
def test_what_a_backend_refuses_is_the_users_affair(backend: Put, name: str) -> None:
    backend(ValueError("no such option"))

    with pytest.raises(ConfigError, match=r"not registered|no such option"):
        launch(config(rdzv_backend=name), [SHELL])


def test_a_log_folder_that_is_a_file_is_the_users_affair(backend: Put, tmp_path: Path) -> None:
    backend(handler := ScriptedHandler())
    (tmp_path / "logs").write_text("a file")

    with pytest.raises(ConfigError, match="logs"):
        launch(config(logs_specs=LogOptions(log_dir=tmp_path / "logs")), [SHELL])
    assert handler.calls == ["shutdown"]


def test_a_signal_before_the_run_ends_it_like_any_other(backend: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: LaunchConfig) -> RendezvousHandler:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was not taken")

    monkeypatch.setattr(module, "create_handler", interrupted)

    result = run_agent(config(), [SHELL])

    assert (result.state, result.exit_code, result.signal_number) == (WorkerState.STOPPED, 143, signal.SIGTERM)


def test_a_handler_that_cannot_shut_down_does_not_change_the_result(backend: Put) -> None:
    class Broken(ScriptedHandler):
        def shutdown(self) -> bool:
            raise KeyError("bug")

    backend(Broken(round_info()))

    with observed() as events:
        assert launch(config(), [SHELL, "-c", "exit 0"]) == 0
    assert "the rendezvous could not be shut down: KeyError: 'bug'" in [event.message for event in events]


def test_a_handler_that_is_stuck_is_left_behind(backend: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    freed = threading.Event()

    class Stuck(ScriptedHandler):
        def shutdown(self) -> bool:
            return freed.wait(60)

    monkeypatch.setattr(module, "SHUTDOWN_S", 0.01)
    backend(Stuck(round_info()))

    with observed() as events:
        assert launch(config(), [SHELL, "-c", "exit 0"]) == 0
    freed.set()
    assert any("is left behind" in event.message for event in events)


def test_a_handler_gets_no_more_time_to_shut_down_than_taking_leave_has_left(
    backend: Put, monkeypatch: pytest.MonkeyPatch
) -> None:
    freed = threading.Event()

    class Stuck(ScriptedHandler):
        def next_rendezvous(self) -> RendezvousInfo:
            os.kill(os.getpid(), signal.SIGTERM)
            freed.wait(60)
            raise RendezvousConnectionError("nobody there")

        def shutdown(self) -> bool:
            return freed.wait(60)

    monkeypatch.setattr(membership, "FAREWELL_S", 0.01)
    monkeypatch.setattr(module, "LAST_WORD_S", 0.02)
    backend(Stuck(round_info()))

    with observed() as events:
        assert launch(config(), [SHELL, "-c", "exit 0"]) == 128 + signal.SIGTERM
    freed.set()
    assert "the rendezvous did not shut down within 0.0 s and is left behind" in [event.message for event in events]


def test_workers_get_the_callers_environment(backend: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_SETTING", "7")
    backend(ScriptedHandler(round_info()))

    assert launch(config(), [SHELL, "-c", '[ "$MY_SETTING/$RANK/$TORCHELASTIC_RUN_ID" = 7/0/run-7 ]']) == 0


def test_elastic_launch_gives_one_value_for_each_rank(backend: Put) -> None:
    backend(ScriptedHandler(round_info()))

    assert elastic_launch(config(nproc_per_node=2), SHELL)("-c", "exit 0") == {0: None, 1: None}


def test_elastic_launch_raises_the_failures_of_this_node(backend: Put) -> None:
    backend(ScriptedHandler(round_info()))

    with pytest.raises(ChildFailedError) as caught:
        elastic_launch(config(), SHELL)("-c", "exit 3")

    assert caught.value.get_first_failure()[1].exitcode == 3


def test_elastic_launch_raises_the_signal_that_ended_the_run(backend: Put) -> None:
    backend(ScriptedHandler(round_info()))

    with pytest.raises(SignalException) as caught:
        elastic_launch(config(), SHELL)("-c", "kill -TERM $PPID; exec sleep 600")

    assert caught.value.sigval == signal.SIGTERM


def test_elastic_launch_raises_what_ended_the_run_elsewhere(backend: Put) -> None:
    backend(ScriptedHandler(RendezvousTimeoutError("1 of 2 nodes")))

    with pytest.raises(AgentError, match="1 of 2 nodes"):
        elastic_launch(config(), SHELL)()


def place(text: str) -> tuple[str, str]:
    return os.environ["RANK"], text


def fail_first(text: str) -> str:
    if os.environ["RALLYPOINT_ROUND"] == "0":
        raise ValueError(text)
    return text


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_a_functions_values_come_back_by_rank(backend: Put, method: str) -> None:
    backend(ScriptedHandler(round_info()))

    assert elastic_launch(config(nproc_per_node=2, start_method=method), place)("x") == {0: ("0", "x"), 1: ("1", "x")}


def test_launch_agent_does_the_same(backend: Put) -> None:
    backend(ScriptedHandler(round_info()))

    assert launch_agent(config(), place, ["x"]) == {0: ("0", "x")}


def test_the_exception_of_a_function_is_a_child_failure(backend: Put) -> None:
    backend(ScriptedHandler(round_info()))

    with pytest.raises(ChildFailedError, match="fail_first failed") as caught:
        elastic_launch(config(), fail_first)("boom")

    rank, failure = caught.value.get_first_failure()
    assert (rank, failure.exitcode, failure.message) == (0, 1, "ValueError: boom")
    assert Path(failure.error_file).exists()


def test_a_function_is_called_again_in_the_next_round(backend: Put) -> None:
    backend(ScriptedHandler(round_info(0), round_info(1)))

    assert elastic_launch(config(max_restarts=1), fail_first)("again") == {0: "again"}


def test_a_function_that_cannot_travel_is_refused_before_anybody_is_met(backend: Put) -> None:
    backend(handler := ScriptedHandler(round_info()))

    with pytest.raises(Exception, match=r"[Pp]ickle"):
        elastic_launch(config(), lambda: 1)()
    assert handler.calls == ["shutdown"]


@pytest.mark.parametrize("nothing", ["", None])
def test_something_has_to_be_run(nothing: str | None) -> None:
    with pytest.raises(ConfigError, match="needs the path of a program"):
        elastic_launch(config(), nothing)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["/usr/bin/python3", "-u", "train.py", "--lr", "1"], "train.py"),
        (["python", "-u", "-m", "pkg.train"], "pkg.train"),
        (["python"], "python"),
        (["./train.sh", "-x"], "./train.sh"),
        ([place, 3], "place"),
        ([run_script_path, "train.py", "-x"], "train.py"),
    ],
)
def test_a_command_is_named_by_what_it_runs(command: list[Any], name: str) -> None:
    assert name_of(command) == name


@pytest.mark.parametrize(
    ("entrypoint", "args", "name"),
    [
        (place, ["x"], "place"),
        (sys.executable, ["-u", "train.py"], "train.py"),
        (sys.executable, ["-u"], ""),
        ("/bin/sh", ["train.sh"], "/bin/sh"),
        (None, [], ""),
    ],
)
def test_an_entrypoint_is_named_as_torch_names_it(entrypoint: Any, args: list[str], name: str) -> None:
    assert entrypoint_name(entrypoint, args) == name
