from __future__ import annotations

import math
from datetime import timedelta

import pytest

from rallypoint.errors import BarrierTimeoutError, DistStoreError, StoreTimeoutError
from rallypoint.store.base import Store, as_timeout_s, wait_timed_out
from rallypoint.types import Endpoint


class FourMethods(Store):
    """What a user writes: a dictionary and the four methods without which nothing goes."""

    def __init__(self):
        super().__init__()
        self.data = {}
        self.calls = []

    def set(self, key, value):
        assert isinstance(value, bytes)
        self.data[key] = value

    def get(self, key):
        return self.data[key]

    def add(self, key, amount):
        total = int(self.data.get(key, b"0")) + amount
        self.data[key] = str(total).encode()
        return total

    def compare_set(self, key, expected, desired):
        assert isinstance(expected, bytes)
        assert isinstance(desired, bytes)
        self.calls.append((key, expected, desired))
        present = self.data.get(key)
        if present == expected or (present is None and not expected):
            self.data[key] = desired
            return desired
        return expected if present is None else present


class WaitingStore(FourMethods):
    def check(self, keys):
        return all(key in self.data for key in keys)

    def wait(self, keys, timeout=None):
        missing = [key for key in keys if key not in self.data]
        if missing:
            raise wait_timed_out(keys, missing, timeout_s=0.5, waited_s=0.5)


def test_a_bare_subclass_says_not_implemented():
    class Bare(Store):
        pass

    bare = Bare()
    assert not bare.has_extended_api()
    for call in (
        lambda: bare.set("k", "v"),
        lambda: bare.get("k"),
        lambda: bare.add("k", 1),
        lambda: bare.compare_set("k", "a", "b"),
        lambda: bare.check(["k"]),
        lambda: bare.wait(["k"]),
        lambda: bare.delete_key("k"),
        bare.num_keys,
        bare.clone,
        lambda: bare.append("k", "v"),
        lambda: bare.multi_get(["k"]),
        lambda: bare.multi_set(["k"], ["v"]),
        lambda: bare.barrier("k", 1),
    ):
        with pytest.raises(RuntimeError, match=r"^Not implemented\.$"):
            call()


def test_queues_and_list_keys_are_refused_in_torchs_words():
    store = Store()
    with pytest.raises(NotImplementedError, match=r"^listKeys support is not implemented\.$"):
        store.list_keys()
    for call in (lambda: store.queue_push("q", "v"), lambda: store.queue_pop("q"), lambda: store.queue_len("q")):
        with pytest.raises(NotImplementedError, match=r"^queue support is not implemented\.$"):
            call()


def test_four_methods_are_enough_for_append_multi_get_and_multi_set():
    store = FourMethods()
    store.append("k", "a")
    store.append("k", b"b")
    store.multi_set(["x", "y"], ["1", b"2"])
    assert store.get("k") == b"ab"
    assert store.multi_get(("x", "y")) == [b"1", b"2"]


def test_append_of_the_present_value_doubles_it():
    store = WaitingStore()
    store.append("k", "a")
    store.append("k", "a")
    assert store.data["k"] == b"aa"


def test_append_of_nothing_creates_an_empty_value():
    store = WaitingStore()
    store.append("k", "")
    assert store.data == {"k": b""}


def test_append_survives_a_writer_in_between():
    store = WaitingStore()
    store.data["k"] = b"old"
    swap = store.compare_set

    def interrupted(key, expected, desired):
        store.compare_set = swap
        store.data["k"] = b"new"
        return swap(key, expected, desired)

    store.compare_set = interrupted
    store.append("k", "!")
    assert store.data["k"] == b"new!"


def test_append_survives_a_deletion_in_between():
    store = WaitingStore()
    store.data["k"] = b"old"
    swap = store.compare_set

    def interrupted(key, expected, desired):
        store.compare_set = swap
        del store.data["k"]
        return swap(key, expected, desired)

    store.compare_set = interrupted
    store.append("k", "!")
    assert store.data["k"] == b"!"


def test_multi_set_with_unequal_lengths_stores_nothing():
    store = FourMethods()
    with pytest.raises(DistStoreError, match="multiSet keys and values vectors must be of same size: got 2 keys and 1"):
        store.multi_set(["a", "b"], ["1"])
    assert store.data == {}


def test_a_bare_string_is_no_list_of_keys():
    store = FourMethods()
    with pytest.raises(TypeError, match="expected a list, not one str"):
        store.multi_get("abc")
    with pytest.raises(TypeError, match="expected a list, not one bytes"):
        store.multi_set(["a"], b"abc")


def test_the_last_of_a_barrier_opens_it():
    store = WaitingStore()
    store.data["b/num_members"] = b"2"
    store.barrier("b", 3)
    assert store.data == {"b/num_members": b"3", "b/last_member": b"1"}


def test_a_barrier_key_may_be_bytes():
    store = WaitingStore()
    store.barrier(b"b", 1)
    assert store.data == {b"b/num_members": b"1", b"b/last_member": b"1"}


@pytest.mark.parametrize("world_size", [1, 0, -1])
def test_a_barrier_of_one_or_fewer_does_not_wait(world_size):
    WaitingStore().barrier("b", world_size)


def test_a_barrier_that_times_out_counts_who_came():
    store = WaitingStore()
    with pytest.raises(
        BarrierTimeoutError, match=r"^barrier timeout after 200ms, key: b .*1 of 3 members came"
    ) as caught:
        store.barrier("b", 3, 0.2)
    assert (caught.value.arrived, caught.value.expected) == (1, 3)
    assert isinstance(caught.value, TimeoutError)


def test_a_barrier_hands_the_wait_a_timedelta():
    given = []

    class Recording(WaitingStore):
        def wait(self, keys, timeout=None):
            given.append(timeout)

    Recording().barrier("b", 2, timedelta(seconds=7))
    Recording().barrier("b", 2, math.inf)
    assert timedelta(seconds=6) < given[0] <= timedelta(seconds=7)
    assert given[1] == timedelta.max


def test_the_timeout_is_300_seconds_and_can_be_changed_without_calling_the_constructor():
    class NoConstructor(Store):
        def __init__(self):
            """Forget the base class, as users do."""

    store = NoConstructor()
    assert store.timeout == timedelta(seconds=300)
    store.set_timeout(timedelta(milliseconds=1500))
    assert store.timeout == timedelta(seconds=1.5)
    store.set_timeout(2)
    assert store.timeout == timedelta(seconds=2)
    store.set_timeout(math.inf)
    assert store.timeout == timedelta.max
    store.set_timeout(store.timeout)
    assert store.timeout == timedelta.max


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(0, 0.0), (1.5, 1.5), (timedelta(minutes=1), 60.0), (math.inf, math.inf), (timedelta.max, math.inf)],
)
def test_timeouts_become_seconds(given, seconds):
    assert as_timeout_s(given) == seconds


def test_a_negative_timeout_is_refused_with_what_would_be_right():
    with pytest.raises(ValueError, match=r"barrier_timeout must be 0 or more seconds \(math\.inf .*\), not -1"):
        as_timeout_s(-1, "barrier_timeout")


def test_a_timed_out_wait_names_the_missing_keys_only():
    error = wait_timed_out(["a", b"b\xff"], [b"b\xff"], timeout_s=0.1, waited_s=0.1004, endpoint=Endpoint("::1", 29500))
    assert str(error) == (
        "wait timeout after 100ms, keys: /b\\xff (missing 1 of 2 keys: 'b\\\\xff'; waited 0.100 s on [::1]:29500)"
    )
    assert error.keys == ("a", "b\\xff")
    assert error.missing == ("b\\xff",)
    assert isinstance(error, StoreTimeoutError)


def test_a_timed_out_wait_shows_some_keys_and_carries_all():
    keys = [f"k{n}" for n in range(40)]
    error = wait_timed_out(keys, keys, timeout_s=1, waited_s=1)
    assert str(error).endswith("'k31', and 8 more; waited 1.000 s)")
    assert error.missing == tuple(keys)


def test_a_wait_whose_keys_came_too_late_says_so():
    error = wait_timed_out(["a"], [], timeout_s=1, waited_s=1)
    assert "none of the 1 keys is missing any more" in str(error)


def test_a_store_is_a_context_manager_that_closes():
    closed = []

    class Closing(Store):
        def close(self):
            closed.append(self)

    with Closing() as store:
        assert closed == []
    assert closed == [store]


def test_a_subclass_written_for_torch_is_called_by_torchs_names():
    class TorchNamed(Store):
        def __init__(self):
            super().__init__()
            self.content = {}

        def set(self, key, value):
            self.content[key] = value

        def deleteKey(self, key):  # noqa: N802 - torch's name
            return self.content.pop(key, None) is not None

        def getNumKeys(self):  # noqa: N802 - torch's name
            return len(self.content)

    store = TorchNamed()
    store.set("k", b"v")
    assert store.num_keys() == 1
    assert store.delete_key("k") is True
    assert store.delete_key("k") is False
    assert store.num_keys() == 0
