from __future__ import annotations

import re

import pytest

from rallypoint.protocol.codec import U32, RequestError
from rallypoint.protocol.session.frames import ROOM_SIZE_MAX, ROOM_SIZE_MIN, FrameCutter
from rallypoint.protocol.spec import CloseReason


def frame(text: bytes) -> bytes:
    return U32.pack(len(text)) + text


FRAMES = [frame(text) for text in (b"abc", b"d" * 300, b"ee", b"f" * 3, b"gg" * 17)]
STREAM = b"".join(FRAMES)


def read(cutter: FrameCutter, stream: bytes, cut: int) -> list[bytes]:
    frames = []
    for start in range(0, len(stream), cut):
        cutter.feed(stream[start : start + cut])
        frames += drained(cutter)
    return frames


def drained(cutter: FrameCutter) -> list[bytes]:
    frames = []
    while (place := cutter.next()) is not None:
        frames.append(cutter.data[slice(*place)])
    assert cutter.unread == 0
    return frames


@pytest.mark.parametrize("cut", [*range(1, 12), 64, 301, len(STREAM)])
def test_the_same_frames_come_out_however_the_stream_is_cut(cut: int) -> None:
    cutter = FrameCutter(2, 300)
    assert read(cutter, STREAM, cut) == FRAMES
    assert cutter.held == 0


@pytest.mark.parametrize("split", range(1, len(STREAM)))
def test_the_same_frames_come_out_of_two_segments(split: int) -> None:
    cutter = FrameCutter(2, 300)
    cutter.feed(STREAM[:split])
    frames = drained(cutter)
    cutter.feed(STREAM[split:])
    assert frames + drained(cutter) == FRAMES


def test_a_segment_fed_before_the_last_is_used_up_comes_behind_it() -> None:
    cutter = FrameCutter(2, 300)
    cutter.feed(STREAM)
    first = cutter.next()
    assert first is not None
    cutter.feed(STREAM)
    assert drained(cutter) == FRAMES[1:] + FRAMES


def test_what_is_held_is_what_came() -> None:
    cutter = FrameCutter(2, 1 << 30)
    cutter.feed(U32.pack(1 << 30) + b"x" * 10)
    assert cutter.next() is None
    assert (cutter.held, cutter.unread) == (14, 0)
    cutter.close()
    assert cutter.held == 0


@pytest.mark.parametrize("cut", [1, 4])
@pytest.mark.parametrize(
    ("size", "reason", "words"),
    [
        (301, CloseReason.REQUEST_TOO_LARGE, "a frame claims 301 bytes, the limit is 300"),
        (1, CloseReason.BAD_FRAME, "a frame claims 1 bytes, it must have 2"),
    ],
)
def test_a_size_that_no_frame_has_is_refused_at_once(cut: int, size: int, reason: CloseReason, words: str) -> None:
    cutter = FrameCutter(2, 300)
    with pytest.raises(RequestError, match=re.escape(words)) as refusal:
        read(cutter, U32.pack(size), cut)
    assert refusal.value.reason is reason


def large_frame(size):
    return size.to_bytes(4, "little") + bytes(range(256)) * (size // 256) + bytes(size % 256)


@pytest.mark.parametrize("size", [ROOM_SIZE_MIN + 100, 300_000])
@pytest.mark.parametrize("step", [7_000, 100_000, 1 << 20])
def test_a_large_frame_may_be_written_where_it_belongs(size, step):
    frame = large_frame(size)
    cutter = FrameCutter(2, 1 << 30)
    cutter.feed(b"\2\0\0\0ab" + frame[:50])
    assert cutter.next() == (0, 6)
    assert cutter.next() is None
    at = 50
    while at < len(frame):
        room = cutter.room()
        assert len(room) == cutter.missing == len(frame) - at
        piece = frame[at : at + step]
        room[: len(piece)] = piece
        at += len(piece)
        assert cutter.fill(len(piece)) is (at == len(frame))
        assert cutter.held == at
    assert cutter.next() == (0, len(frame))
    assert cutter.data == frame
    cutter.feed(b"\2\0\0\0cd")
    assert cutter.next() == (0, 6)
    assert (cutter.next(), cutter.held) == (None, 0)


def test_what_was_written_there_may_be_fed_on():
    frame = large_frame(300_000)
    cutter = FrameCutter(2, 1 << 30)
    cutter.feed(frame[:50])
    assert cutter.next() is None
    cutter.room()[:100] = frame[50:150]
    assert not cutter.fill(100)
    assert cutter.next() is None
    cutter.feed(frame[150:] + b"\2\0\0\0cd")
    at, end = cutter.next()
    assert cutter.data[at:end] == frame
    at, end = cutter.next()
    assert cutter.data[at:end] == b"\2\0\0\0cd"


def test_there_is_no_room_for_little_nor_for_very_much_nor_for_what_nobody_has_claimed():
    cutter = FrameCutter(2, 1 << 30)
    assert cutter.room() is None
    for size in (ROOM_SIZE_MIN - 100, ROOM_SIZE_MAX + 100):
        cutter.feed(size.to_bytes(4, "little") + b"ab")
        assert cutter.next() is None
        assert cutter.room() is None
        cutter.close()
    cutter.feed(large_frame(300_000)[:100])
    cutter.next()
    cutter.room()
    cutter.close()
    assert (cutter.held, cutter.missing, cutter.room()) == (0, 0, None)
