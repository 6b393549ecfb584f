from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator

import pytest

from rallypoint import events
from rallypoint.observe import records
from rallypoint.observe.records import (
    Event,
    EventSource,
    NodeState,
    RdzvEvent,
    construct_and_record_rdzv_event,
    get_logger_of,
    get_logging_handler,
    host_name,
    is_heard,
    record,
    record_rdzv_event,
    register_handler,
)


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(json.loads(record.getMessage()))


@pytest.fixture(autouse=True)
def _own_destinations(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(records, "_handlers", dict(records._handlers))
    monkeypatch.setattr(records, "_loggers", {})
    handlers = {name: list(get_logger_of(name).handlers) for name in records._handlers}
    yield
    events.unsubscribe(records._record_rendezvous)
    for name in records._loggers:
        logging.getLogger(f"torchelastic-events-{name}").handlers[:] = handlers.get(name, [])


EVENT = Event("n", EventSource.WORKER, 7, {"a": 1, "b": None, "c": "t", "d": True})
RDZV = RdzvEvent("n", "r", "m", "h", 3, NodeState.FAILED, "ep", 2, 1, "trace")


def test_records_are_json_and_can_be_read_again() -> None:
    assert json.loads(str(EVENT)) == {
        "name": "n",
        "source": "WORKER",
        "timestamp": 7,
        "metadata": {"a": 1, "b": None, "c": "t", "d": True},
    }
    assert Event.deserialize(str(EVENT)) == EVENT
    assert Event.deserialize(EVENT) is EVENT
    assert RdzvEvent.deserialize(str(RDZV)) == RDZV
    assert RdzvEvent.deserialize(RDZV) is RDZV


def test_a_destination_has_a_logger_of_its_own() -> None:
    logger = get_logger_of("console")

    assert (logger.name, logger.level, logger.propagate) == ("torchelastic-events-console", logging.INFO, False)
    assert get_logging_handler("console") in logger.handlers
    assert get_logger_of("console") is logger


def test_an_unknown_destination_is_named() -> None:
    with pytest.raises(KeyError, match="'bogus' is no destination of records; there are console"):
        record(EVENT, "bogus")


def test_a_destination_can_be_added_and_changed() -> None:
    first, second = Kept(), Kept()

    register_handler("mine", first)
    record(EVENT, "mine")
    register_handler("mine", second)
    record(EVENT, "mine")

    assert len(first.lines) == len(second.lines) == 1


def test_whether_anybody_listens_is_known() -> None:
    register_handler("quiet", logging.NullHandler())  # pytest itself listens to loggers that are there already
    assert not is_heard("quiet")
    assert is_heard("console")

    get_logger_of("quiet").addHandler(Kept())

    assert is_heard("quiet")


def test_a_record_of_a_rendezvous_is_made_for_listeners_only() -> None:
    construct_and_record_rdzv_event("run", "m", NodeState.INIT)
    register_handler("dynamic_rendezvous", kept := Kept())

    construct_and_record_rdzv_event("run", "m", NodeState.RUNNING, rank=3)
    record_rdzv_event(RDZV)

    assert kept.lines[0] == {
        "name": "rendezvous.running",
        "run_id": "run",
        "message": "m",
        "hostname": host_name(),
        "pid": os.getpid(),
        "node_state": "RUNNING",
        "master_endpoint": "",
        "rank": 3,
        "local_id": None,
        "error_trace": "",
    }
    assert kept.lines[1] == json.loads(str(RDZV))


def test_a_failure_is_recorded_with_its_traceback() -> None:
    register_handler("dynamic_rendezvous", kept := Kept())
    try:
        int("boom")
    except ValueError:
        construct_and_record_rdzv_event("run", "m", NodeState.FAILED)

    assert "ValueError: invalid literal" in str(kept.lines[0]["error_trace"])


def test_what_a_rendezvous_tells_is_recorded() -> None:
    register_handler("dynamic_rendezvous", kept := Kept())

    events.emit("rendezvous.join", "1 of 2 nodes, waiting for 1", run_id="run", rank=1)
    events.emit("rendezvous.joined", "2 of 2 nodes", run_id="run")
    events.emit("agent.healthy", "not of a rendezvous")

    assert [(line["name"], line["node_state"], line["run_id"], line["rank"]) for line in kept.lines] == [
        ("rendezvous.join", "INIT", "run", 1),
        ("rendezvous.joined", "SUCCEEDED", "run", None),
    ]
