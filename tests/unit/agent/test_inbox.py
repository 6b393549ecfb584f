from __future__ import annotations

import signal

from rallypoint.agent.inbox import Inbox
from rallypoint.agent.moves import SignalReceived, Ticked
from rallypoint.agent.signals import taken_signals


def test_events_come_in_the_order_in_which_they_were_put() -> None:
    inbox = Inbox()
    inbox.put(Ticked())
    inbox.put(SignalReceived(15))

    assert [inbox.get(0.0, 1), inbox.get(0.0, 1), inbox.get(0.0, 1)] == [Ticked(), SignalReceived(15), None]


def test_an_event_about_another_round_is_dropped() -> None:
    inbox = Inbox()
    inbox.put(Ticked(), token=1)
    inbox.put(Ticked(), token=2)

    assert inbox.get(0.0, 2) is None
    assert inbox.get(0.0, 2) == Ticked()


def test_every_event_wakes_whoever_waits_elsewhere() -> None:
    inbox, woken = Inbox(), []
    inbox.wake = lambda: woken.append(True)

    inbox.put(Ticked())

    assert woken == [True]


def test_a_signal_ends_a_wait_in_progress() -> None:
    inbox = Inbox()
    with taken_signals((signal.SIGALRM,), lambda number, _: inbox.put(SignalReceived(number))):
        signal.setitimer(signal.ITIMER_REAL, 0.01)

        assert inbox.get(60.0, 0) == SignalReceived(signal.SIGALRM)
