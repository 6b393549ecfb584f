"""torch's FileStore and ours on one file in one process: what each writes, counts and removes."""

from __future__ import annotations

import gc
import threading
from datetime import timedelta

import pytest
from tests.support.torch_peers import torch_dist

from rallypoint.errors import CorruptStoreError
from rallypoint.store.file import FileStore

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
