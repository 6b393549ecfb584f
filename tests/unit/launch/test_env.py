from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.support.agents import ScriptedHandler

from rallypoint.agent.spec import WorkerPlace, WorkerSpec
from rallypoint.events import Event, subscribe, unsubscribe
from rallypoint.launch.env import (
    DeviceError,
    base_environment,
    environments,
    get_env_variable_or_raise,
    is_torchelastic_launched,
    worker_environment,
)

PLACE = WorkerPlace(
    run_id="run-7",
    round=3,
    node_rank=1,
    node_count=2,
    local_rank=1,
    local_world_size=2,
    rank=3,
    world_size=4,
    role="trainer",
    role_rank=3,
    role_world_size=4,
    master_addr="node-a",
    master_port=4242,
    use_agent_store=True,
    max_restarts=5,
    node_restarts=2,
    error_file="/logs/error.json",
)


@pytest.fixture
def events() -> Iterator[list[Event]]:
    seen: list[Event] = []
    subscribe(seen.append)
    yield seen
    unsubscribe(seen.append)


def test_a_worker_is_told_where_its_agent_speaks_c10d_only_and_not_where_another_does() -> None:
    base = base_environment({"RALLYPOINT_PLAIN_STORE": "127.0.0.1:1"}, 1)
    assert "RALLYPOINT_PLAIN_STORE" not in worker_environment(base, PLACE)
    plain = replace(PLACE, master_addr="127.0.0.1", is_store_plain=True)
    assert worker_environment(base, plain)["RALLYPOINT_PLAIN_STORE"] == "127.0.0.1:4242"


def test_a_worker_is_told_all_that_torch_tells_its_workers() -> None:
    assert worker_environment({}, PLACE) == {
        "LOCAL_RANK": "1",
        "RANK": "3",
        "GROUP_RANK": "1",
        "ROLE_RANK": "3",
        "ROLE_NAME": "trainer",
        "LOCAL_WORLD_SIZE": "2",
        "WORLD_SIZE": "4",
        "GROUP_WORLD_SIZE": "2",
        "ROLE_WORLD_SIZE": "4",
        "MASTER_ADDR": "node-a",
        "MASTER_PORT": "4242",
        "TORCHELASTIC_RESTART_COUNT": "3",
        "TORCHELASTIC_MAX_RESTARTS": "5",
        "TORCHELASTIC_RUN_ID": "run-7",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_ERROR_FILE": "/logs/error.json",
        "RALLYPOINT_ROUND": "3",
        "RALLYPOINT_NODE_RESTARTS": "2",
    }


def test_the_callers_environment_reaches_the_worker_and_cannot_hide_its_place() -> None:
    environment = worker_environment({"HOME": "/home/a", "RANK": "99"}, PLACE)

    assert environment["HOME"] == "/home/a"
    assert environment["RANK"] == "3"


def test_several_workers_get_one_thread_each_and_one_line_says_so(events: list[Event]) -> None:
    assert base_environment({}, 4)["OMP_NUM_THREADS"] == "1"
    assert [event.name for event in events] == ["launch.omp_threads"]


@pytest.mark.parametrize(("environ", "workers"), [({"OMP_NUM_THREADS": "8"}, 4), ({}, 1)])
def test_the_users_choice_of_threads_stays(environ: dict[str, str], workers: int, events: list[Event]) -> None:
    assert base_environment(environ, workers).get("OMP_NUM_THREADS") == environ.get("OMP_NUM_THREADS")
    assert events == []


def test_nccl_errors_are_asynchronous_unless_the_user_says_otherwise() -> None:
    name = "TORCH_NCCL_ASYNC_ERROR_HANDLING"

    assert base_environment({}, 1)[name] == "1"
    assert base_environment({name: "0"}, 1)[name] == "0"


def test_a_worker_knows_that_it_was_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert not is_torchelastic_launched()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run-7")
    assert is_torchelastic_launched()


def test_a_variable_that_is_needed_is_given_or_missed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEEDED", "yes")
    assert get_env_variable_or_raise("NEEDED") == "yes"
    monkeypatch.delenv("NEEDED")
    with pytest.raises(ValueError, match="NEEDED expected, but not set"):
        get_env_variable_or_raise("NEEDED")


def spec(**settings: bool) -> WorkerSpec:
    return WorkerSpec("trainer", 2, ScriptedHandler(), entrypoint="x", **settings)


def test_each_worker_sees_all_devices_unless_told() -> None:
    seen = environments({"CUDA_VISIBLE_DEVICES": "4,7"}, spec())(PLACE)

    assert (seen["LOCAL_RANK"], seen["CUDA_VISIBLE_DEVICES"], seen["OMP_NUM_THREADS"]) == ("1", "4,7", "1")


@pytest.mark.parametrize(("visible", "device"), [({"CUDA_VISIBLE_DEVICES": "4, 7,9"}, "7"), ({}, "1")])
def test_with_virtual_ranks_each_worker_sees_its_own_device_as_the_first(visible: dict[str, str], device: str) -> None:
    seen = environments(visible, spec(virtual_local_rank=True))(PLACE)

    assert (seen["LOCAL_RANK"], seen["CUDA_VISIBLE_DEVICES"]) == ("0", device)
    assert (seen["RANK"], seen["LOCAL_WORLD_SIZE"]) == ("3", "2")


def test_too_few_devices_for_virtual_ranks_are_refused() -> None:
    with pytest.raises(DeviceError, match=r"each of 2 workers .* CUDA_VISIBLE_DEVICES is '4'"):
        environments({"CUDA_VISIBLE_DEVICES": "4"}, spec(virtual_local_rank=True))
