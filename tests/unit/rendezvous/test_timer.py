from __future__ import annotations

import gc
import logging
import queue
import threading
import time
from datetime import timedelta

import pytest

from rallypoint.rendezvous.timer import PeriodicTimer, delay

PATIENCE_S = 30.0


def test_a_timer_calls_again_and_again_with_its_arguments() -> None:
    calls: queue.Queue[tuple[int, str]] = queue.Queue()
    timer = PeriodicTimer(timedelta(milliseconds=1), lambda number, *, word: calls.put((number, word)), 7, word="x")
    timer.start()
    assert [calls.get(timeout=PATIENCE_S) for _ in range(3)] == [(7, "x")] * 3
    timer.cancel()


def test_no_call_comes_before_the_interval_is_over() -> None:
    calls: queue.Queue[float] = queue.Queue()
    timer = PeriodicTimer(0.05, lambda: calls.put(time.monotonic()))
    started = time.monotonic()
    timer.start()
    first, second = calls.get(timeout=PATIENCE_S), calls.get(timeout=PATIENCE_S)
    timer.cancel()
    assert first - started >= 0.05
    assert second - first >= 0.05


def test_a_cancelled_timer_has_no_thread_left_and_makes_no_call() -> None:
    calls: list[int] = []
    timer = PeriodicTimer(100.0, lambda: calls.append(1))
    timer.set_name("Lonely")
    timer.start()
    assert "Lonely" in {thread.name for thread in threading.enumerate()}
    timer.cancel()
    timer.cancel()
    assert "Lonely" not in {thread.name for thread in threading.enumerate()}
    assert calls == []


def test_a_timer_starts_once_and_is_named_before() -> None:
    timer = PeriodicTimer(100.0, lambda: None)
    assert timer.name == "PeriodicTimer"
    timer.cancel()
    timer.start()
    for again in (timer.start, lambda: timer.set_name("x")):
        with pytest.raises(RuntimeError, match=r"^The timer has already started\.$"):
            again()
    timer.cancel()


def test_a_timer_may_be_cancelled_from_its_own_call() -> None:
    done = threading.Event()
    timers: list[PeriodicTimer] = []

    def call() -> None:
        timers[0].cancel()
        done.set()

    timers.append(PeriodicTimer(0.001, call))
    timers[0].start()
    assert done.wait(PATIENCE_S)
    timers[0].cancel()


def test_a_forgotten_timer_ends() -> None:
    timer = PeriodicTimer(0.001, lambda: None)
    timer.set_name("Forgotten")
    timer.start()
    (thread,) = (one for one in threading.enumerate() if one.name == "Forgotten")
    del timer
    gc.collect()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_call_that_fails_is_logged_and_followed_by_the_next(caplog: pytest.LogCaptureFixture) -> None:
    calls: queue.Queue[int] = queue.Queue()

    def call() -> None:
        calls.put(1)
        raise EOFError("torn")

    timer = PeriodicTimer(0.001, call)
    with caplog.at_level(logging.ERROR, "rallypoint.rendezvous"):
        timer.start()
        for _ in range(3):
            calls.get(timeout=PATIENCE_S)
        timer.cancel()
    assert "EOFError: torn" in caplog.text


@pytest.mark.parametrize("seconds", [0.01, (0.01, 0.02)])
def test_a_delay_lasts_at_least_as_long_as_asked(seconds: float | tuple[float, float]) -> None:
    started = time.monotonic()
    delay(seconds)
    assert time.monotonic() - started >= 0.01
