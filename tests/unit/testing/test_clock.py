"""The clock for tests."""

from __future__ import annotations

import threading

import pytest

from rallypoint.clock import Clock, Deadline
from rallypoint.testing import ManualClock

LONG_S = 30.0


def test_time_passes_when_told():
    clock: Clock = ManualClock(10)
    deadline = Deadline(5, clock)
    assert (clock.now(), deadline.remaining_s()) == (10, 5)
    clock.advance(4.5)
    assert not deadline.has_passed()
    clock.advance(0.5)
    assert deadline.has_passed()


def test_a_clock_that_jumps_sleeps_by_moving_itself():
    clock = ManualClock()
    clock.sleep(3)
    clock.sleep(-1)
    assert (clock.now(), clock.slept) == (3, [3, -1])


def test_a_clock_that_does_not_jump_holds_its_sleepers_until_their_time():
    clock = ManualClock(jumps=False)
    woken = []

    def sleep(duration_s):
        clock.sleep(duration_s)
        woken.append(duration_s)

    threads = [threading.Thread(target=sleep, args=(duration_s,)) for duration_s in (1, 2)]
    for thread in threads:
        thread.start()
    clock.wait_for_sleepers(2)
    clock.advance(1)
    threads[0].join(LONG_S)
    assert woken == [1]
    clock.wait_for_sleepers(1)
    clock.advance(1)
    threads[1].join(LONG_S)
    assert woken == [1, 2]


def test_a_test_whose_threads_do_not_sleep_fails():
    with pytest.raises(AssertionError, match="0 threads sleep after 0 s, expected 1"):
        ManualClock().wait_for_sleepers(timeout_s=0)


def test_a_clock_does_not_go_back():
    with pytest.raises(ValueError, match="does not go back"):
        ManualClock().advance(-1)
