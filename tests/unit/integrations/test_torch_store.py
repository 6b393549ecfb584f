"""Stores of ours as torch's: verbs, time, errors, life. Real groups are in tests/compat/test_torch_groups.py."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from tests.support.torch_peers import torch_dist

from rallypoint.errors import ConnectTimeoutError, StoreTimeoutError
from rallypoint.integrations import torch_store as module
from rallypoint.integrations.torch_store import as_torch_store, torchs_errors
from rallypoint.store.base import Store
from rallypoint.store.file import FileStore
from rallypoint.store.hash import HashStore
from rallypoint.store.prefix import PrefixStore
from rallypoint.store.tcp import TCPStore

JOIN_S = 60


@pytest.fixture
def store() -> HashStore:
    return HashStore()


@pytest.fixture
def adapter(store: HashStore) -> Iterator[Any]:
    adapter = as_torch_store(store)
    yield adapter
    adapter.close()


def through_cpp(adapter: Any) -> Any:
    """Give a store of torch's whose every call comes to the adapter by way of C++."""
    return torch_dist.PrefixStore("p", adapter)


# --- verbs -----------------------------------------------------------------------------------------------


def test_it_is_a_store_of_torchs(adapter: Any) -> None:
    assert isinstance(adapter, torch_dist.Store)
    assert repr(adapter) == "as_torch_store(HashStore(0 keys))"


def test_every_verb_that_cpp_asks_for_arrives(adapter: Any, store: HashStore) -> None:
    peer = through_cpp(adapter)
    peer.set("k", "v")
    assert store.get("p/k") == peer.get("k") == b"v"
    assert (peer.add("n", 2), peer.add("n", 3)) == (2, 5)
    assert (peer.compare_set("k", "v", "w"), peer.compare_set("k", "v", "x")) == (b"w", b"w")
    assert (peer.check(["k"]), peer.check(["k", "no"])) == (True, False)
    peer.wait(["k"])
    peer.wait(["k"], timedelta(seconds=1))
    peer.append("k", "!")
    assert peer.has_extended_api()
    peer.multi_set(["a", "b"], ["1", "2"])
    assert peer.multi_get(["a", "b", "k"]) == [b"1", b"2", b"w!"]
    assert peer.num_keys() == 4
    assert (peer.delete_key("a"), peer.delete_key("a")) == (True, False)


def test_callers_in_python_have_queues_and_lists_besides(adapter: Any) -> None:
    adapter.set("k", "v")
    adapter.queue_push("q", "item")
    assert (adapter.queue_len("q"), adapter.queue_pop("q"), adapter.list_keys()) == (1, b"item", ["k"])
    assert (adapter.delete_key("k"), adapter.num_keys()) == (True, 0)
    with pytest.raises(torch_dist.QueueEmptyError, match="queue is empty"):
        adapter.queue_pop("q", False)


def test_callers_in_python_and_in_cpp_meet_at_one_barrier(adapter: Any) -> None:
    outer = torch_dist.PrefixStore("", adapter)
    thread = threading.Thread(target=adapter.barrier, args=("/b", 2, timedelta(seconds=JOIN_S)))
    thread.start()
    outer.barrier("b", 2, timedelta(seconds=JOIN_S))
    thread.join(JOIN_S)
    assert not thread.is_alive()


def test_bytes_that_are_no_text_come_back_as_they_were(adapter: Any, store: HashStore) -> None:
    store.set("p/k", b"\xff\x00\x80")
    assert through_cpp(adapter).get("k") == b"\xff\x00\x80"


def test_a_store_of_torchs_is_given_back_as_it_is() -> None:
    theirs = torch_dist.HashStore()
    assert as_torch_store(theirs) is theirs


def test_a_store_of_a_user_that_knows_only_set_get_and_wait_will_do(adapter: Any, store: HashStore) -> None:
    class Least(Store):
        def set(self, key: Any, value: Any, /) -> None:
            store.set(key, value)

        def get(self, key: Any, /) -> bytes:
            return store.get(key)

        def wait(self, keys: Any, timeout: Any = None, /) -> None:
            store.wait(keys, timeout)

    least = as_torch_store(Least())
    peer = through_cpp(least)
    peer.set("k", "v")
    peer.wait(["k"])
    assert peer.get("k") == b"v"
    with pytest.raises(NotImplementedError):
        peer.add("n", 1)
    least.close()


# --- time ------------------------------------------------------------------------------------------------


def test_the_timeout_begins_as_the_stores_own(store: HashStore) -> None:
    store.set_timeout(7)
    adapter = as_torch_store(store)
    assert adapter.timeout == timedelta(seconds=7)
    adapter.close()


def test_a_timeout_that_is_set_in_cpp_holds_for_each_call_and_for_nobody_else(adapter: Any, store: HashStore) -> None:
    peer = through_cpp(adapter)
    peer.set_timeout(timedelta(milliseconds=50))
    with pytest.raises(torch_dist.DistStoreError, match=r"after 50ms, keys: /p/no"):
        peer.get("no")
    with pytest.raises(torch_dist.DistStoreError, match=r"after 50ms"):
        peer.wait(["no"])
    with pytest.raises(torch_dist.DistStoreError, match=r"after 20ms"):
        peer.wait(["no"], timedelta(milliseconds=20))
    assert store.timeout == timedelta(seconds=300)


def test_an_endless_timeout_is_cut_to_what_cpp_can_hold(store: HashStore) -> None:
    store.set_timeout(float("inf"))
    adapter = as_torch_store(store)
    assert adapter.timeout == timedelta(days=24)
    adapter.close()


# --- errors ----------------------------------------------------------------------------------------------


def test_an_error_is_torchs_with_our_text_and_ours_as_its_cause(adapter: Any) -> None:
    with pytest.raises(torch_dist.DistStoreError) as caught:
        through_cpp(adapter).wait(["no"], timedelta(0))
    assert isinstance(caught.value.__cause__, StoreTimeoutError)
    assert str(caught.value) == str(caught.value.__cause__)


def test_an_error_of_the_network_is_torchs_of_that_kind() -> None:
    with pytest.raises(torch_dist.DistNetworkError, match="nobody"), torchs_errors():
        raise ConnectTimeoutError("nobody answered")


def test_what_is_no_error_of_ours_passes_as_it_is() -> None:
    with pytest.raises(KeyError), torchs_errors():
        raise KeyError("k")


# --- life ------------------------------------------------------------------------------------------------


def test_cpp_finds_the_methods_after_everybody_else_let_go() -> None:
    peer = through_cpp(as_torch_store(HashStore()))
    gc.collect()
    peer.set("k", "v")
    assert peer.clone().get("k") == b"v"


def test_one_store_has_one_adapter_until_it_is_closed(store: HashStore) -> None:
    first = as_torch_store(store)
    assert as_torch_store(store) is first
    first.close()
    first.close()
    again = as_torch_store(store)
    assert again is not first
    again.close()


def test_nothing_is_kept_of_an_adapter_that_was_closed() -> None:
    before = len(module._kept)
    for _ in range(10):
        as_torch_store(HashStore()).close()
    assert len(module._kept) == before


def test_a_closed_adapter_says_what_to_do_and_leaves_the_store_open(adapter: Any, store: HashStore) -> None:
    peer = through_cpp(adapter)
    adapter.close()
    with pytest.raises(torch_dist.DistStoreError, match=r"closed: close it after destroy_process_group\(\)"):
        peer.set("k", "v")
    store.set("k", "v")


def test_a_clone_has_connections_of_its_own_and_closes_them() -> None:
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) as server:
        before = len(module._kept)
        adapter = as_torch_store(PrefixStore("p", server))
        adapter.set_timeout(timedelta(seconds=9))
        twin = adapter.clone()
        assert twin.timeout == timedelta(seconds=9)
        twin.set("k", "v")
        assert server.get("p/k") == b"v"
        below = twin.store.underlying_store
        twin.close()
        with pytest.raises(RuntimeError, match="closed"):
            below.get("p/k")
        assert adapter.get("k") == b"v"
        through_cpp(adapter).clone().set("k", "w")  # nobody but C++ ever had this clone
        adapter.close()
        assert len(module._kept) == before


def test_threads_that_wait_hold_up_nobody() -> None:
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) as server:
        adapter = as_torch_store(server)
        peer, got = through_cpp(adapter), []
        threads = [threading.Thread(target=lambda: got.append(peer.get("late"))) for _ in range(8)]
        for thread in threads:
            thread.start()
        peer.set("late", "v")
        for thread in threads:
            thread.join(JOIN_S)
        assert got == [b"v"] * 8
        adapter.close()


def test_a_forked_child_is_told_to_clone_and_can() -> None:
    script = """
import os, warnings
warnings.simplefilter("ignore")
from rallypoint import TCPStore
from rallypoint.integrations.torch_store import as_torch_store
import torch.distributed as dist
server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
adapter = as_torch_store(server)
adapter.set("k", "v")
if (child := os.fork()) == 0:
    try:
        adapter.get("k")
    except dist.DistStoreError as error:
        assert "inherited it by a fork" in str(error), error
        os._exit(0 if adapter.clone().get("k") == b"v" else 2)
    os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(script) == ("0\n", "")


def test_a_program_may_end_without_a_word_of_farewell() -> None:
    script = """
import warnings
warnings.simplefilter("ignore")
from rallypoint import TCPStore
from rallypoint.integrations.torch_store import as_torch_store
import torch.distributed as dist
peer = dist.PrefixStore("p", as_torch_store(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)))
dist.init_process_group("gloo", store=peer, rank=0, world_size=1)
"""
    assert run_python(script) == ("", "")


def test_a_file_is_shared_with_torchs_own_store(tmp_path: Any) -> None:
    path = str(tmp_path / "store")
    with FileStore(path) as file:
        adapter = as_torch_store(file)
        theirs = torch_dist.FileStore(path, -1)
        through_cpp(adapter).set("k", "v")
        assert theirs.get("p/k") == b"v"
        adapter.close()


def test_importing_it_does_not_import_torch() -> None:
    modules = ("torch_store", "torch_url", "torchrun", "torchrun_handler")
    script = "".join(f"import rallypoint.integrations.{name}\n" for name in modules)
    assert run_python(script + "import sys\nprint('torch' in sys.modules)") == ("False\n", "")


def run_python(script: str) -> tuple[str, str]:
    """Run a program of its own and give what it wrote to both streams."""
    environment = {**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=JOIN_S, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr
