from __future__ import annotations

from rallypoint.gateway.peers import Peer
from rallypoint.gateway.slots import make_slot
from rallypoint.protocol.server import RequestReader
from rallypoint.protocol.session.spec import Status
from rallypoint.protocol.spec import Verb


def peer_with(*requests):
    peer = Peer(7, RequestReader())
    slots = [make_slot(request) for request in requests]
    for slot in slots:
        peer.slots.append(slot)
        peer.size += slot.size
    return peer, slots


def test_slots_leave_in_order_when_they_are_filled():
    peer, (first, second) = peer_with((Verb.ADD, b"n", 1), (Verb.ADD, b"n", 2))
    second.take(0, Status.OK, (3,))
    assert list(peer.leaving()) == []
    first.take(0, Status.OK, (1,))
    assert list(peer.leaving()) == [first, second]
    assert (peer.size, len(peer.slots)) == (0, 0)


def test_a_wait_keeps_nobody_and_its_place():
    peer, (wait, ping, later) = peer_with((Verb.WAIT, [b"k"]), (Verb.PING, 1), (Verb.PING, 2))
    ping.take(0, Status.OK, (1,))
    assert list(peer.leaving()) == [ping]
    assert list(peer.slots) == [wait, later]
    assert peer.size == wait.size + later.size


def test_a_peer_is_stalled_until_the_reply_of_any_size_leaves():
    peer, (get,) = peer_with((Verb.GET, b"k"))
    peer.is_stalled = True
    get.take(0, None, (b"reply",))
    assert [slot.pieces for slot in peer.leaving()] == [(b"reply",)]
    assert not peer.is_stalled
