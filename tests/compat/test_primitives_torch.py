"""Our barriers and exchanges on torch's own store objects, and beside torch's own barriers and exchanges."""

from __future__ import annotations

from datetime import timedelta

import pytest
from tests.support.threads import together
from tests.support.torch_peers import torch_client, torch_dist

from rallypoint.errors import BarrierTimeoutError
from rallypoint.primitives.barrier import Barrier, barrier
from rallypoint.primitives.election import Election
from rallypoint.primitives.exchange import exchange, synchronize
from rallypoint.primitives.lock import Lock
from rallypoint.store.bootstrap import store_timeout
from rallypoint.store.prefix import PrefixStore
from rallypoint.store.tcp import TCPStore

LONG_S = 30.0


@pytest.fixture
def port():
    with TCPStore("127.0.0.1", 0, is_master=True, timeout=LONG_S, server="thread") as server:
        yield server.port


@pytest.fixture
def torch_stores(port):
    """Torch's stores, one a member: such a store has one timeout for all its users."""
    return [torch_client(port, LONG_S) for _ in range(4)]


@pytest.fixture(params=["auto", "c10d"])
def our_stores(port, request):
    stores = [TCPStore("127.0.0.1", port, timeout=LONG_S, dialect=request.param) for _ in range(4)]
    yield stores
    for store in stores:
        store.close()


def name(rank):
    return f"node{rank}"


@pytest.mark.parametrize("shared", [True, False])
def test_our_barrier_works_again_and_again_on_torchs_stores(torch_stores, shared):
    stores = [torch_dist.HashStore()] * 3 if shared else torch_stores[:3]
    before = stores[0].timeout
    for _ in range(4):
        passed = together(*(lambda rank=rank: barrier(stores[rank], 3, "p", LONG_S, rank, name) for rank in range(3)))
        assert passed == [None] * 3
    assert [store.timeout for store in stores] == [before] * 3


@pytest.mark.parametrize("shared", [True, False])
def test_our_barrier_on_torchs_stores_names_the_missing_and_can_be_tried_again(torch_stores, shared):
    stores = [torch_dist.HashStore()] * 3 if shared else torch_stores[:3]
    errors = together(*(lambda rank=rank: barrier(stores[rank], 3, "p", 0.5, rank, name) for rank in (1, 2)))
    assert all(isinstance(error, BarrierTimeoutError) for error in errors)
    assert [error.missing for error in errors] == [("node0",)] * 2
    passed = together(*(lambda rank=rank: barrier(stores[rank], 3, "p", LONG_S, rank, name) for rank in range(3)))
    assert passed == [None] * 3


def test_our_members_and_torchs_pass_one_barrier(torch_stores, our_stores):
    from torch.distributed.elastic.utils.store import barrier as torchs_barrier

    our_views = [PrefixStore("p", store) for store in our_stores]
    their_views = [torch_dist.PrefixStore("p", store) for store in torch_stores]
    passed = together(
        lambda: barrier(our_views[0], 4, "b", LONG_S, 0, name),
        lambda: torchs_barrier(their_views[1], 4, "b", LONG_S, 1, name),
        lambda: barrier(our_views[2], 4, "b", LONG_S),
        lambda: torchs_barrier(their_views[3], 4, "b", LONG_S),
    )
    assert passed == [None] * 4


def test_our_members_and_torchs_that_time_out_together_all_learn_who_is_missing(torch_stores, our_stores):
    from torch.distributed.elastic.utils.store import barrier as torchs_barrier

    first, second, third = together(
        lambda: barrier(our_stores[0], 4, "b", 2.0, 0, name, 10),
        lambda: torchs_barrier(torch_stores[1], 4, "b", 2.0, 1, name, 10),
        lambda: barrier(our_stores[2], 4, "b", 2.0, 2, name, 10),
    )
    assert "missing_ranks=[node3]" in str(first)
    assert "check rank 0 (node0) for missing rank info" in str(second)
    assert "missing_ranks=[node3]" in str(third)


def test_torchs_rank_0_finds_our_members(torch_stores, our_stores):
    from torch.distributed.elastic.utils.store import barrier as torchs_barrier

    first, second = together(
        lambda: torchs_barrier(torch_stores[0], 3, "b", 2.0, 0, name, 2),
        lambda: barrier(our_stores[1], 3, "b", 2.0, 1, name, 2),
    )
    assert "missing_ranks=[node2]" in str(first)
    assert "missing_ranks=[node2]" in str(second)


def test_our_members_and_torchs_exchange(torch_stores, our_stores):
    from torch.distributed.elastic.utils.store import synchronize as torchs_synchronize

    results = together(
        lambda: synchronize(our_stores[0], "from 0", 0, 4, "x"),
        lambda: torchs_synchronize(torch_stores[1], "from 1", 1, 4, "x"),
        lambda: synchronize(torch_stores[2], "from 2", 2, 4, "x"),
        lambda: torchs_synchronize(torch_stores[3], "from 3", 3, 4, "x"),
    )
    assert [[bytes(value) for value in values] for values in results] == [[f"from {r}".encode() for r in range(4)]] * 4


def test_our_prefix_over_torchs_store_is_torchs_prefix_over_it():
    torch_store = torch_dist.HashStore()
    our_view, their_view = PrefixStore("p", torch_store), torch_dist.PrefixStore("p", torch_store)
    our_view.set("k", "v")
    our_view.multi_set(["a", "b"], ["1", "2"])
    our_view.append("a", "x")
    assert their_view.multi_get(["k", "a", "b"]) == [b"v", b"1x", b"2"]
    their_view.set("t", "w")
    assert our_view.multi_get(["t", "k"]) == [b"w", b"v"]
    assert our_view._underlying_non_prefix_store is torch_store
    assert PrefixStore("q", their_view)._underlying_non_prefix_store is torch_store


def test_a_timeout_on_torchs_store_is_put_back():
    store = torch_dist.HashStore()
    store.set_timeout(timedelta(seconds=60))
    with pytest.raises(RuntimeError, match="imeout"), store_timeout(PrefixStore("p", store), 0.05):
        PrefixStore("p", store).get("missing")
    assert store.timeout == timedelta(seconds=60)


@pytest.mark.parametrize("shared", [True, False])
def test_our_primitives_work_on_torchs_stores(torch_stores, shared):
    stores = [torch_dist.HashStore()] * 3 if shared else torch_stores[:3]
    tokens = []

    def work(rank):
        lock = Lock(stores[rank], "L", label=name(rank), ttl=2.0)
        for _ in range(3):
            with lock:
                tokens.append(lock.token)
        with Barrier(stores[rank], "B", rank, 3, ttl=2.0) as barrier_of_ours:
            assert [barrier_of_ours.wait(LONG_S) for _ in range(3)] == [1, 2, 3]
        return exchange(stores[rank], "X", rank, 3, str(rank), timeout=LONG_S)

    assert together(*(lambda rank=rank: work(rank) for rank in range(3))) == [[b"0", b"1", b"2"]] * 3
    assert tokens == sorted(set(tokens))
    election = Election(stores[0], "E", label="a")
    token = election.campaign(LONG_S)
    assert Election(stores[1], "E").leader() == ("a", token)
    election.resign()
