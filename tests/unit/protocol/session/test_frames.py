from __future__ import annotations

import re

import pytest

from rallypoint.protocol.codec import U32, RequestError
from rallypoint.protocol.session.frames import FrameCutter
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
