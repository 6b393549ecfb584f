from __future__ import annotations

import hmac
import random

import pytest
from tests.support.twins import TWINS, AnyEngine, make_engine, over_each_twin
from tests.support.wire import VALIDATE

from rallypoint import twin
from rallypoint.errors import DistNetworkError
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.session.auth import Hello, Token, Welcome
from rallypoint.protocol.session.handshake import handshake
from rallypoint.protocol.session.spec import NONCE_SIZE
from rallypoint.protocol.spec import CloseReason, Verb
from rallypoint.server.engine import Close, Connected, Effect, Engine, Received, Reply, Ticked
from rallypoint.server.limits import Limits
from rallypoint.server.native_engine import NativeEngine, statistics_of
from rallypoint.server.security import Security
from rallypoint.server.vocabulary import Origin

NATIVE = list(filter(None, [twin.native()]))  # the module, if there is one

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


@pytest.mark.parametrize("key_size", [0, 1, 64, 65, 200])
@pytest.mark.parametrize("text_size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 1000, 100_000])
def test_its_proofs_are_the_librarys(key_size: int, text_size: int) -> None:
    chance = random.Random(key_size + text_size)
    key, text = chance.randbytes(key_size), chance.randbytes(text_size)
    assert all(module.hmac_sha256(key, text) == hmac.digest(key, text, "sha256") for module in NATIVE)


def open_with(engine: AnyEngine, client: Token | None) -> tuple[list[Effect], Welcome | str]:
    """Have a peer open a connection; give the effects of its last step, and what it takes them for."""
    generator = handshake(Hello(b"", b"", b"label", bytes(range(NONCE_SIZE)), 2000), client)
    effects = engine.step(Connected(1), 0.0)
    asked, unread = next(generator), b""
    try:
        while True:
            if isinstance(asked, bytes):
                effects = engine.step(Received(1, asked), 0.0)
                unread += b"".join(effect.data for effect in effects if isinstance(effect, Reply))
                asked = next(generator)
            else:
                taken, unread = unread[:asked], unread[asked:]
                asked = generator.send(taken)
    except StopIteration as done:
        return effects, done.value
    except DistNetworkError as error:
        return effects, str(error)


TOKEN = Token("0123456789abcdef0123456789abcdef")
OTHER = Token("another0123456789abcdef012345678")


def guarded_engines() -> list[AnyEngine]:
    """Give an engine of each twin that wants the job's token."""
    engines: list[AnyEngine] = [Engine(gate=Security({"": TOKEN}).gate())]
    return engines + [NativeEngine(token=TOKEN) for _ in NATIVE]


def test_both_twins_prove_and_want_the_token() -> None:
    found = [open_with(engine, TOKEN) for engine in guarded_engines()]
    assert all(isinstance(welcome, Welcome) for _, welcome in found)
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("client", [OTHER, None])
def test_both_twins_refuse_who_cannot_prove_it_in_the_same_words(client: Token | None) -> None:
    found = [open_with(engine, client) for engine in guarded_engines()]
    assert all(each == found[0] for each in found)
    assert not isinstance(found[0][1], Welcome)


@pytest.mark.parametrize("origin", [Origin("192.0.2.7"), Origin("2001:db8::1"), Origin(), Origin(is_local=True)])
def test_both_twins_refuse_c10d_from_elsewhere(origin: Origin) -> None:
    steps = []
    for engine in guarded_engines():
        engine.step(Connected(1, origin=origin), 0.0)
        steps.append(engine.step(Received(1, VALIDATE + encode_request(Verb.PING, 7)), 0.0))
    assert all(each == steps[0] for each in steps)
    assert isinstance(steps[0][0], Reply if origin.is_local else Close)


def test_a_seed_of_another_size_is_refused() -> None:
    for _ in NATIVE:
        with pytest.raises(ValueError, match="the seed has 3 bytes, it must have 32"):
            NativeEngine(seed=b"abc")
