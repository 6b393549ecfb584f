from __future__ import annotations

import pytest
from tests.support.twins import TWINS, make_engine, over_each_twin
from tests.support.wire import VALIDATE

from rallypoint import twin
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import CloseReason, Verb
from rallypoint.server.engine import Connected, Received, Reply, Ticked
from rallypoint.server.limits import Limits
from rallypoint.server.native_engine import NativeEngine, statistics_of

# What the engine does is tested over both twins at once, in test_engine.py and in tests/model.


def test_without_the_native_twin_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rallypoint.server.native_engine.choice", lambda: twin.Choice(None, "there is none"))
    with pytest.raises(ImportError, match="there is none"):
        NativeEngine()


def test_it_is_a_twin_wherever_it_runs() -> None:
    assert ("native" in TWINS) == (twin.native() is not None)


@over_each_twin
def test_limits_past_what_a_machine_has_are_no_limits() -> None:
    engine = make_engine(Limits(handshake_timeout_s=5, stored_size_max=1 << 70))
    engine.step(Connected(1), 2)
    assert engine.next_deadline() == 7.0
    request = encode_request(Verb.SET, b"/k", b"v") + encode_request(Verb.GETNUMKEYS)
    assert engine.step(Received(1, VALIDATE + request), 2) == [Reply(1, (1).to_bytes(8, "little"))]
    assert engine.next_deadline() is None
    assert engine.step(Ticked(), 1e9) == []


@over_each_twin
def test_an_engine_may_end_before_its_peers() -> None:
    engine = make_engine()
    for peer in range(3):
        engine.step(Connected(peer), 0.0)
        engine.step(Received(peer, VALIDATE + encode_request(Verb.WAIT, [b"/q"])), 0.0)
    engine.step(Received(0, encode_request(Verb.QUEUE_PUSH, b"/q", b"") + b"\x01half"), 0.0)


def test_statistics_are_read_from_numbers() -> None:
    statistics = statistics_of([*range(11), 0, 7, *[0] * (len(CloseReason) - 2)])
    assert (statistics.connections, statistics.requests, statistics.answers_size) == (0, 8, 10)
    assert statistics.closed == {CloseReason.HANDSHAKE_TIMEOUT: 7}
