from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest
from tests.support.agents import ScriptedHandler, round_info

from rallypoint.agent.logs import Std
from rallypoint.agent.logspecs import DefaultLogsSpecs
from rallypoint.agent.spec import WorkerSpec, WorkerState
from rallypoint.errors import SignalException
from rallypoint.launch.local_agent import ElasticAgent, LocalElasticAgent


@pytest.fixture(autouse=True)
def temporary_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def agent(entrypoint: Any, *args: Any, **settings: Any) -> LocalElasticAgent:
    spec = WorkerSpec("trainer", 2, ScriptedHandler(round_info()), entrypoint=entrypoint, args=args, max_restarts=0)
    return LocalElasticAgent(spec, **{"logs_specs": DefaultLogsSpecs()} | settings)


def place(text: str) -> tuple[str, str, str]:
    return text, os.environ["RANK"], os.environ["MASTER_ADDR"]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_an_agent_gives_what_its_functions_return(method: str) -> None:
    subject = agent(place, "x", start_method=method)

    result = subject.run()

    assert isinstance(subject, ElasticAgent)
    assert not result.is_failed()
    assert result.return_values == {0: ("x", "0", "node-a"), 1: ("x", "1", "node-a")}
    assert subject.get_worker_group("trainer").state is WorkerState.SUCCEEDED


def test_a_failure_is_a_result() -> None:
    result = agent("/bin/sh", "-c", "exit 3").run()

    assert result.is_failed()
    assert result.state is WorkerState.FAILED
    assert {failure.exitcode for failure in result.failures.values()} <= {3, -signal.SIGTERM}


def test_a_signal_is_raised() -> None:
    with pytest.raises(SignalException) as info:
        agent("/bin/sh", "-c", f"kill -TERM {os.getpid()}; exec sleep 600").run()

    assert info.value.sigval == signal.SIGTERM


def test_the_prefix_can_be_given_beside_the_specs(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    specs = DefaultLogsSpecs(tmp_path, tee=Std.OUT)

    agent("/bin/echo", "hi", logs_specs=specs, log_line_prefix_template="<${rank}>").run()

    assert sorted(capfd.readouterr().out.split()) == ["<0>hi", "<1>hi"]
    assert specs.prefix != "<${rank}>"


def test_what_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="uninterruptible_state_timeout cannot be set"):
        agent(place, "x", uninterruptible_state_timeout=5)
    assert agent(place, "x", uninterruptible_state_timeout=0) is not None
