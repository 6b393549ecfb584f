from __future__ import annotations

import pytest
from tests.support.agents import observed

from rallypoint.errors import StoreTimeoutError
from rallypoint.rendezvous.mailbox import LOOK_S, Mailbox
from rallypoint.rendezvous.reports import Order, OrderKind, encode_order
from rallypoint.store.session_calls import Changed, Deleted, Missed
from rallypoint.testing import ManualClock

A = "a" * 32
TERM = 5
FAR_S = 3600.0


def order(number):
    return encode_order(Order(term=TERM, number=number, kind=OrderKind.WAIT, why="as told"))


class Slot:
    """Stands for the board, and for the watch: gives or raises one thing after the other, then ends the reading."""

    def __init__(self, standing=None, happened=(), pause_s=0.0):
        self.standing = standing
        self.pause_s = pause_s
        self.happened = list(happened)

    def order(self, node):
        assert node == A
        return self.standing

    def next(self, timeout_s):
        assert 0 <= timeout_s <= LOOK_S
        event = self.happened.pop(0)
        if isinstance(event, Exception):
            raise event
        return event

    def read(self):
        taken = []
        clock = ManualClock()
        mailbox = Mailbox(self, A, "run", lambda found: taken.append(found.number), clock)
        while self.happened:
            mailbox.read(self, FAR_S)
            clock.advance(self.pause_s)
        return taken


def test_what_stands_there_is_taken_and_nothing_if_nothing_does():
    taken = []
    Mailbox(Slot(), A, "run", taken.append, ManualClock()).look()
    assert taken == []
    Mailbox(Slot((order(3), 9)), A, "run", taken.append, ManualClock()).look()
    assert [found.number for found in taken] == [3]


def test_each_order_that_comes_is_taken_and_one_that_goes_changes_nothing():
    assert Slot(happened=[Changed("k", order(1), 8), Deleted("k", 9), Changed("k", order(2), 10)]).read() == [1, 2]


def test_after_a_gap_what_stands_there_is_read_again():
    assert Slot((order(4), 9), [Missed(7)]).read() == [4]


def test_after_a_long_silence_what_stands_there_is_read_again():
    silence = StoreTimeoutError("nothing was heard")
    assert Slot((order(4), 9), [silence, silence], pause_s=LOOK_S / 2).read() == []
    assert Slot((order(4), 9), [silence, silence, silence], pause_s=LOOK_S / 2).read() == [4]
    heard = Changed("k", order(3), 8)
    assert Slot((order(4), 9), [silence, heard, silence], pause_s=LOOK_S / 2).read() == [3]


@pytest.mark.parametrize(
    ("data", "revision", "words"),
    [
        (b"{}", 9, "cannot be read"),
        (order(1), TERM, "its coordinator began with change 5, and it was written before, as change 5"),
    ],
)
def test_what_is_no_order_of_a_coordinator_is_told_and_left_out(data, revision, words):
    with observed() as events:
        assert Slot(happened=[Changed("k", data, revision)]).read() == []
    assert [event.name for event in events] == ["rendezvous.trouble"]
    assert words in events[0].message
