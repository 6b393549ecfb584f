from __future__ import annotations

import pytest

from rallypoint.protocol.codec import RequestError
from rallypoint.protocol.session.codec import ID_MAX, encode_request
from rallypoint.protocol.session.server import FrameReader, SessionRequest
from rallypoint.protocol.session.spec import HELLO_SIZE_MAX, OPENING, SessionVerb
from rallypoint.protocol.spec import CloseReason

HELLO = encode_request(SessionVerb.HELLO, 0, 0, 1, b"", b"", b"me", b"n" * 16, 0)
STREAM = (
    OPENING
    + HELLO
    + b"".join(
        (
            encode_request(SessionVerb.SET, 1, 0, b"/k", b"v" * 500),
            encode_request(SessionVerb.CANCEL, 0, 0, 1),
            encode_request(SessionVerb.WAIT, 3, 2, [b"/a", b"/b"]),
            encode_request(SessionVerb.MEET, 9, 2, b"/m", 1, 2, b"label"),
        )
    )
)
REQUESTS = [
    (0, 0, (SessionVerb.HELLO, 1, b"", b"", b"me", b"n" * 16, 0)),
    (1, 0, (SessionVerb.SET, b"/k", b"v" * 500)),
    (0, 0, (SessionVerb.CANCEL, 1)),
    (3, 2, (SessionVerb.WAIT, [b"/a", b"/b"])),
    (9, 2, (SessionVerb.MEET, b"/m", 1, 2, b"label")),
]


def read(reader: FrameReader, stream: bytes, cut: int) -> list[SessionRequest]:
    requests = []
    for start in range(0, len(stream), cut):
        reader.feed(stream[start : start + cut])
        while (request := reader.next()) is not None:
            requests.append(request)
    return requests


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 8, 21, 64, len(STREAM)])
def test_the_same_requests_come_out_however_the_stream_is_cut(cut: int) -> None:
    reader = FrameReader()
    assert read(reader, STREAM, cut) == REQUESTS
    assert (reader.held, reader.unread) == (0, 0)


@pytest.mark.parametrize("opening", [b"RPS2", b"\x00", b"RP\x00"])
def test_another_opening_is_refused_at_its_first_wrong_byte(opening: bytes) -> None:
    with pytest.raises(RequestError) as refusal:
        read(FrameReader(), opening, 1)
    assert refusal.value.reason is CloseReason.BAD_HANDSHAKE


def test_a_frame_may_be_large_only_once_admitted() -> None:
    frame = encode_request(SessionVerb.SET, 1, 0, b"/k", bytes(HELLO_SIZE_MAX))
    with pytest.raises(RequestError) as refusal:
        read(FrameReader(), OPENING + frame, 1)
    assert refusal.value.reason is CloseReason.REQUEST_TOO_LARGE
    reader = FrameReader(len(frame) - 4)
    reader.admit()
    assert len(read(reader, OPENING + frame, 1000)) == 1
    reader = FrameReader(len(frame) - 5)
    reader.admit()
    with pytest.raises(RequestError):
        read(reader, OPENING + frame, 1000)


@pytest.mark.parametrize("ids", [(0,), (5, 5), (5, 4), (ID_MAX + 1,)])
def test_ids_must_rise(ids: tuple[int, ...]) -> None:
    stream = b"".join(encode_request(SessionVerb.PING, request_id, 0, 1) for request_id in ids)
    with pytest.raises(RequestError, match=f"the request id {ids[-1]}") as refusal:
        read(FrameReader(), OPENING + stream, 7)
    assert refusal.value.reason is CloseReason.BAD_FRAME


def test_nothing_is_held_after_the_end() -> None:
    reader = FrameReader()
    reader.feed(STREAM[:-1])
    while reader.next() is not None:
        pass
    assert reader.held > 0
    reader.close()
    reader.close()
    assert (reader.held, reader.unread) == (0, 0)
