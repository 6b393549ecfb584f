from __future__ import annotations

from typing import Any

import pytest

from rallypoint.errors import LocalProtocolError, RemoteProtocolError
from rallypoint.protocol.codec import RequestError
from rallypoint.protocol.session.codec import (
    REPLY_HEAD_SIZE,
    REQUEST_HEAD_SIZE,
    decode_head,
    decode_reply,
    decode_reply_head,
    decode_request,
    encode_closing,
    encode_empty,
    encode_event,
    encode_number,
    encode_refusal,
    encode_reply,
    encode_request,
    encode_stored_head,
    reply_fields,
)
from rallypoint.protocol.session.spec import CLOSING_ID, SESSION_VERBS, EventKind, Field, SessionVerb, Status
from rallypoint.protocol.spec import KEY_SIZE_MAX, VALUE_SIZE_MAX, CloseReason

SAMPLES: dict[Field, Any] = {
    Field.U8: 1,
    Field.U32: 0xFFFF_FFFE,
    Field.I64: -(1 << 63),
    Field.KEY: b"/key",
    Field.VALUE: b"\x00value",
    Field.KEYS: [b"/a", b"", b"/b"],
    Field.PAIRS: [(b"/a", b"1"), (b"", b"")],
    Field.STORED: b"stored",
    Field.STORED_EACH: [b"one", b"", b"three"],
    Field.LISTED: [b"/a", b""],
    Field.ENTRIES: [(b"/a", 7, b"x"), (b"/b", 1 << 40, b"")],
    Field.MEMBERS: [(0, b"host-0", 1500), (3, b"", -1)],
}


def sample(layout: tuple[Field, ...]) -> tuple[Any, ...]:
    return tuple(SAMPLES[field] for field in layout)


@pytest.mark.parametrize("verb", SessionVerb)
def test_every_request_comes_back_as_it_was(verb: SessionVerb) -> None:
    fields = sample(SESSION_VERBS[verb].request)
    frame = encode_request(verb, 7, 5, *fields)
    assert int.from_bytes(frame[:4], "little") == len(frame) - 4
    assert decode_head(frame, 0) == (verb, 7, 5)
    assert decode_request(verb, frame, REQUEST_HEAD_SIZE, len(frame)) == (verb, *fields)


@pytest.mark.parametrize("verb", SessionVerb)
def test_a_request_ends_where_its_frame_does(verb: SessionVerb) -> None:
    frame = encode_request(verb, 7, 5, *sample(SESSION_VERBS[verb].request))
    for wrong in (*(frame[:size] for size in range(REQUEST_HEAD_SIZE, len(frame))), frame + b"\0"):
        with pytest.raises(RequestError) as refusal:
            decode_request(verb, wrong, REQUEST_HEAD_SIZE, len(wrong))
        assert refusal.value.reason is CloseReason.BAD_FRAME


@pytest.mark.parametrize("verb", SessionVerb)
@pytest.mark.parametrize("status", Status)
def test_every_reply_comes_back_as_it_was(status: Status, verb: SessionVerb) -> None:
    fields = sample(reply_fields(status, verb))
    frame = encode_reply(status, verb, 9, *fields)
    assert int.from_bytes(frame[:4], "little") == len(frame) - 4
    assert decode_reply_head(frame, 0) == (status, 9)
    assert decode_reply(status, verb, frame, REPLY_HEAD_SIZE, len(frame)) == fields
    if fields and fields[-1] != SAMPLES[Field.STORED_EACH]:
        with pytest.raises(RemoteProtocolError):
            decode_reply(status, verb, frame[:-1], REPLY_HEAD_SIZE, len(frame) - 1)


def test_the_short_ways_make_the_same_frames() -> None:
    assert encode_empty(3) == encode_reply(Status.OK, SessionVerb.WAIT, 3)
    assert encode_number(3, -9) == encode_reply(Status.OK, SessionVerb.ADD, 3, -9)
    assert encode_stored_head(3, 4) + b"four" == encode_reply(Status.OK, SessionVerb.GET, 3, b"four")


def test_what_belongs_to_no_request() -> None:
    closing = encode_closing(CloseReason.ENDED, "the server stops")
    assert decode_reply_head(closing, 0) == (Status.CLOSING, CLOSING_ID)
    assert decode_reply(Status.CLOSING, None, closing, REPLY_HEAD_SIZE, len(closing)) == (b"ended", b"the server stops")
    refusal = encode_refusal(4, CloseReason.STORE_FULL, "x" * 10_000)
    assert decode_reply(Status.REFUSED, None, refusal, REPLY_HEAD_SIZE, len(refusal)) == (b"store_full", b"x" * 1024)
    event = encode_event(5, EventKind.SET, b"/k", b"v", 12)
    assert decode_reply(Status.EVENT, None, event, REPLY_HEAD_SIZE, len(event)) == (0, b"/k", b"v", 12)
    with pytest.raises(RemoteProtocolError, match="what was not asked"):
        reply_fields(Status.OK, None)


@pytest.mark.parametrize("byte", [0, 12, 19, 31, 49, 255])
def test_an_unknown_verb_is_refused(byte: int) -> None:
    with pytest.raises(RequestError, match=f"verb byte of a frame is {byte},") as refusal:
        decode_request(byte, b"", 0, 0)
    assert refusal.value.reason is CloseReason.UNKNOWN_VERB


@pytest.mark.parametrize(
    ("verb", "fields", "named"),
    [
        (SessionVerb.READ, (bytes(KEY_SIZE_MAX + 1),), "8193 bytes"),
        (SessionVerb.SWAP, (b"", 0, bytes(VALUE_SIZE_MAX + 1), 0), "8388609 bytes"),
        (SessionVerb.CHECK, ([b""] * 131_073,), "131073 keys"),
        (SessionVerb.MULTI_SET, ([(b"", b"")] * 131_073,), "131073 keys"),
        (SessionVerb.MULTI_SET, ([(b"", bytes(VALUE_SIZE_MAX))] * 32,), "268435"),
        (SessionVerb.ADD, (b"", 1 << 63), "64 bits"),
        (SessionVerb.MEET, (b"", -1, 1, b""), "32 bits"),
    ],
)
def test_what_is_over_a_limit_is_not_encoded(verb: SessionVerb, fields: tuple[Any, ...], named: str) -> None:
    with pytest.raises(LocalProtocolError, match=named):
        encode_request(verb, 1, 0, *fields)


def test_a_claim_over_a_limit_is_not_decoded() -> None:
    frame = (KEY_SIZE_MAX + 1).to_bytes(8, "little")
    for verb in (SessionVerb.READ, SessionVerb.GET):
        with pytest.raises(RequestError) as refusal:
            decode_request(verb, frame, 0, len(frame))
        assert refusal.value.reason is CloseReason.FIELD_TOO_LARGE


@pytest.mark.parametrize("count", [-1, 1, 1 << 62])
def test_a_list_that_the_frame_cannot_hold_is_not_believed(count: int) -> None:
    frame = count.to_bytes(8, "little", signed=True)
    with pytest.raises(RemoteProtocolError, match=f"{count} items in 0 bytes"):
        decode_reply(Status.OK, SessionVerb.LIST_KEYS, frame, 0, 8)
