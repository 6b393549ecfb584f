from __future__ import annotations

import functools
from typing import Any, cast

import pytest

from rallypoint.agent.spec import RunResult, WorkerGroup, WorkerSpec, WorkerState
from rallypoint.rendezvous.handler import RendezvousHandler

HANDLER = cast("RendezvousHandler", object())


def spec(**changes: Any) -> WorkerSpec:
    return WorkerSpec(
        **{"role": "trainer", "local_world_size": 2, "rdzv_handler": HANDLER, "entrypoint": "x"} | changes
    )


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"local_world_size": 0}, "local_world_size is 0; a node runs at least 1 worker"),
        ({"max_restarts": -1}, "max_restarts is -1; it must be 0 or more"),
        ({"monitor_interval": 0}, "monitor_interval is 0 s; it must be above 0"),
        ({"monitor_interval": float("nan")}, "monitor_interval is nan s; it must be above 0"),
        ({"entrypoint": ""}, "entrypoint is empty"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_in_a_sentence(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        spec(**changes)


@pytest.mark.parametrize(
    ("entrypoint", "name"), [(print, "print"), ("/opt/train", "train"), (functools.partial(print), "partial")]
)
def test_an_entrypoint_is_a_program_or_a_function(entrypoint: Any, name: str) -> None:
    assert spec(entrypoint=entrypoint).get_entrypoint_name() == name


def test_a_function_may_be_given_by_its_older_name() -> None:
    assert spec(entrypoint=None, fn=print).entrypoint is print


@pytest.mark.parametrize("both", [{"fn": "/opt/train", "entrypoint": None}, {"fn": print, "entrypoint": "/opt/train"}])
def test_a_program_is_no_function(both: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="give one of them"):
        spec(**both)


def test_an_entrypoint_is_nothing_else() -> None:
    with pytest.raises(TypeError, match="entrypoint is a int; give a program's path, or a function"):
        spec(entrypoint=7)


def test_what_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="numa_options cannot be set"):
        spec(numa_options=object())


def test_a_new_group_has_one_unplaced_worker_for_each_local_rank() -> None:
    group = WorkerGroup(spec(local_world_size=3))

    assert group.state is WorkerState.INIT
    assert [worker.local_rank for worker in group.workers] == [0, 1, 2]
    assert {(w.global_rank, w.role_rank, w.world_size, w.role_world_size, w.id) for w in group.workers} == {
        (-1, -1, -1, -1, None)
    }


def test_only_healthy_and_unhealthy_workers_run() -> None:
    assert {state for state in WorkerState if WorkerState.is_running(state)} == {
        WorkerState.HEALTHY,
        WorkerState.UNHEALTHY,
    }


@pytest.mark.parametrize("state", list(WorkerState))
def test_anything_but_success_is_a_failure(state: WorkerState) -> None:
    assert RunResult(state).is_failed() is (state is not WorkerState.SUCCEEDED)
