"""Every method of a store, each side's client on each side's server: the same calls give the same answers."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from tests.support.client_twins import each_client  # noqa: F401 - a fixture
from tests.support.torch_peers import MEETINGS, meet, name_of, torch_dist

from rallypoint.store.base import Store

pytestmark = pytest.mark.usefixtures("each_client")


@pytest.fixture(params=MEETINGS, ids=name_of)
def meeting(request):
    with meet(*request.param) as running:
        yield running


@pytest.fixture
def store(meeting):
    return meeting.connect()


def test_set_and_get(store):
    store.set("text", "grüße")
    store.set("bytes", b"\x00\xff")
    store.set("empty", "")
    store.set("text2", "")
    store.set("text2", "again")
    assert store.get("text") == "grüße".encode()
    assert store.get("bytes") == b"\x00\xff"
    assert store.get("empty") == b""
    assert store.get("text2") == b"again"


def test_values_of_every_awkward_size(store):
    for size in (0, 1, 1439, 1440, 1441, 4095, 4096, 4097, 65_536, 1_000_003):
        value = bytes(size % 251 for _ in range(size))
        store.set(f"size {size}", value)
        assert store.get(f"size {size}") == value


def test_the_largest_value(store):
    value = b"v" * 8_388_608
    store.set("k", value)
    assert store.get("k") == value


def test_the_longest_key(store):
    key = "k" * 8191
    store.set(key, "v")
    assert store.get(key) == b"v"


def test_keys_with_odd_characters(store):
    for key in ("", "/", "a/b", "a b", "\x00", "ключ", "-/k"):
        store.set(key, "v" + key)
        assert store.get(key) == ("v" + key).encode()


def test_add_counts_in_decimal_text(store):
    assert store.add("n", 1) == 1
    assert store.add("n", 2) == 3
    assert store.add("n", 3) == 6
    assert store.get("n") == b"6"
    assert store.add("n", -8) == -2
    assert store.get("n") == b"-2"
    assert store.add("n", 0) == -2
    assert store.add("flag", True) == 1
    store.set("text", "12abc")
    assert store.add("text", 1) == 13


def test_add_reaches_both_ends_of_64_bits(store):
    assert store.add("up", 2**63 - 1) == 2**63 - 1
    assert store.add("down", -(2**63)) == -(2**63)


@pytest.mark.parametrize("amount", [2**63, -(2**63) - 1, 1.0, "1"])
def test_add_refuses_what_64_bits_cannot_hold_and_what_is_no_number(store, amount):
    with pytest.raises((TypeError, ValueError)):
        store.add("n", amount)
    assert store.add("n", 1) == 1


def test_compare_set(store):
    assert store.compare_set("absent", "x", "y") == b"x"
    assert not store.check(["absent"])
    assert store.compare_set("k", "", "first") == b"first"
    assert store.compare_set("k", "wrong", "second") == b"first"
    assert store.compare_set("k", "", "second") == b"first"
    assert store.compare_set("k", b"first", b"second") == b"second"
    assert store.get("k") == b"second"


def test_check(store):
    assert store.check([])
    assert not store.check(["a"])
    store.set("a", "")
    assert store.check(["a"])
    assert store.check(("a", "a"))
    assert not store.check(["a", "b"])


def test_wait_for_present_keys_returns(store):
    store.set("a", "1")
    store.add("b", 1)
    store.wait(["a"])
    store.wait(["a", "b"], timedelta(seconds=20))
    store.wait([])


def test_delete_key_and_num_keys(store):
    before = store.num_keys()
    store.set("a", "1")
    store.set("b", "2")
    assert store.num_keys() == before + 2
    assert store.delete_key("a") is True
    assert store.delete_key("a") is False
    assert store.num_keys() == before + 1
    assert not store.check(["a"])


def test_list_keys_hides_the_slash_and_the_worker_count(store):
    store.set("a", "1")
    store.add("b/c", 1)
    assert sorted(store.list_keys()) == ["a", "b/c"]


def test_append(store):
    store.append("k", "a")
    store.append("k", b"")
    store.append("k", "a")
    store.append("k", "b")
    assert store.get("k") == b"aab"
    store.append("nothing", "")
    assert store.check(["nothing"])
    assert store.get("nothing") == b""


def test_append_grows_past_the_largest_value(store):
    part = b"p" * 5_000_000
    store.append("k", part)
    store.append("k", part)
    assert store.get("k") == part + part


def test_multi_set_and_multi_get(store):
    store.multi_set(["a", "b", "c"], ["1", b"2", ""])
    assert store.multi_get(["c", "a", "b", "a"]) == [b"", b"1", b"2", b"1"]
    assert store.multi_get([]) == []
    store.multi_set([], [])


def test_multi_of_many_keys(store):
    keys = [f"key {n}" for n in range(3000)]
    store.multi_set(keys, [f"value {n}" for n in range(3000)])
    assert store.multi_get(keys) == [f"value {n}".encode() for n in range(3000)]


def test_multi_set_with_unequal_lengths(store):
    with pytest.raises(
        (RuntimeError, torch_dist.DistStoreError), match="multiSet keys and values vectors must be of sa"
    ):
        store.multi_set(["a"], ["1", "2"])
    assert not store.check(["a"])


def test_queues(meeting):
    store = meeting.connect()
    if not meeting.has_queues:
        for call in (
            lambda: store.queue_push("q", "x"),
            lambda: store.queue_pop("q", False),
            lambda: store.queue_len("q"),
        ):
            with pytest.raises(NotImplementedError, match=r"^queues not implemented on legacy TCPStore backend$"):
                call()
        return
    assert store.queue_len("q") == 0
    assert not store.check(["q"])
    store.queue_push("q", "a")
    store.queue_push("q", b"b")
    store.queue_push("q", "")
    assert store.queue_len("q") == 3
    assert store.check(["q"])
    store.wait(["q"])
    assert store.queue_pop("q") == b"a"
    assert store.queue_pop("q", False) == b"b"
    assert store.queue_pop(key="q", block=True) == b""
    with pytest.raises(RuntimeError, match="empty") as caught:
        store.queue_pop("q", block=False)
    assert type(caught.value).__name__ == "QueueEmptyError"
    store.set("q", "a key beside the queue")
    assert store.queue_len("q") == 0


def test_barrier_of_one(store):
    store.barrier("alone", 1)
    store.barrier("again", world_size=0, timeout=timedelta(seconds=20))
    assert store.get("alone") == b"1"


def test_clone_is_an_independent_client_of_the_same_data(store):
    clone = store.clone()
    clone.set("k", "v")
    assert store.get("k") == b"v"
    store.set_timeout(timedelta(seconds=7))
    assert clone.timeout == timedelta(seconds=30)
    assert clone.clone().timeout == timedelta(seconds=30)
    if isinstance(clone, Store):
        clone.close()


def test_properties(meeting):
    store = meeting.connect(12.5)
    assert (store.host, store.port) == ("127.0.0.1", meeting.port)
    assert store.libuvBackend is meeting.has_queues
    assert store.timeout == timedelta(seconds=12.5)
    assert store.has_extended_api() is True


def test_repr_has_torchs_form(store):
    end = r"(\[[^]]*\]|[0-9.]+):\d+"
    assert re.fullmatch(
        rf"TCPStore\(client=TCPClient\(SocketImpl\(fd=\d+, addr={end}, remote={end}\)\), server=<nullptr>\)",
        repr(store),
    )
