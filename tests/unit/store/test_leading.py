"""Who leads; what leaders and followers do for each other over many calls is tested in ``test_trunk``."""

from __future__ import annotations

import threading
from time import monotonic

from tests.support.session_peer import opened_trunk, session_peer

from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.store.ticket import Ticket

V = SessionVerb
LONG_S = 60.0

peer = session_peer
line = opened_trunk


def test_whoever_was_interrupted_goes_on_leading(line):
    trunk, _ = line
    interrupted, handlers, other = Ticket(V.GET), Ticket(V.GET), Ticket(V.GET)
    other.thread = 0
    assert trunk._take_lead(interrupted)
    assert trunk._take_lead(handlers)
    handlers.status = Status.OK
    assert not trunk._take_lead(other)
    trunk.leave(handlers)
    assert trunk._leader is interrupted
    trunk.leave(interrupted)
    assert trunk._take_lead(other)
    trunk.leave(other)


def test_whoever_was_overtaken_reads_no_more(line):
    trunk, server = line
    late, quick = Ticket(V.GET), Ticket(V.GET)
    quick.thread = 0
    assert trunk._take_lead(late)
    late.status = Status.EVENT  # from another thread, before it reads
    assert trunk._take_lead(quick)
    server.ok(V.PING, 1, 0)
    trunk._read(trunk.link, late, 0.0)
    assert (late.leads, quick.leads, trunk._leader) == (False, True, quick)
    assert trunk.link.stream.take(0, is_patient=True)


def test_one_leads_and_the_next_when_that_leaves(line):
    trunk, _ = line
    first, second = Ticket(V.GET), Ticket(V.GET)
    second.thread = 0
    assert trunk._take_lead(first)
    assert trunk.is_read
    assert not trunk._take_lead(second)
    trunk.leave(first)
    assert not trunk.is_read
    assert trunk._take_lead(second)
    trunk.leave(second)


def test_who_was_woken_to_lead_and_goes_wakes_the_next(line):
    trunk, _ = line
    leader, first, second = Ticket(V.GET), Ticket(V.GET), Ticket(V.GET)
    first.thread = second.thread = 0
    second.waker = threading.Lock()
    second.waker.acquire()
    trunk._followers = {first: None, second: None}
    assert trunk._take_lead(leader)
    trunk.leave(first)
    trunk.leave(leader)
    assert second.waker.locked()
    del trunk._followers[first]
    trunk.leave(first)
    assert not second.waker.locked()


def test_whoever_was_overtaken_in_its_sleep_does_not_speak_for_who_reads(line):
    trunk, server = line
    late, quick = Ticket(V.GET), Ticket(V.GET)
    quick.thread = 0
    late.sleeps = True
    assert trunk._take_lead(late)
    late.status = Status.EVENT
    assert trunk._take_lead(quick)
    trunk._busy = quick.thread
    server.ok(V.PING, 1, 0)
    trunk._read(trunk.link, late, monotonic() + LONG_S)
    assert (late.leads, trunk._busy) == (False, quick.thread)
    trunk._busy = None


class Followers(dict):
    """Those who follow; tells that somebody does."""

    def __init__(self):
        super().__init__()
        self.have_come = threading.Event()

    def __setitem__(self, ticket, value):
        super().__setitem__(ticket, value)
        self.have_come.set()


def test_who_leaves_wakes_who_follows(line, pool):
    trunk, server = line
    leader, follower = trunk.begin([(V.PING, (1,)), (V.PING, (2,))])
    follower.thread = 0
    trunk._followers = followers = Followers()
    assert trunk._take_lead(leader)
    following = pool.submit(trunk.wait, follower, monotonic() + LONG_S)
    assert followers.have_come.wait(LONG_S)
    for number in (1, 2):
        server.ok(V.PING, server.expect(V.PING, number), number)
    trunk.leave(leader)
    assert following.result(LONG_S)
    assert trunk.wait(leader, monotonic() + LONG_S)
