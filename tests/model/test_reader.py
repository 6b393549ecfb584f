"""The reader on any bytes in any pieces: what comes out depends on the bytes alone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from rallypoint.protocol.codec import Request, RequestError, encode_request
from rallypoint.protocol.server import RequestReader
from rallypoint.protocol.spec import MAGIC, REQUEST_SIZE_MAX, VERBS, CloseReason, Kind, Verb

VALIDATE = encode_request(Verb.VALIDATE, MAGIC)

texts = st.binary(max_size=20)
FIELDS: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.KEY: texts,
    Kind.VALUE: texts | st.just(bytes(3000)),
    Kind.I64: st.integers(-(2**63), 2**63 - 1),
    Kind.U32: st.integers(0, 2**32 - 1),
    Kind.KEYS: st.lists(texts, max_size=6),
    Kind.PAIRS: st.lists(st.tuples(texts, texts), max_size=6),
}


@st.composite
def requests(draw: st.DrawFn) -> Request:
    verb = draw(st.sampled_from([verb for verb in Verb if verb is not Verb.VALIDATE]))
    return (int(verb), *(draw(FIELDS[kind]) for kind in VERBS[verb].request))


def encoded(several: list[Request]) -> bytes:
    return b"".join(encode_request(Verb(verb), *fields) for verb, *fields in several)


def read(
    stream: bytes, cuts: list[int], size_max: int = REQUEST_SIZE_MAX
) -> tuple[list[Request], CloseReason | None, str]:
    """Give the requests in a stream that is cut at the places named, and why it was refused, if it was."""
    reader = RequestReader(size_max)
    found: list[Request] = []
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    try:
        for start, stop in pairwise(places):
            reader.feed(stream[start:stop])
            while (request := reader.next()) is not None:
                found.append(request)
    except RequestError as refusal:
        return found, refusal.reason, str(refusal)
    return found, None, ""


cut_places = st.lists(st.integers(0, 10_000), max_size=12)


@given(st.lists(requests(), max_size=8), cut_places)
def test_requests_come_out_as_they_went_in(several: list[Request], cuts: list[int]) -> None:
    found, reason, _ = read(VALIDATE + encoded(several), cuts)
    assert reason is None
    assert found == [(Verb.VALIDATE, MAGIC), *several]


@given(st.lists(requests(), max_size=4), st.binary(max_size=60), cut_places)
@example([], b"\x00", [])
@example([], b"\x05\x02" + bytes(7) + bytes(8) + b"\x01\x20" + bytes(6), [10, 15, 20])
def test_whatever_the_bytes_are_the_pieces_do_not_matter(
    several: list[Request], garbage: bytes, cuts: list[int]
) -> None:
    stream = VALIDATE + encoded(several) + garbage
    whole = read(stream, [])
    assert read(stream, cuts) == whole
    assert read(stream, list(range(len(stream)))) == whole
    assert whole[0][: len(several) + 1] == [(Verb.VALIDATE, MAGIC), *several]


@given(st.lists(requests(), max_size=4), st.binary(max_size=30), cut_places, st.integers(1, 100))
@example([(int(Verb.MULTI_SET), [(bytes(20), bytes(20))])], b"", [], 40)
@example([], encode_request(Verb.MULTI_SET, [(bytes(30), b"")])[:-8] + b"\xff" * 8, [], 40)
def test_the_same_field_is_refused_in_the_same_words_wherever_the_stream_is_cut(
    several: list[Request], garbage: bytes, cuts: list[int], size_max: int
) -> None:
    stream = VALIDATE + encoded(several) + garbage
    whole = read(stream, [], size_max)
    assert read(stream, cuts, size_max) == whole
    assert read(stream, list(range(len(stream))), size_max) == whole


@given(st.binary(min_size=1, max_size=40), cut_places)
def test_a_stranger_gets_nothing_in_before_the_handshake(stream: bytes, cuts: list[int]) -> None:
    if not stream.startswith(VALIDATE):
        found, reason, _ = read(stream, cuts)
        assert found == []
        assert reason in {CloseReason.BAD_HANDSHAKE, None}
        assert reason or VALIDATE.startswith(stream) or (stream[0] == 0 and len(stream) < len(VALIDATE))
