"""Marks by rank."""

from __future__ import annotations

import pytest

from rallypoint.clock import Deadline
from rallypoint.errors import DuplicateMemberError
from rallypoint.primitives.rollcall import (
    HERE,
    LEFT,
    Mark,
    call_roll,
    mark_arrival,
    mark_key,
    write_mark,
)
from rallypoint.store.hash import HashStore
from rallypoint.testing import ManualClock

LONG_S = 30.0


def come(store, rank, world_size=4, name="node"):
    generation = mark_arrival(store, "p", rank, world_size, name)
    store.add("p/num_members", 1)
    return generation


def roll(store, world_size, generation=0, arrived=0, **options):
    return call_roll(store, "p", world_size, generation, arrived=arrived, deadline=Deadline(LONG_S), **options)


def test_a_mark_survives_its_bytes():
    for mark in (Mark.new(7, HERE), Mark.new(7, LEFT, 3)):
        assert Mark.decode(mark.encode()) == mark
    assert Mark.new(7, HERE) != Mark.new(7, HERE)


@pytest.mark.parametrize("data", [b"<val_ignored>", b"", b"x here y", b"1 gone y", b"\xff", b"1 here"])
def test_any_other_mark_is_that_of_a_torch_member_that_gave_up(data):
    assert Mark.decode(data) == Mark(0, LEFT, "")


def test_the_mark_is_torchs_key():
    assert mark_key("p", 3) == "p3/TRACE"


def test_a_rank_comes_once_in_a_generation():
    store = HashStore()
    assert come(store, 2) == 0
    with pytest.raises(
        DuplicateMemberError, match=r"rank 2 \(node-b\) came to barrier 'p' twice in generation 0"
    ) as caught:
        come(store, 2, name="node-b")
    assert caught.value.member == "node-b"
    assert store.add("p/num_members", 0) == 1


def test_a_rank_comes_again_in_the_next_generation():
    store = HashStore()
    for generation in range(3):
        assert [come(store, rank, 2) for rank in range(2)] == [generation] * 2
    assert sorted(store.list_keys()) == ["p/num_members", "p0/TRACE", "p1/TRACE"]


def test_a_rank_that_left_may_come_again():
    store = HashStore()
    come(store, 1)
    write_mark(store, "p", 1, Mark.new(0, LEFT))
    assert come(store, 1) == 0


def test_of_two_that_take_the_place_of_a_rank_that_left_one_is_refused():
    class Raced(HashStore):
        def compare_set(self, key, expected, desired, /):
            if expected:
                super().compare_set(key, expected, Mark.new(0, HERE).encode())
            return super().compare_set(key, expected, desired)

    store = Raced()
    write_mark(store, "p", 1, Mark.new(0, LEFT))
    with pytest.raises(DuplicateMemberError):
        come(store, 1)


def test_the_roll_tells_who_came_who_left_and_who_is_missing():
    store = HashStore()
    for rank in (0, 2, 5):
        come(store, rank)
    write_mark(store, "p", 2, Mark.new(0, LEFT))
    write_mark(store, "p", 3, Mark.new(7, HERE))  # of another generation
    assert roll(store, 6) == ([0, 2, 5], [2], [1, 3, 4], [], False)


@pytest.mark.parametrize("missing", [[], [0], [2999], [7, 1024, 2048], list(range(1500))])
def test_the_missing_of_a_large_world_are_found_in_few_calls(missing):
    class Counting(HashStore):
        calls = 0

        def check(self, keys, /):
            self.calls += 1
            return super().check(keys)

    store = Counting()
    for rank in set(range(3000)) - set(missing):
        write_mark(store, "p", rank, Mark.new(0, HERE))
    assert roll(store, 3000).missing == missing
    assert store.calls <= 3 + 2 * 11 * len(missing)


def test_looking_ends_at_the_deadline():
    store = HashStore()
    come(store, 0)
    found = call_roll(store, "p", 3, 0, arrived=1, deadline=Deadline(0))
    assert (found.marked, found.missing, found.unknown) == ([], [], [0, 1, 2])


def test_members_of_torch_are_waited_for_while_fewer_marks_than_members_are_there():
    store = HashStore()
    come(store, 0)

    class Clock(ManualClock):
        def sleep(self, duration_s):
            super().sleep(duration_s)
            if len(self.slept) == 3:
                store.set("p2/TRACE", "<val_ignored>")

    clock = Clock()
    found = roll(store, 3, arrived=2, clock=clock)
    assert (found.marked, found.missing, found.has_strangers) == ([0, 2], [1], True)
    assert len(clock.slept) == 3


def test_members_of_torch_are_waited_for_though_others_of_ours_have_left_before():
    store = HashStore()
    come(store, 0)
    come(store, 1)
    write_mark(store, "p", 0, Mark.new(0, LEFT, 3))  # when there were the two of ours and one of torch's

    class Clock(ManualClock):
        def sleep(self, duration_s):
            super().sleep(duration_s)
            store.set("p2/TRACE", "<val_ignored>")

    clock = Clock()
    found = roll(store, 4, arrived=2, clock=clock)
    assert (found.marked, found.missing, found.has_strangers) == ([0, 1, 2], [3], True)
    assert len(clock.slept) == 1


def test_members_without_a_mark_are_waited_for_until_the_deadline_only():
    clock = ManualClock()
    found = call_roll(HashStore(), "p", 2, 0, arrived=1, deadline=Deadline(1, clock), clock=clock)
    assert (found.marked, found.unknown, found.has_strangers) == ([], [0, 1], True)
    assert clock.now() == pytest.approx(1)


def test_later_generations_have_no_torch_members_to_wait_for():
    clock = ManualClock()
    assert roll(HashStore(), 2, generation=1, arrived=1, clock=clock).missing == [0, 1]
    assert clock.slept == []


def test_a_store_without_multi_get_will_do():
    class Plain:
        def __init__(self, store):
            self.check, self.get = store.check, store.get

    store = HashStore()
    come(store, 1)
    assert roll(Plain(store), 2).marked == [1]
