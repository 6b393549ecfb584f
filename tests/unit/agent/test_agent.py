from __future__ import annotations

import gc
import json
import os
import signal
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.support.agents import ForeignHandler, ScriptedHandler, observed, round_info

from rallypoint.agent import group
from rallypoint.agent.agent import Agent
from rallypoint.agent.logs import LogOptions, Std
from rallypoint.agent.spec import RunResult, WorkerPlace, WorkerSpec, WorkerState
from rallypoint.errors import RendezvousClosedError, RendezvousGracefulExitError
from rallypoint.events import Event, subscribe, unsubscribe
from rallypoint.rendezvous.handler import RendezvousHandler, RoundStatus

PATIENCE_S = 60.0
WAIT = "exec sleep 600"


@pytest.fixture(autouse=True)
def temporary_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def environment(place: WorkerPlace) -> Mapping[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "LOCAL_RANK": str(place.local_rank),
        "RANK": str(place.rank),
        "ROUND": str(place.round),
        "NODE_RESTARTS": str(place.node_restarts),
        "ERROR_FILE": place.error_file,
        "MASTER": f"{place.master_addr}:{place.master_port}",
    }


def agent(handler: RendezvousHandler, script: str, workers: int = 2, **settings: Any) -> Agent:
    own = {name: settings.pop(name) for name in ("logs", "grace_s", "store_patience_s") if name in settings}
    spec = WorkerSpec(
        **{
            "role": "trainer",
            "local_world_size": workers,
            "rdzv_handler": handler,
            "entrypoint": "/bin/sh",
            "args": ("-c", script),
            "max_restarts": 0,
            "monitor_interval": 0.01,
        }
        | settings
    )
    return Agent(spec, environment, **{"grace_s": 20.0} | own)


def kept(tmp_path: Path) -> LogOptions:
    return LogOptions(log_dir=tmp_path, redirects=Std.ALL)


def output(tmp_path: Path, local_rank: int, number: int = 0) -> str:
    (found,) = tmp_path.glob(f"*/round_{number}/{local_rank}/stdout.log")
    return found.read_text()


def test_workers_that_end_well_make_a_success() -> None:
    handler = ScriptedHandler(round_info())

    result = agent(handler, "exit 0").run()

    assert (result.state, result.exit_code, result.failures) == (WorkerState.SUCCEEDED, 0, {})
    assert result.return_values == {0: None, 1: None}
    assert handler.calls == ["next_rendezvous", "report_success"]


def test_every_worker_is_told_its_place(tmp_path: Path) -> None:
    subject = agent(ScriptedHandler(round_info(number=4)), 'echo "$RANK $ROUND $MASTER"', logs=kept(tmp_path))

    subject.run()

    assert [output(tmp_path, rank, 4) for rank in range(2)] == ["0 4 node-a:4242\n", "1 4 node-a:4242\n"]
    group = subject.get_worker_group()
    assert (group.group_rank, group.group_world_size, group.state) == (0, 1, WorkerState.SUCCEEDED)
    assert [(w.global_rank, w.world_size) for w in group.workers] == [(0, 2), (1, 2)]


def test_the_spec_can_override_where_the_store_is(tmp_path: Path) -> None:
    spec = {"master_addr": "elsewhere", "master_port": 1}

    agent(ScriptedHandler(round_info()), "echo $MASTER", workers=1, logs=kept(tmp_path), **spec).run()

    assert output(tmp_path, 0) == "elsewhere:1\n"


def test_a_failed_worker_ends_all_and_its_code_is_the_result() -> None:
    handler = ScriptedHandler(round_info())

    result = agent(handler, f'[ "$RANK" = 1 ] && exit 42; {WAIT}').run()

    assert (result.state, result.exit_code) == (WorkerState.FAILED, 42)
    assert {rank: failure.exitcode for rank, failure in result.failures.items()} == {1: 42}
    assert handler.calls == ["next_rendezvous", "report_failure 42 final"]


def test_a_failure_within_the_budget_runs_another_round(tmp_path: Path) -> None:
    handler = ScriptedHandler(round_info(0), round_info(1))

    result = agent(
        handler, '[ "$ROUND" = 0 ] && kill -9 $$; echo $NODE_RESTARTS', max_restarts=1, workers=1, logs=kept(tmp_path)
    ).run()

    assert result.state is WorkerState.SUCCEEDED
    assert handler.calls == ["next_rendezvous", "report_failure -9 again", "next_rendezvous", "report_success"]
    assert output(tmp_path, 0, 1) == "1\n"


def test_what_a_worker_left_in_its_error_file_is_in_the_result() -> None:
    error = {"message": {"message": "ValueError: boom", "extraInfo": {"py_callstack": "Traceback", "timestamp": "1"}}}
    script = f"printf '%s' '{json.dumps(error)}' > \"$ERROR_FILE\"; exit 1"

    with observed() as events:
        result = agent(ScriptedHandler(round_info()), script, workers=1).run()

    assert result.failures[0].message == "ValueError: boom"
    assert "exit code 1: ValueError: boom; no restarts are allowed" in result.why
    assert [event.message for event in events if event.name == "agent.stopping"] == [result.why]


def test_the_last_lines_of_a_failed_workers_stderr_are_in_the_result(tmp_path: Path) -> None:
    result = agent(ScriptedHandler(round_info()), "echo deep trouble >&2; exit 3", workers=1, logs=kept(tmp_path)).run()

    assert result.failures[0].stderr_tail == ("deep trouble",)


def test_a_command_that_cannot_be_started_is_a_failure_by_name() -> None:
    handler = ScriptedHandler(round_info())

    result = agent(handler, "", entrypoint="/nonexistent/program").run()

    assert (result.state, result.exit_code) == (WorkerState.FAILED, 127)
    assert "/nonexistent/program" in result.why
    assert handler.calls == ["next_rendezvous", "report_failure 127 final"]


@contextmanager
def once_the_workers_run(tell: Callable[[], None]) -> Iterator[None]:
    waiting = [tell]

    def look(event: Event) -> None:
        if event.name == "agent.healthy" and waiting:
            waiting.pop()()

    subscribe(look)
    try:
        yield
    finally:
        unsubscribe(look)


def test_news_stop_the_workers_and_the_next_round_begins() -> None:
    handler = ScriptedHandler(round_info(0), round_info(1))

    with observed() as events, once_the_workers_run(lambda: handler.tell(RoundStatus.OVER, "node b joined")):
        result = agent(handler, f'[ "$ROUND" = 1 ] || {WAIT}').run()

    assert result.state is WorkerState.SUCCEEDED
    assert "round 0 is over: node b joined" in [event.message for event in events]


@pytest.mark.parametrize("status", [RoundStatus.OVER, RoundStatus.FENCED, RoundStatus.CUT_OFF])
def test_a_round_that_is_over_before_its_workers_are_started_starts_none(status: RoundStatus, tmp_path: Path) -> None:
    handler = ScriptedHandler(round_info(0), round_info(1))
    handler.tell(status, "node b joined")

    with observed() as events:
        result = agent(handler, f"echo $ROUND >> {tmp_path}/started", workers=1).run()

    assert (result.state, handler.calls) == (
        WorkerState.SUCCEEDED,
        ["next_rendezvous", "next_rendezvous", "report_success"],
    )
    assert (tmp_path / "started").read_text() == "1\n"
    assert "round 0 is over: node b joined" in [event.message for event in events]


def test_a_run_that_is_closed_elsewhere_ends_here() -> None:
    handler = ScriptedHandler(round_info())

    with once_the_workers_run(lambda: handler.tell(RoundStatus.CLOSED, "node b has no restarts left", "failed")):
        result = agent(handler, WAIT).run()

    assert (result.state, result.exit_code, result.failures) == (WorkerState.FAILED, 1, {})
    assert result.why == "the run has ended: node b has no restarts left"


def test_a_store_that_stays_away_ends_the_run() -> None:
    handler = ScriptedHandler(round_info())
    handler.troubles += [ConnectionError("gone")] * 100

    result = agent(handler, WAIT, store_patience_s=0.01).run()

    assert result.state is WorkerState.FAILED
    assert "the rendezvous does not answer: gone" in result.why


@pytest.mark.parametrize(
    ("error", "state", "exit_code"),
    [
        (RendezvousGracefulExitError("not needed"), WorkerState.SUCCEEDED, 0),
        (RendezvousClosedError("it ended", outcome="succeeded"), WorkerState.SUCCEEDED, 0),
        (RendezvousClosedError("it ended", outcome="failed"), WorkerState.FAILED, 1),
    ],
)
def test_a_node_that_is_not_admitted_ends_as_the_rendezvous_says(
    error: Exception, state: WorkerState, exit_code: int
) -> None:
    result = agent(ScriptedHandler(error), "exit 9").run()

    assert (result.state, result.exit_code, result.return_values) == (state, exit_code, {})


def test_a_handler_with_torchs_methods_only_is_served() -> None:
    class OneComes(ForeignHandler):
        def num_nodes_waiting(self) -> int:
            return 1 if len(self.calls) == 1 else 0

    handler = OneComes(round_info(), round_info())

    result = agent(handler, f'[ "$ROUND" = 1 ] || {WAIT}').run()

    assert result.state is WorkerState.SUCCEEDED
    assert handler.calls == ["next_rendezvous", "next_rendezvous"]


def test_an_agent_outside_the_main_thread_takes_no_signals() -> None:
    subject = agent(ScriptedHandler(round_info()), "exit 0", workers=1)
    results: list[RunResult] = []
    thread = threading.Thread(target=lambda: results.append(subject.run()))
    thread.start()
    thread.join(PATIENCE_S)

    assert [result.state for result in results] == [WorkerState.SUCCEEDED]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_workers_with_it_and_leaves(number: int, tmp_path: Path) -> None:
    name = signal.Signals(number).name.removeprefix("SIG")
    handler = ScriptedHandler(round_info())
    script = f"trap 'echo got {name}; exit 0' {name}; kill -{name} $PPID; while :; do sleep 1; done"

    result = agent(handler, script, workers=1, logs=kept(tmp_path)).run()

    assert (result.state, result.exit_code, result.signal_number) == (WorkerState.STOPPED, 128 + number, number)
    assert sorted(handler.calls) == [f"leave SIG{name} received", "next_rendezvous", f"report_going SIG{name} received"]
    assert output(tmp_path, 0) == f"got {name}\n"


def test_a_second_signal_kills_workers_that_take_their_time() -> None:
    handler = ScriptedHandler(round_info())
    script = "trap 'kill -TERM $PPID' TERM; kill -TERM $PPID; while :; do sleep 1; done"

    result = agent(handler, script, workers=1, grace_s=600.0).run()

    assert (result.state, result.exit_code) == (WorkerState.STOPPED, 143)


def test_a_stop_that_takes_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group, "SLOW_STOP_S", 0.1)
    told: list[str] = []

    def hear(event: Event) -> None:
        if "has not ended" in event.message:
            told.append(f"{event.name}: {event.message}")
            os.kill(os.getpid(), signal.SIGTERM)

    script = "trap '' TERM; kill -TERM $PPID; while :; do sleep 1; done"
    subscribe(hear)
    try:
        result = agent(ScriptedHandler(round_info()), script, workers=1, grace_s=600.0).run()
    finally:
        unsubscribe(hear)

    assert (result.state, result.exit_code, result.why) == (WorkerState.STOPPED, 143, "SIGTERM received")
    (line,) = told
    assert line.startswith("agent.stopping: worker 0 (pid ")
    assert "after SIGTERM, SIGKILL follows in " in line
    assert line.endswith("; a second SIGTERM kills at once")


def test_the_signal_handlers_of_before_are_back_after_the_run() -> None:
    before = signal.getsignal(signal.SIGTERM)

    agent(ScriptedHandler(round_info()), "exit 0", workers=1).run()

    assert signal.getsignal(signal.SIGTERM) is before


def test_a_negative_grace_is_refused() -> None:
    with pytest.raises(ValueError, match="workers get 0 seconds or more"):
        agent(ScriptedHandler(), "exit 0", grace_s=-1.0)


def test_a_run_is_recorded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("rallypoint.observe.records.is_heard", lambda _: True)
    monkeypatch.setattr("rallypoint.observe.records.record", lambda event, _: seen.append(event.name.split(".")[-1]))

    agent(ScriptedHandler(round_info(0), round_info(1)), '[ "$ROUND" = 1 ]', workers=1, max_restarts=1).run()

    once = ["RENDEZVOUS", "ASSIGN_WORKER_RANKS", "START"]
    assert seen == [*once, *once, "SUCCEEDED", "SUCCEEDED"]


def test_an_error_of_the_agent_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr("rallypoint.observe.records.is_heard", lambda _: True)
    monkeypatch.setattr("rallypoint.observe.records.record", lambda event, _: seen.append(event.name.split(".")[-1]))
    monkeypatch.setattr("rallypoint.agent.agent.Guard.start", lambda: 1 // 0)

    with pytest.raises(ZeroDivisionError):
        agent(ScriptedHandler(), "exit 0").run()
    assert seen == ["FAILED"]


def test_an_agent_that_has_run_lets_go_of_its_rendezvous_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    gc.collect()
    gc.disable()
    try:
        handler = ScriptedHandler(round_info())
        subject = agent(handler, "exit 0", workers=1)
        subject.run()
        gone = weakref.ref(subject)
        del subject

        assert gone() is None
    finally:
        gc.enable()
