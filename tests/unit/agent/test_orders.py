from __future__ import annotations

import pytest
from tests.support.agents import ScriptedHandler, round_info

from rallypoint.agent.membership import Joined
from rallypoint.agent.moves import StartWorkers
from rallypoint.agent.orders import place_of, program_of, take_places
from rallypoint.agent.places import Ranks
from rallypoint.agent.spec import WorkerGroup, WorkerSpec
from rallypoint.rendezvous.handler import RendezvousInfo, RendezvousStoreInfo
from rallypoint.store.hash import HashStore

HANDLER = ScriptedHandler()


def joined() -> Joined:
    return Joined(round_info(number=4, rank=1, count=2), 4, Ranks(2, 6, 3, 5))


def test_a_group_takes_the_places_that_the_rendezvous_settled() -> None:
    group = WorkerGroup(WorkerSpec("trainer", 2, HANDLER, entrypoint="train"))

    take_places(group, joined())

    assert (group.group_rank, group.group_world_size) == (1, 2)
    assert (group.master_addr, group.master_port) == ("node-a", 4242)
    assert [(w.global_rank, w.role_rank, w.world_size, w.role_world_size) for w in group.workers] == [
        (2, 3, 6, 5),
        (3, 4, 6, 5),
    ]


def test_the_spec_overrides_where_the_workers_store_is() -> None:
    group = WorkerGroup(WorkerSpec("trainer", 1, HANDLER, entrypoint="train", master_addr="b", master_port=1))

    take_places(group, joined())

    assert (group.master_addr, group.master_port) == ("b", 1)


@pytest.mark.parametrize(("address", "is_plain"), [(None, True), ("b", False)])
def test_whether_the_agents_own_store_is_plain_is_told_unless_another_is_named(
    address: str | None, is_plain: bool
) -> None:
    info = RendezvousInfo(HashStore(), 0, 1, RendezvousStoreInfo("127.0.0.1", 4242), is_store_plain=True)
    group = WorkerGroup(WorkerSpec("trainer", 1, HANDLER, entrypoint="train", master_addr=address))

    take_places(group, Joined(info, 0, Ranks(0, 1, 0, 1)))

    assert place_of(group, 0, StartWorkers(0, 0), "/e").is_store_plain is is_plain


def test_a_worker_is_told_its_place() -> None:
    group = WorkerGroup(WorkerSpec("trainer", 2, HANDLER, entrypoint="train", max_restarts=3))
    take_places(group, joined())

    place = place_of(group, 1, StartWorkers(round=4, restarts_used=2), "/e")

    assert (place.run_id, place.role, place.local_rank, place.rank, place.world_size) == ("run-7", "trainer", 1, 3, 6)
    assert (place.round, place.node_restarts, place.max_restarts, place.error_file) == (4, 2, 3, "/e")
    assert (place.node_rank, place.node_count, place.local_world_size) == (1, 2, 2)


def test_a_program_and_a_function_are_told_apart() -> None:
    assert program_of(WorkerSpec("r", 1, HANDLER, entrypoint="sh", args=("-c", 1)), "spawn") == (
        ("sh", "-c", "1"),
        None,
    )

    argv, call = program_of(WorkerSpec("r", 1, HANDLER, fn=len, args=("ab",)), "fork")

    assert argv == ("len",)
    assert call is not None
    assert (call.function, call.args, call.start_method) == (len, ("ab",), "fork")
