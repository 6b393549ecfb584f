from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.agents import ScriptedHandler

from rallypoint.agent.failure import ProcessFailure
from rallypoint.agent.reporter import Reporter
from rallypoint.agent.spec import RunResult, WorkerGroup, WorkerSpec, WorkerState
from rallypoint.observe import metrics, records
from rallypoint.observe.metrics import MetricData, MetricHandler


class Heard(MetricHandler):
    """What a reporter records and puts."""

    def __init__(self) -> None:
        self.records: list[records.Event] = []
        self.metrics: list[tuple[str, float]] = []

    def emit(self, metric_data: MetricData) -> None:
        self.metrics.append((metric_data.name, metric_data.value))

    def names(self) -> list[tuple[str, str]]:
        return [(record.name.rpartition(".")[2], record.source.value) for record in self.records]


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    found = Heard()
    monkeypatch.setattr(records, "is_heard", lambda _: True)
    monkeypatch.setattr(records, "record", lambda event, destination: found.records.append(event))
    monkeypatch.setattr(metrics, "_HANDLERS", {None: found})
    return found


def reporter(workers: int = 2, **settings: Any) -> tuple[Reporter, WorkerGroup]:
    spec = WorkerSpec("trainer", workers, ScriptedHandler(), entrypoint=len, **{"max_restarts": 3} | settings)
    group = WorkerGroup(spec)
    group.group_rank, group.group_world_size = 1, 2
    for worker in group.workers:
        worker.id, worker.global_rank, worker.role_rank, worker.role_world_size = 900 + worker.local_rank, 4, 5, 6
        worker.global_rank += worker.local_rank
    return Reporter(group, 10.0), group


def test_a_start_of_eight_workers_is_ten_records(heard: Heard) -> None:
    subject, _ = reporter(8)

    subject.joining(11.0)
    subject.joined(11.5)
    subject.started(12.0, 0)

    assert heard.names() == [("RENDEZVOUS", "AGENT"), ("ASSIGN_WORKER_RANKS", "AGENT"), *[("START", "WORKER")] * 8]
    assert heard.records[0].metadata["duration_ms"] == 500
    assert heard.records[0].timestamp > 0


def test_a_record_says_all_about_its_worker(heard: Heard) -> None:
    subject, _ = reporter()

    subject.started(15.9, 2)

    metadata = dict(heard.records[1].metadata)
    details = json.loads(str(metadata.pop("metadata")))
    assert metadata == {
        "run_id": "run-7",
        "global_rank": 5,
        "group_rank": 1,
        "worker_id": "901",
        "role": "trainer",
        "hostname": records.host_name(),
        "state": "START",
        "total_run_time": 5,
        "rdzv_backend": "scripted",
        "raw_error": None,
        "agent_restarts": 2,
        "duration_ms": None,
    }
    assert details == {
        "group_world_size": 2,
        "entry_point": "len",
        "local_rank": [1],
        "role_rank": [5],
        "role_world_size": [6],
        "exit_code": [None],
        "worker_pid": [None],
    }


def test_a_success_is_recorded_once_for_each_worker_and_the_agent(heard: Heard) -> None:
    subject, _ = reporter()

    subject.ended(RunResult(WorkerState.SUCCEEDED), 20.0)

    assert heard.names() == [("SUCCEEDED", "WORKER"), ("SUCCEEDED", "WORKER"), ("SUCCEEDED", "AGENT")]


def test_a_failure_names_the_worker_that_failed_and_those_that_were_ended(heard: Heard) -> None:
    subject, _ = reporter()

    subject.ended(RunResult(WorkerState.FAILED, failures={5: ProcessFailure(1, 901, 3, "")}), 20.0)

    assert heard.names() == [("TERMINATED", "WORKER"), ("FAILED", "WORKER"), ("SUCCEEDED", "AGENT")]
    failed = heard.records[1].metadata
    details = json.loads(str(failed["metadata"]))
    assert (details["exit_code"], details["worker_pid"]) == ([3], [901])
    assert json.loads(str(failed["raw_error"])) == {"message": "<NONE>"}


def test_an_error_of_the_agent_is_recorded_with_its_traceback(heard: Heard) -> None:
    subject, _ = reporter()

    subject.broke(ValueError("boom"), 20.0)

    assert heard.names() == [("FAILED", "AGENT")]
    assert "ValueError: boom" in str(heard.records[0].metadata["raw_error"])
    assert heard.metrics == [("workers.trainer.flakiness", 100)]


def test_something_else_is_recorded_under_its_own_name(heard: Heard) -> None:
    subject, _ = reporter()

    subject.note("watchdog started", "", 11.0)

    assert heard.records[0].name == "watchdog started"


def test_each_state_is_put_once(heard: Heard) -> None:
    subject, _ = reporter()

    for state in (WorkerState.INIT, WorkerState.HEALTHY, WorkerState.HEALTHY, WorkerState.FAILED):
        subject.became(state, 1)

    assert heard.metrics == [
        ("workers.trainer.remaining_restarts", 2),
        ("workers.trainer.init", 1),
        ("workers.trainer.remaining_restarts", 2),
        ("workers.trainer.healthy", 1),
        ("workers.trainer.remaining_restarts", 2),
        ("workers.trainer.failed", 1),
    ]


@pytest.mark.parametrize(
    ("state", "used", "allowed", "flakiness", "kind"),
    [
        (WorkerState.SUCCEEDED, 0, 3, 0, "success_no"),
        (WorkerState.SUCCEEDED, 0, 0, 0, "success_no"),
        (WorkerState.SUCCEEDED, 7, 10, 63, "success_with"),
        (WorkerState.FAILED, 0, 0, 100, "failed_no"),
        (WorkerState.FAILED, 3, 3, 100, "failed_with"),
    ],
)
def test_the_sums_of_a_run(
    heard: Heard, state: WorkerState, used: int, allowed: int, flakiness: int, kind: str
) -> None:
    subject, _ = reporter(max_restarts=allowed)
    subject.started(11.0, used)

    subject.ended(RunResult(state), 20.0)

    put = {name.removeprefix("workers.trainer."): value for name, value in heard.metrics}
    assert put.pop("flakiness") == flakiness
    assert put.pop("run_total") == 1
    assert [name for name, value in put.items() if value] == [f"run_{kind}_retries"]
    assert len(put) == 4


def test_nothing_is_made_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def unexpected(*_: object) -> None:
        raise AssertionError("recorded for nobody")

    monkeypatch.setattr(records, "record", unexpected)
    monkeypatch.setitem(records._handlers, "unheard", logging.NullHandler())
    monkeypatch.setattr(records, "_loggers", {})
    subject, _ = reporter(event_log_handler="unheard")

    subject.started(11.0, 0)


def test_an_unknown_destination_is_refused_before_the_run() -> None:
    with pytest.raises(ValueError, match="event_log_handler: 'bogus' is no destination"):
        reporter(event_log_handler="bogus")
