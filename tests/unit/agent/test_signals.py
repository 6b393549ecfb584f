from __future__ import annotations

import os
import signal
import threading

import pytest

from rallypoint.agent.signals import parse_signals, takeable_signals, taken_signals


def test_signals_are_named_with_or_without_prefix_or_numbered() -> None:
    assert parse_signals("SIGTERM, int,1,SIGTERM,") == (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@pytest.mark.parametrize("text", ["SIGBOGUS", "SIGTERM,999"])
def test_what_is_no_signal_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is no signal"):
        parse_signals(text)


@pytest.mark.parametrize("text", ["SIGKILL", "STOP"])
def test_signals_that_nobody_can_take_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be handled"):
        parse_signals(text)


def test_a_signal_is_taken_inside_and_given_back_outside() -> None:
    taken: list[int] = []
    before = signal.getsignal(signal.SIGUSR1)

    with taken_signals((signal.SIGUSR1,), lambda number, _: taken.append(number)):
        os.kill(os.getpid(), signal.SIGUSR1)

    assert taken == [signal.SIGUSR1]
    assert signal.getsignal(signal.SIGUSR1) is before


def test_only_what_would_be_taken_here_is_promised() -> None:
    numbers = (signal.SIGUSR1, signal.SIGUSR2)
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        assert takeable_signals(numbers) == (signal.SIGUSR2,)
    finally:
        signal.signal(signal.SIGUSR1, before)
    found: list[tuple[int, ...]] = []
    thread = threading.Thread(target=lambda: found.append(takeable_signals(numbers)))
    thread.start()
    thread.join()
    assert found == [()]


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with taken_signals((signal.SIGUSR1,), lambda number, _: None):
            assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_another_thread_takes_no_signals() -> None:
    before, seen = signal.getsignal(signal.SIGUSR1), []

    def look() -> None:
        with taken_signals((signal.SIGUSR1,), lambda number, _: None):
            seen.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join(30)

    assert seen == [before]
