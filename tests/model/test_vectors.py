"""The bytes captured from a torch 2.13.0 server, replayed against the engine, cut in several ways."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.twins import over_each_twin
from tests.support.wire import VALIDATE, Wire

from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.session.spec import OPENING
from rallypoint.protocol.spec import CloseReason, Verb

VECTORS: dict[str, dict[str, Any]] = {
    vector["name"]: vector
    for line in (Path(__file__).parents[1] / "support" / "vectors.jsonl").read_text().splitlines()
    for vector in [json.loads(line)]
}

pytestmark = over_each_twin

# Where torch's server does what no client can want, ours does this instead.
OURS = {
    # torch's keeps the connection until the next byte comes; we close at once.
    "validate_bad_magic": {"state": "eof"},
    # torch's wakes the waiter although the key is still missing; we wake for a key that is there.
    "wait_then_failed_compare_set_by_other": {"recv_after": ""},
}


@pytest.mark.parametrize("cut", [None, 1, 3, 64])
@pytest.mark.parametrize("name", VECTORS)
def test_a_captured_exchange_is_repeated_byte_for_byte(name: str, cut: int | None) -> None:
    vector = {**VECTORS[name], **OURS.get(name, {})}
    wire = Wire()
    other = wire.connect()
    for frame in vector["setup"]:
        other.send(bytes.fromhex(frame))
    other.read()
    tested = wire.connect(validates=vector["validate"], cut=cut)
    tested.send(bytes.fromhex(vector["send"]))
    assert tested.read().hex() == vector["recv"]
    assert (tested.closed is None) == (vector["state"] == "open")
    for frame, reply in zip(vector["other_after"], vector.get("other_recv", []), strict=True):
        other.send(bytes.fromhex(frame))
        assert other.read().hex() == reply
    if vector["other_after"]:
        assert tested.read().hex() == vector["recv_after"]
        assert (tested.closed is None) == (vector["state_after"] == "open")


def test_all_captured_exchanges_are_there() -> None:
    assert len(VECTORS) == 47
    assert set(OURS) <= set(VECTORS)


@pytest.mark.parametrize("verb", [verb for verb in range(256) if verb not in (Verb.VALIDATE, OPENING[0])])
def test_a_first_frame_that_is_not_validate_is_refused_at_its_first_byte(verb: int) -> None:
    # torch's keeps the connection, and executes the request when the next segment comes.
    tested = Wire().connect(validates=False)
    tested.send(bytes((verb,)))
    assert tested.closed is not None
    assert tested.closed.reason is CloseReason.BAD_HANDSHAKE
    assert tested.read() == b""


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_validate_may_be_split(cut: int) -> None:
    # torch's closes the connection.
    tested = Wire().connect(validates=False, cut=cut)
    tested.send(VALIDATE + encode_request(Verb.PING, 7))
    assert tested.read() == b"\x07\x00\x00\x00"
    assert tested.closed is None
