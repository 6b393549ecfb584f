"""FileStore, by itself; beside torch's it is tested in tests/compat."""

from __future__ import annotations

import gc
import threading
from datetime import timedelta

import pytest

from rallypoint import events
from rallypoint.clock import Deadline
from rallypoint.errors import DistStoreError, StoreTimeoutError
from rallypoint.store.file import FileStore
from rallypoint.testing import store_checks

LONG_S = 30.0


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.mark.parametrize("check", store_checks(), ids=str)
def test_it_behaves_as_a_store(check, path):
    check.run(lambda: FileStore(str(path), 1))


def test_the_path_is_what_was_given_and_survives_a_change_of_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with FileStore("store", 1) as store:
        assert store.path == "store"
        assert repr(store) == "FileStore('store', world_size=1)"
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        store.set("k", "v")
        with store.clone() as clone:
            assert clone.get("k") == b"v"
    assert not (tmp_path / "store").exists()


def test_an_existing_empty_file_and_a_path_object_will_do(path):
    path.touch()
    with FileStore(path) as store:
        store.set("k", "v")
        assert store.path == str(path)
    assert path.exists()


def test_six_keys_are_counted_after_five_were_set(path):
    with FileStore(str(path), 1) as store:
        for number in range(5):
            store.set(f"key{number}", "v")
        assert store.num_keys() == 6
        assert sorted(store.list_keys()) == [f"key{number}" for number in range(5)]


def test_collecting_the_last_of_several_stores_removes_the_file(path):
    first, second = FileStore(str(path), 1), FileStore(str(path), 1)
    third = second.clone()
    first.set("k", "v")
    del first
    gc.collect()
    assert path.exists()
    del second
    gc.collect()
    assert third.get("k") == b"v"
    del third
    gc.collect()
    assert not path.exists()


def test_without_a_world_size_the_file_stays_and_its_next_user_is_told(path):
    seen = []
    events.subscribe(seen.append)
    try:
        with FileStore(str(path)) as store:
            store.set("k", "v")
        assert seen == []
        with FileStore(str(path)) as store:
            assert store.get("k") == b"v"
    finally:
        events.unsubscribe(seen.append)
    assert [event.name for event in seen] == ["store.file_reused"]
    assert "the keys in it (1) are theirs" in seen[0].message


def test_a_missing_directory_fails_at_once_although_the_timeout_is_long(tmp_path):
    deadline = Deadline(LONG_S)
    with pytest.raises(DistStoreError, match="No such file or directory"):
        FileStore(str(tmp_path / "missing" / "store"), 1)
    assert not deadline.has_passed()
    with pytest.raises(DistStoreError, match="Is a directory"):
        FileStore(str(tmp_path), 1)


def test_a_closed_store_says_so(path):
    store = FileStore(str(path), 1)
    store.close()
    store.close()
    with pytest.raises(DistStoreError, match="closed"):
        store.set("k", "v")


def test_a_get_that_times_out_names_key_milliseconds_and_file(path):
    with FileStore(str(path), 1) as store:
        store.set_timeout(0.05)
        deadline = Deadline(0.05)
        with pytest.raises(StoreTimeoutError) as caught:
            store.get("zz")
    assert deadline.has_passed()
    assert str(caught.value) == f"Timeout waiting for key: zz after 50 ms (1 of 1 missing in {path})"
    assert (caught.value.keys, caught.value.missing) == (("zz",), ("zz",))
    assert caught.value.waited_s >= 0.05


def test_a_wait_that_times_out_names_the_missing_keys_only(path):
    with FileStore(str(path), 1) as store:
        store.set("there", "")
        with pytest.raises(
            StoreTimeoutError, match=r"Wait timeout for keys: a, b after 0 ms \(2 of 3 missing"
        ) as caught:
            store.wait(["a", "there", "b"], 0)
    assert caught.value.missing == ("a", "b")


def test_a_waiter_sees_a_key_in_a_file_that_was_recreated(path):
    with FileStore(str(path), 2) as store:
        store.set_timeout(LONG_S)
        results = []
        thread = threading.Thread(target=lambda: results.append(store.get("k")))
        thread.start()
        path.unlink()
        with FileStore(str(path), 2) as other:
            other.set("k", "v")
            thread.join(LONG_S)
    assert results == [b"v"]


def test_a_clone_has_a_timeout_of_its_own(path):
    with FileStore(str(path), 1) as store:
        store.set_timeout(5)
        with store.clone() as clone:
            store.set_timeout(6)
            assert (clone.timeout, store.timeout) == (timedelta(seconds=5), timedelta(seconds=6))


def test_there_are_no_queues(path):
    with FileStore(str(path), 1) as store, pytest.raises(NotImplementedError, match="queue support is not implemented"):
        store.queue_push("q", "v")


def test_a_counter_that_is_no_number_is_refused_and_kept(path):
    with FileStore(str(path), 1) as store:
        store.set("n", "many")
        with pytest.raises(DistStoreError, match="not the decimal text"):
            store.add("n", 1)
        assert store.get("n") == b"many"
        store.set("n", "")
        assert store.add("n", 2) == 2
        with pytest.raises(TypeError):
            store.add("n", 1.5)
