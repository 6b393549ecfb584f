from __future__ import annotations

import math
from datetime import timedelta

from rallypoint.clock import SYSTEM_CLOCK, Deadline


class SteppedClock:
    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time

    def sleep(self, duration_s: float) -> None:
        self.time += duration_s


def test_a_deadline_counts_down_on_its_clock() -> None:
    clock = SteppedClock()
    deadline = Deadline(2.0, clock)
    clock.sleep(1.5)
    assert (deadline.remaining_s(), deadline.waited_s(), deadline.has_passed()) == (0.5, 1.5, False)


def test_a_deadline_passes_at_its_end_and_stays_passed() -> None:
    clock = SteppedClock()
    deadline = Deadline(timedelta(seconds=2), clock)
    clock.sleep(2.0)
    assert deadline.has_passed()
    clock.sleep(5.0)
    assert deadline.remaining_s() == 0.0


def test_a_timeout_of_zero_has_passed_at_once() -> None:
    assert Deadline(0, SteppedClock()).has_passed()


def test_a_later_deadline_began_with_the_first() -> None:
    clock = SteppedClock()
    deadline = Deadline(2.0, clock)
    clock.sleep(1.0)
    later = deadline.later(3.0)
    assert (later.waited_s(), later.remaining_s(), later.timeout_s) == (1.0, 4.0, 5.0)
    assert deadline.remaining_s() == 1.0


def test_never_does_not_pass() -> None:
    clock = SteppedClock()
    deadline = Deadline.never(clock)
    clock.sleep(1e9)
    assert not deadline.has_passed()
    assert deadline.remaining_s() == math.inf


def test_the_system_clock_never_goes_back() -> None:
    first = SYSTEM_CLOCK.now()
    SYSTEM_CLOCK.sleep(-1)
    assert SYSTEM_CLOCK.now() >= first
