from __future__ import annotations

import threading

import pytest

from rallypoint.gateway.lanes import Lanes

JOIN_S = 30


@pytest.fixture
def lanes():
    lanes = Lanes(3, "test-lane")
    yield lanes
    lanes.end()


def test_calls_of_a_lane_are_made_in_their_order(lanes):
    made, done = [], threading.Event()
    for number in range(1000):
        lanes.put(number % 7, lambda number=number: made.append(number))
    for lane in range(7):
        lanes.put(lane, lambda: made.append(None) or (made.count(None) == 7 and done.set()))
    assert done.wait(JOIN_S)
    for lane in range(7):
        mine = [number for number in made if number is not None and number % 7 == lane]
        assert mine == sorted(mine)
        assert len(mine) in {142, 143}


def test_a_lane_that_is_held_up_does_not_hold_up_others(lanes):
    go_on, done = threading.Event(), threading.Event()
    lanes.put(1, lambda: go_on.wait(JOIN_S))
    lanes.put(1, done.set)
    passed = threading.Event()
    lanes.put(2, passed.set)
    assert passed.wait(JOIN_S)
    assert not done.is_set()
    go_on.set()
    assert done.wait(JOIN_S)


def test_there_are_no_more_threads_than_allowed(lanes):
    go_on, begun = threading.Event(), threading.Semaphore(0)
    for lane in range(20):
        lanes.put(lane, lambda: (begun.release(), go_on.wait(JOIN_S)))
    for _ in range(3):
        assert begun.acquire(timeout=JOIN_S)
    assert not begun.acquire(blocking=False)
    assert len(lanes._threads) == 3
    go_on.set()
    for _ in range(17):
        assert begun.acquire(timeout=JOIN_S)


def test_a_thread_that_is_free_is_used_again(lanes):
    for _ in range(50):
        done = threading.Event()
        lanes.put(1, done.set)
        assert done.wait(JOIN_S)
        while lanes._calls or not lanes._idle:
            pass
    assert len(lanes._threads) == 1


def test_what_was_asked_before_the_end_is_done(lanes):
    made = []
    for number in range(100):
        lanes.put(number % 3, lambda number=number: made.append(number))
    lanes.end()
    assert sorted(made) == list(range(100))
    assert not any(thread.is_alive() for thread in lanes._threads)


def test_nothing_is_done_after_the_end(lanes):
    made = []
    lanes.end()
    lanes.put(1, lambda: made.append(1))
    assert made == []
    assert lanes._threads == []
