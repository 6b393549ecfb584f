from __future__ import annotations

import json
import threading

import pytest

from rallypoint.agent.places import NodeWorkers, Ranks, agree_on_ranks, number_workers
from rallypoint.errors import RendezvousStateError, RendezvousTimeoutError
from rallypoint.store.hash import HashStore


def always() -> bool:
    return True


def test_equal_nodes_of_one_role_are_numbered_in_order() -> None:
    assert number_workers([NodeWorkers("trainer", 2)] * 3) == [
        Ranks(0, 6, 0, 6),
        Ranks(2, 6, 2, 6),
        Ranks(4, 6, 4, 6),
    ]


def test_ranks_are_consecutive_overall_and_within_each_role() -> None:
    nodes = [NodeWorkers("trainer", 1), NodeWorkers("reader", 2), NodeWorkers("trainer", 3), NodeWorkers("reader", 4)]

    assert number_workers(nodes) == [Ranks(0, 10, 0, 4), Ranks(1, 10, 0, 6), Ranks(3, 10, 1, 4), Ranks(6, 10, 2, 6)]


def test_a_single_node_asks_nobody() -> None:
    store = HashStore()

    ranks = agree_on_ranks(store, 0, 1, NodeWorkers("trainer", 4), is_current=always)

    assert ranks == Ranks(0, 4, 0, 4)
    assert store.num_keys() == 0


def test_nodes_of_different_sizes_agree_through_the_store() -> None:
    store = HashStore()
    sizes, agreed = [2, 1, 3], {}

    def join(rank: int) -> None:
        agreed[rank] = agree_on_ranks(store, rank, 3, NodeWorkers("trainer", sizes[rank]), is_current=always)

    nodes = [threading.Thread(target=join, args=(rank,)) for rank in range(3)]
    for node in nodes:
        node.start()
    for node in nodes:
        node.join(30)

    assert agreed == {0: Ranks(0, 6, 0, 6), 1: Ranks(2, 6, 2, 6), 2: Ranks(3, 6, 3, 6)}


def test_what_travels_is_what_torch_agents_read_and_write() -> None:
    store = HashStore()
    store.set("torchelastic/role_info/1", '{"role": "trainer", "rank": 1, "local_world_size": 2}')

    agree_on_ranks(store, 0, 2, NodeWorkers("trainer", 1), is_current=always)

    assert json.loads(store.get("torchelastic/role_info/0")) == {"role": "trainer", "rank": 0, "local_world_size": 1}
    assert json.loads(store.get("torchelastic/assigned_ranks/1")) == [1, 3, 1, 3]


def test_a_round_that_ends_meanwhile_is_given_up() -> None:
    assert agree_on_ranks(HashStore(), 1, 2, NodeWorkers("trainer", 1), is_current=lambda: False) is None


def test_a_silent_node_is_named_when_the_time_is_up() -> None:
    with pytest.raises(RendezvousTimeoutError, match="missing: torchelastic/role_info/1") as caught:
        agree_on_ranks(HashStore(), 0, 2, NodeWorkers("trainer", 1), is_current=always, timeout_s=0.01)

    assert (caught.value.arrived, caught.value.expected) == (1, 2)


@pytest.mark.parametrize(
    ("rank", "key", "value"),
    [
        (0, "torchelastic/role_info/1", b"\x80\x04."),
        (0, "torchelastic/role_info/1", b"{}"),
        (1, "torchelastic/assigned_ranks/1", b"[1, 2, 3]"),
        (1, "torchelastic/assigned_ranks/1", b"7"),
    ],
)
def test_what_cannot_be_read_is_named(rank: int, key: str, value: bytes) -> None:
    store = HashStore()
    store.set(key, value)

    with pytest.raises(RendezvousStateError, match=key):
        agree_on_ranks(store, rank, 2, NodeWorkers("trainer", 1), is_current=always)
