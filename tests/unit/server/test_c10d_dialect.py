from __future__ import annotations

import pytest

from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.server import RequestReader
from rallypoint.protocol.spec import MAGIC, CloseReason, Verb
from rallypoint.server.c10d_dialect import C10dDialect
from rallypoint.server.ground import Ground
from rallypoint.server.limits import Limits
from rallypoint.server.peer import Peer
from rallypoint.server.vocabulary import Connected, Pause, Reply

SET = encode_request(Verb.SET, b"/k", b"value")
GET = encode_request(Verb.GET, b"/k")


class Bench:
    """One peer past its handshake, and what its host is told of it."""

    def __init__(self, forbids=None, **limits):
        self.ground = Ground(Limits(**limits))
        self.admitted, self.held, self.closed = [], [], []
        self.peer = Peer(lambda *_: None, Connected(1, "10.0.0.1:5"), 0.0)
        self.peer.reader = RequestReader(1000)
        self.peers = {1: self.peer}
        self.dialect = C10dDialect(self.ground, self, forbids)
        self.serve(encode_request(Verb.VALIDATE, MAGIC))

    def admit(self, peer):
        self.admitted.append(peer)

    def hold(self, state):
        self.held.append(state.reader.held)

    def close(self, peer, reason, detail):
        self.closed.append((peer, reason, detail))

    def serve(self, data):
        self.ground.effects = []
        self.dialect.serve(1, self.peer, data, 5.0)
        return self.ground.effects


def test_whole_requests_are_applied_in_their_order_and_counted():
    bench = Bench()
    assert bench.admitted == [1]
    effects = bench.serve(SET + GET)
    assert effects == [Reply(1, b"\x05" + bytes(7) + b"value")]
    assert (bench.dialect.requests, bench.ground.now) == (3, 5.0)
    assert (bench.peer.received, bench.peer.sent) == (len(encode_request(Verb.VALIDATE, MAGIC) + SET + GET), 13)


def test_what_is_begun_is_held_and_goes_on():
    bench = Bench()
    assert bench.serve(SET + GET[:3]) == []
    assert bench.held == [3]
    assert bench.serve(GET[3:]) == [Reply(1, b"\x05" + bytes(7) + b"value")]


def test_a_peer_that_causes_too_much_is_paused_and_what_it_has_sent_waits():
    bench = Bench(output_size_max=10)
    bench.serve(SET)
    assert [type(effect) for effect in bench.serve(GET + GET)] == [Reply, Pause]
    assert bench.serve(GET) == []
    bench.peer.is_paused = False
    assert [type(effect) for effect in bench.serve(b"")] == [Reply, Pause]


def test_a_refusal_closes_the_peer_that_asked():
    bench = Bench()
    bench.serve(SET + encode_request(Verb.ADD, b"/k", 1) + GET)
    ((peer, reason, _),) = bench.closed
    assert (peer, reason) == (1, CloseReason.NOT_A_NUMBER)


@pytest.mark.parametrize("why", [None, "it may not"])
def test_whether_a_peer_may_is_asked_before_each_request(why):
    asked = []
    bench = Bench(forbids=lambda identity, request: asked.append((identity, request)) or why)
    bench.serve(SET)
    assert [(identity, request[0]) for identity, request in asked] == [(b"", Verb.VALIDATE), (b"", Verb.SET)]
    assert [reason for _, reason, _ in bench.closed] == ([] if why is None else [CloseReason.FORBIDDEN] * 2)


def test_a_step_that_is_late_leaves_the_rest_for_the_next():
    bench = Bench()
    asked = []
    bench.ground.is_late = lambda requests: asked.append(requests) or requests == 2
    bench.serve(SET)
    assert asked == []  # nothing is left for later
    assert bench.serve(GET * 3) == [*[Reply(1, b"\x05" + bytes(7) + b"value")] * 2, Pause(1)]
    assert asked == [1, 2]
    bench.peer.is_paused = False
    assert len(bench.serve(b"")) == 1
