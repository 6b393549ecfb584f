"""Counting who comes."""

from __future__ import annotations

import threading

import pytest

from rallypoint.clock import Deadline
from rallypoint.errors import BarrierTimeoutError, ConnectionLostError, DistStoreError, StoreTimeoutError
from rallypoint.primitives.arrivals import Arrival, arrive, gate_key, is_timeout, open_gate, take_back
from rallypoint.store.hash import HashStore

LONG_S = 30.0


@pytest.mark.parametrize(
    ("number", "generation", "is_last"),
    [(1, 0, False), (3, 0, True), (4, 1, False), (6, 1, True), (7, 2, False)],
)
def test_the_arrival_number_gives_generation_and_place(number, generation, is_last):
    arrival = Arrival("p", 3, number)
    assert (arrival.generation, arrival.is_last, arrival.gate) == (generation, is_last, gate_key("p", generation))


def test_generation_0_has_torchs_keys():
    store = HashStore()
    open_gate(store, arrive(store, "p", 1))
    assert store.list_keys() == ["p/num_members", "p/last_member"]
    assert store.get("p/last_member") == b"<val_ignored>"


def test_two_gates_are_kept_however_many_there_were():
    store = HashStore()
    for _ in range(20):
        open_gate(store, arrive(store, "p", 1))
    assert sorted(store.list_keys()) == ["p/last_member/18", "p/last_member/19", "p/num_members"]


def test_a_counter_below_1_is_refused():
    store = HashStore()
    store.set("p/num_members", "-1")
    with pytest.raises(DistStoreError, match="is at 0 after an arrival"):
        arrive(store, "p", 2)


def test_an_arrival_is_taken_back_and_its_place_given_again():
    store = HashStore()
    first, second = arrive(store, "p", 3), arrive(store, "p", 3)
    assert take_back(store, second, Deadline(LONG_S)) == 2
    assert take_back(store, first, Deadline(LONG_S)) == 1
    assert arrive(store, "p", 3).number == 1


def test_what_is_left_of_a_number_is_one_that_any_reader_of_decimal_text_takes():
    store = HashStore()
    arrive(store, "p", 9)
    take_back(store, arrive(store, "p", 9), Deadline(LONG_S))
    assert int(store.get("p/num_members")) == 1


@pytest.mark.parametrize("later", [0, 1, 5])
def test_an_arrival_of_a_complete_generation_stays(later):
    store = HashStore()
    first = arrive(store, "p", 2)
    for _ in range(1 + later):
        arrive(store, "p", 2)
    assert take_back(store, first, Deadline(LONG_S)) == 2
    assert store.add("p/num_members", 0) == 2 + later


def test_an_arrival_that_somebody_reset_is_not_taken_back():
    store = HashStore()
    arrival = arrive(store, "p", 2)
    store.delete_key("p/num_members")
    assert take_back(store, arrival, Deadline(LONG_S)) == 0
    assert store.add("p/num_members", 0) == 0


class Meddled(HashStore):
    """Somebody else changes the counter before each swap."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def compare_set(self, key, expected, desired, /):
        self.change(self)
        return super().compare_set(key, expected, desired)


def test_a_swap_won_by_another_leaver_is_not_taken_for_ones_own():
    def leave_once(store):
        if store.others:
            other = store.others.pop()
            HashStore.compare_set(store, "p/num_members", "3", f"{other}")

    store = Meddled(leave_once)
    arrivals = [arrive(store, "p", 4) for _ in range(3)]
    store.others = [2]  # another member writes the very number that we are about to write
    take_back(store, arrivals[0], Deadline(LONG_S))
    assert store.add("p/num_members", 0) == 1


def test_a_generation_completed_before_the_swap_counts():
    store = Meddled(lambda store: store.add("p/num_members", 1))
    arrival = arrive(store, "p", 2)
    assert take_back(store, arrival, Deadline(LONG_S)) == 2
    assert store.add("p/num_members", 0) == 2


def test_trying_ends_at_the_deadline():
    store = Meddled(lambda store: store.set("p/num_members", "5" if store.get("p/num_members") == b"4" else "4"))
    store.set("p/num_members", "3")
    with pytest.raises(DistStoreError, match="arrival 4 could not be taken back"):
        take_back(store, arrive(store, "p", 9), Deadline(0))


def test_members_who_all_leave_at_once_leave_nothing():
    store = HashStore()
    arrivals = [arrive(store, "p", 9) for _ in range(8)]
    threads = [threading.Thread(target=take_back, args=(store, each, Deadline(LONG_S))) for each in arrivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert store.add("p/num_members", 0) == 0


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (StoreTimeoutError("the time is up"), True),
        (BarrierTimeoutError("late", arrived=1, expected=2, waited_s=1), True),
        (TimeoutError(), True),
        (RuntimeError("wait timeout after 1000ms, keys: /a"), True),
        (RuntimeError("Wait timeout"), True),
        (RuntimeError("Socket Timeout"), True),
        (RuntimeError("Timed out after 3 seconds"), True),
        (RuntimeError("Connection reset by peer"), False),
        (ConnectionLostError("gone"), False),
        (KeyboardInterrupt("timeout"), False),
        (ValueError("timeout"), False),
    ],
)
def test_timeouts_of_any_store_are_known(error, expected):
    assert is_timeout(error) is expected
