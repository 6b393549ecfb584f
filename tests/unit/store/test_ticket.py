from __future__ import annotations

import threading

from rallypoint.protocol.session.client import Happening, Request
from rallypoint.protocol.session.spec import EventKind, SessionVerb, Status
from rallypoint.store.ticket import Ticket, hand_out, wake_each


def asleep():
    """Give a ticket whose thread would sleep."""
    ticket = Ticket(SessionVerb.GET)
    ticket.waker = threading.Lock()
    ticket.waker.acquire()
    return ticket


def test_a_ticket_is_open_until_there_is_an_answer_or_none_can_come():
    ticket = Ticket(SessionVerb.GET)
    assert ticket.thread == threading.get_ident()
    assert ticket.is_open()
    ticket.failure = "gone"
    assert not ticket.is_open()
    ticket = Ticket(SessionVerb.GET)
    ticket.status = Status.OK
    assert not ticket.is_open()


def test_who_is_awake_is_not_disturbed():
    first, second, leader = asleep(), asleep(), asleep()
    wake_each([first, Request(SessionVerb.GET), second, first, leader, Ticket(SessionVerb.GET)], but=leader)
    assert [ticket.waker.locked() for ticket in (first, second, leader)] == [False, False, True]


def test_events_go_to_their_watches_and_wake_who_waits():
    waiting, told = asleep(), []
    watch = Ticket(SessionVerb.WATCH)

    def hear(happening):
        told.append(happening)
        return waiting if happening is None else None

    watch.hear = hear
    event = Happening(EventKind.SET, b"/k", b"v", 5)
    hand_out([(watch, event), (Ticket(SessionVerb.WATCH), event)])
    assert (told, waiting.waker.locked()) == ([event], True)
    hand_out([(watch, None)])
    assert (told, waiting.waker.locked()) == ([event, None], False)
