from __future__ import annotations

from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import MAGIC, CloseReason, Verb
from rallypoint.server.engine import Connected, Engine, Limits, Received
from rallypoint.server.peer import REFUSALS_KEPT

VALIDATE = encode_request(Verb.VALIDATE, MAGIC)


def test_the_engine_knows_where_a_peer_comes_from_since_when_and_its_bytes() -> None:
    engine = Engine()
    engine.step(Connected(7, "10.0.0.1:5"), 3.0)
    engine.step(Received(7, VALIDATE), 4.0)
    engine.step(Received(7, encode_request(Verb.PING, 1)), 4.0)
    peer = engine.peers[7]
    assert (peer.address, peer.since, peer.received, peer.sent) == ("10.0.0.1:5", 3.0, 10, 4)
    assert peer.is_validated()


def test_the_last_refusals_are_remembered() -> None:
    engine = Engine(Limits(connections_max=1))
    engine.step(Connected(1, "a"), 0.0)
    engine.step(Received(1, VALIDATE), 0.0)
    for number in range(2 * REFUSALS_KEPT):
        engine.step(Connected(2, "b"), float(number))
    engine.step(Received(1, b"\xff"), 999.0)
    assert len(engine.refused) == REFUSALS_KEPT
    at, address, reason, detail = engine.refused[-1]
    assert (at, address, reason) == (999.0, "a", CloseReason.UNKNOWN_VERB)
    assert "255" in detail
    assert engine.refused[0].reason is CloseReason.TOO_MANY_CONNECTIONS
