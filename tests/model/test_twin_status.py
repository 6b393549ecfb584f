"""What both twins say of themselves after the same scripts: the same documents, but for who says it."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from tests.support.session_script import SessionScript, read_session_limits
from tests.support.twin_script import PEERS, play
from tests.support.twins import TWINS, AnyEngine

from rallypoint.protocol.session.codec import REPLY_HEAD_SIZE as HEAD_SIZE
from rallypoint.protocol.session.codec import decode_reply, decode_reply_head, encode_request
from rallypoint.protocol.session.spec import CLOSING_ID, NONCE_SIZE, OPENING, VERSION, SessionVerb, Status
from rallypoint.server.engine import Connected, Limits, Received, Reply, Resumed, Ticked

SECTIONS = ["", "peers", "sessions", "barriers", "leases", "watches", "refusals", "keys/", "values/", "keys/a", "no"]
LOOKER = PEERS + 1


def documents(engine: AnyEngine, now: float) -> list[Any]:
    """Give all documents, or what is said instead."""
    engine.step(Connected(LOOKER, "10.0.0.1:7"), now)
    hello = (VERSION, b"", b"", b'l\xff"\xc3\xa4\n', bytes(NONCE_SIZE), 5000)
    opening = encode_request(SessionVerb.HELLO, CLOSING_ID, 0, *hello)
    engine.step(Received(LOOKER, OPENING + opening), now)
    found = []
    for number, section in enumerate(SECTIONS, 1):
        asked = encode_request(SessionVerb.STATUS, number, 0, section.encode())
        effects = engine.step(Received(LOOKER, asked), now)
        engine.step(Resumed(LOOKER), now)
        data = b"".join(each.data for each in effects if isinstance(each, Reply) and each.peer == LOOKER)
        status, _ = decode_reply_head(data, 0)
        fields = decode_reply(Status(status), SessionVerb.STATUS, data, HEAD_SIZE, len(data))
        document = json.loads(fields[0]) if status == Status.OK else fields
        if section == "watches":  # in which order sessions began to watch is not remembered everywhere
            document["watches"].sort(key=json.dumps)
        found.append(document)
    return found


@pytest.mark.parametrize("seed", range(16))
def test_the_documents_are_the_same(seed: int) -> None:
    script = SessionScript(b"\0" + random.Random(seed).randbytes(1500))
    limits = read_session_limits(script)
    engines = [make(limits) for make in TWINS.values()]
    for engine in engines:
        engine.step(Ticked(), 0.0)
    play(script, engines)
    now = 1e6  # after everything in the script
    first, *others = [documents(engine, now + 0.25) for engine in engines]
    assert first[0].pop("twin") == "python"
    for other in others:
        assert other[0].pop("twin") == "native"
        for section, one, same in zip(SECTIONS, first, other, strict=True):
            assert one == same, section


@pytest.mark.parametrize("opening", [b"RPS2", OPENING[:2] + b"x"])
def test_what_is_no_opening_has_come_and_events_were_sent_all_the_same(opening: bytes) -> None:
    found = []
    for make in TWINS.values():
        engine = make(Limits())
        for peer in (1, 2):
            engine.step(Connected(peer, "10.0.0.1:7"), 0.0)
        engine.step(Received(2, opening), 0.0)
        hello = (VERSION, b"", b"", b"", bytes(NONCE_SIZE), 5000)
        engine.step(Received(1, OPENING + encode_request(SessionVerb.HELLO, CLOSING_ID, 0, *hello)), 0.0)
        engine.step(Received(1, encode_request(SessionVerb.WATCH, 1, 0, b"/k", 0, -1)), 0.0)
        engine.step(Received(1, encode_request(SessionVerb.SET, 2, 0, b"/k", b"value")), 0.0)
        document = documents(engine, 1.0)[0]
        found.append((document["totals"]["received_size"], document["totals"]["sent_size"]))
    assert len(set(found)) == 1
