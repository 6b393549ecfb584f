"""torch's FileStore and ours on one file in one process: what each writes, counts and removes."""

from __future__ import annotations

import gc
import threading
from datetime import timedelta

import pytest
from tests.support.torch_peers import torch_dist

from rallypoint.errors import BarrierTimeoutError, CorruptStoreError
from rallypoint.primitives.barrier import barrier
from rallypoint.primitives.exchange import synchronize
from rallypoint.store.bootstrap import store_timeout
from rallypoint.store.file import FileStore
from rallypoint.store.hash import HashStore
from rallypoint.store.prefix import PrefixStore

LONG_S = 30.0


def ours(path, world_size=2):
    return FileStore(str(path), world_size)


def torchs(path, world_size=2):
    store = torch_dist.FileStore(str(path), world_size)
    store.set_timeout(timedelta(seconds=LONG_S))
    return store


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


def work(store):
    store.set("k", b"v\x00\xff")
    store.set("k", "w")
    store.add("n", 5)
    store.add("n", -7)
    store.compare_set("c", "", "1")
    store.compare_set("c", "wrong", "2")
    store.compare_set("c", "1", "2")
    store.compare_set("absent", "something", "2")
    store.append("a", "x")
    store.append("a", "y")
    store.delete_key("k")
    store.set("", "empty key")
    store.multi_set(["m1", "m2"], ["1", "2"])


def test_the_same_work_writes_the_same_bytes(tmp_path):
    files = []
    for name, make in (("ours", ours), ("torchs", torchs)):
        store = make(tmp_path / name, -1)
        work(store)
        del store
        gc.collect()
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]


@pytest.mark.parametrize(("writer", "reader"), [(ours, torchs), (torchs, ours)])
def test_each_reads_what_the_other_writes(path, writer, reader):
    first, second = writer(path), reader(path)
    work(first)
    assert [second.get(key) for key in ("n", "c", "a", "", "m1", "m2")] == [
        b"-2",
        b"2",
        b"xy",
        b"empty key",
        b"1",
        b"2",
    ]
    assert second.check(["n"])
    assert not second.check(["k"])
    assert not second.check(["absent"])
    assert first.num_keys() == second.num_keys() == 7
    assert second.add("n", 3) == first.add("n", 0) == 1


@pytest.mark.parametrize("order", [(ours, torchs), (torchs, ours)])
def test_the_last_of_both_removes_the_file_and_not_before(path, order):
    first, second = order[0](path), order[1](path)
    second.set("k", "v")
    del first
    gc.collect()
    assert path.exists()
    assert second.get("k") == b"v"
    del second
    gc.collect()
    assert not path.exists()


@pytest.mark.parametrize(("waiter", "setter"), [(ours, torchs), (torchs, ours)])
def test_a_waiter_of_one_is_released_by_the_other(path, waiter, setter):
    first, second = waiter(path), setter(path)
    results = []
    thread = threading.Thread(target=lambda: results.append(first.get("k")))
    thread.start()
    second.set("k", "v")
    thread.join(LONG_S)
    assert results == [b"v"]


def test_a_torn_record_of_torch_is_named(path):
    store = torchs(path, -1)
    store.set("k", "v" * 100)
    del store
    gc.collect()
    data = path.read_bytes()
    begin = data.index(b"\x02\x00\x00\x00/k")
    path.write_bytes(data[: begin + 50])
    with pytest.raises(CorruptStoreError) as caught:
        ours(path)
    assert (caught.value.path, caught.value.offset) == (str(path), begin)


# --- the primitives on torch's own store objects, and beside torch's own primitives ----------------------


def members(calls):
    outcomes = {}

    def run(number, call):
        try:
            outcomes[number] = call()
        except RuntimeError as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=each) for each in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
        assert not thread.is_alive()
    return [outcomes[number] for number in range(len(calls))]


@pytest.fixture(params=["FileStore", "HashStore"])
def torch_store(request, path):
    store = torchs(path, 1) if request.param == "FileStore" else torch_dist.HashStore()
    store.set_timeout(timedelta(seconds=LONG_S))
    return store


def name(rank):
    return f"node{rank}"


def test_our_barrier_works_again_and_again_on_torchs_stores(torch_store):
    for _ in range(4):
        passed = members([lambda rank=rank: barrier(torch_store, 3, "p", LONG_S, rank, name) for rank in range(3)])
        assert passed == [None] * 3
    assert torch_store.timeout == timedelta(seconds=LONG_S)


def test_our_barrier_on_torchs_stores_names_the_missing_and_can_be_tried_again(torch_store):
    errors = members([lambda rank=rank: barrier(torch_store, 3, "p", 0.5, rank, name) for rank in (1, 2)])
    assert all(isinstance(error, BarrierTimeoutError) for error in errors)
    assert [error.missing for error in errors] == [("node0",)] * 2
    passed = members([lambda rank=rank: barrier(torch_store, 3, "p", LONG_S, rank, name) for rank in range(3)])
    assert passed == [None] * 3


def test_our_members_and_torchs_pass_one_barrier(torch_store):
    from torch.distributed.elastic.utils.store import barrier as torchs_barrier

    prefix = PrefixStore("p", torch_store)
    torchs_prefix = torch_dist.PrefixStore("p", torch_store)
    passed = members(
        [
            lambda: barrier(prefix, 4, "b", LONG_S, 0, name),
            lambda: torchs_barrier(torchs_prefix, 4, "b", LONG_S, 1, name),
            lambda: barrier(prefix, 4, "b", LONG_S),
            lambda: torchs_barrier(torchs_prefix, 4, "b", LONG_S),
        ]
    )
    assert passed == [None] * 4


def test_our_members_and_torchs_that_time_out_together_all_learn_who_is_missing():
    from torch.distributed.elastic.utils.store import barrier as torchs_barrier

    store = torch_dist.HashStore()
    first, second, third = members(
        [
            lambda: barrier(PrefixStore("", store), 4, "b", 0.5, 0, name, 10),
            lambda: torchs_barrier(torch_dist.PrefixStore("", store), 4, "b", 0.5, 1, name, 10),
            lambda: barrier(PrefixStore("", store), 4, "b", 0.5, 2, name, 10),
        ]
    )
    assert "missing_ranks=[node3]" in str(first)
    assert "check rank 0 (node0) for missing rank info" in str(second)
    assert "missing_ranks=[node3]" in str(third)


def test_torchs_rank_0_finds_our_members():
    from torch.distributed.elastic.utils.store import barrier as torchs_barrier

    store = torch_dist.HashStore()
    first, second = members(
        [
            lambda: torchs_barrier(store, 3, "b", 0.5, 0, name, 2),
            lambda: barrier(store, 3, "b", 0.5, 1, name, 2),
        ]
    )
    assert "missing_ranks=[node2]" in str(first)
    assert "missing_ranks=[node2]" in str(second)


def test_our_members_and_torchs_exchange(torch_store):
    from torch.distributed.elastic.utils.store import synchronize as torchs_synchronize

    calls = [
        (torchs_synchronize if rank % 2 else synchronize, torch_store, f"from {rank}", rank, 4, "x")
        for rank in range(4)
    ]
    results = members([lambda call=call: call[0](*call[1:]) for call in calls])
    assert [[bytes(value) for value in values] for values in results] == [[f"from {r}".encode() for r in range(4)]] * 4


def test_our_prefix_over_torchs_store_is_torchs_prefix_over_it(torch_store):
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
    assert isinstance(HashStore().timeout, timedelta)
