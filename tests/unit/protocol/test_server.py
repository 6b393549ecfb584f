from __future__ import annotations

import re

import pytest

from rallypoint.protocol.codec import DECODERS, Request, RequestError, encode_request
from rallypoint.protocol.server import RequestReader
from rallypoint.protocol.spec import KEY_COUNT_MAX, MAGIC, VALUE_SIZE_MAX, CloseReason, Verb

VALIDATE = encode_request(Verb.VALIDATE, MAGIC)

REQUESTS: list[Request] = [
    (Verb.SET, b"/k", b"hello"),
    (Verb.SET, b"", b""),
    (Verb.COMPARE_SET, b"/c", b"old", b""),
    (Verb.GET, b"/k"),
    (Verb.ADD, b"/n", -7),
    (Verb.CHECK, [b"/a", b"", b"/b"]),
    (Verb.WAIT, []),
    (Verb.GETNUMKEYS,),
    (Verb.DELETE_KEY, b"/a\x00\xff"),
    (Verb.APPEND, b"/a", b"x"),
    (Verb.MULTI_GET, [b"/b"] * 5),
    (Verb.MULTI_SET, [(b"/a", b"1"), (b"", b""), (b"/b", b"22")]),
    (Verb.CANCEL_WAIT,),
    (Verb.PING, 0x11223344),
    (Verb.QUEUE_PUSH, b"/q", b"x" * 300),
    (Verb.QUEUE_POP, b"/q"),
    (Verb.QUEUE_LEN, b"/q"),
    (Verb.LIST_KEYS,),
    (Verb.BARRIER, b"/b", 2),
]
STREAM = b"".join(encode_request(Verb(verb), *fields) for verb, *fields in REQUESTS)


def opened(request_size_max: int = 1 << 20) -> RequestReader:
    reader = RequestReader(request_size_max)
    reader.feed(VALIDATE)
    assert reader.next() == (Verb.VALIDATE, MAGIC)
    assert reader.next() is None
    return reader


def drained(reader: RequestReader) -> list[Request]:
    requests = []
    while (request := reader.next()) is not None:
        requests.append(request)
    return requests


def read(reader: RequestReader, stream: bytes, cut: int) -> list[Request]:
    requests = []
    for start in range(0, len(stream), cut):
        reader.feed(stream[start : start + cut])
        requests += drained(reader)
    return requests


@pytest.mark.parametrize("cut", [1, 2, 3, 5, 8, 13, 64, 301, len(STREAM)])
def test_the_same_requests_come_out_however_the_stream_is_cut(cut: int) -> None:
    reader = opened()
    assert read(reader, STREAM, cut) == REQUESTS
    assert (reader.held, reader.unread) == (0, 0)


@pytest.mark.parametrize("split", range(1, len(STREAM)))
def test_the_same_requests_come_out_of_two_segments(split: int) -> None:
    reader = opened()
    reader.feed(STREAM[:split])
    requests = drained(reader)
    reader.feed(STREAM[split:])
    assert requests + drained(reader) == REQUESTS


def texts(field: object) -> list[object]:
    return [text for item in field for text in texts(item)] if isinstance(field, (list, tuple)) else [field]


@pytest.mark.parametrize("cut", [1, len(STREAM)])
def test_keys_and_values_are_hashable_bytes_on_every_path(cut: int) -> None:
    kinds = {type(text) for _, *fields in read(opened(), STREAM, cut) for text in texts(fields)}
    assert kinds == {bytes, int}


def test_segments_fed_before_the_reader_is_asked_are_read_in_order() -> None:
    reader = opened()
    for start in range(0, len(STREAM), 100):
        reader.feed(STREAM[start : start + 100])
    assert reader.unread == len(STREAM)
    assert drained(reader) == REQUESTS


def test_half_a_request_is_held_and_counted() -> None:
    reader = opened()
    frame = encode_request(Verb.MULTI_SET, [(b"/a", b"1"), (b"/b", b"22")])
    for end in range(1, len(frame)):
        reader.feed(frame[end - 1 : end])
        assert reader.next() is None
        assert reader.held == end
    reader.feed(frame[-1:])
    assert reader.next() == (Verb.MULTI_SET, [(b"/a", b"1"), (b"/b", b"22")])
    assert reader.held == 0


def test_whole_requests_before_half_a_request_come_out_at_once() -> None:
    reader = opened()
    ping = encode_request(Verb.PING, 1)
    reader.feed(ping + ping + encode_request(Verb.SET, b"/k", b"value")[:-1])
    assert drained(reader) == [(Verb.PING, 1)] * 2
    assert reader.held == len(encode_request(Verb.SET, b"/k", b"value")) - 1


def test_a_large_value_comes_out_whole() -> None:
    value = bytes(range(256)) * (VALUE_SIZE_MAX // 256)
    reader = opened(1 << 24)
    assert read(reader, encode_request(Verb.SET, b"/k", value), 65_521) == [(Verb.SET, b"/k", value)]


def test_a_claim_takes_no_memory() -> None:
    reader = opened(1 << 24)
    reader.feed(encode_request(Verb.SET, b"/k", b"")[:-8] + VALUE_SIZE_MAX.to_bytes(8, "little"))
    assert reader.next() is None
    assert reader.held == 19


class CountingBytes(bytes):
    """A segment that counts how often bytes were taken out of it."""

    taken = 0

    def __getitem__(self, index: object) -> object:  # type: ignore[override]
        piece = super().__getitem__(index)  # type: ignore[index]
        CountingBytes.taken += len(piece) if isinstance(piece, bytes) else 1
        return piece


@pytest.mark.parametrize("cut", [1, 7, 1000, 65_536])
@pytest.mark.parametrize("verb", [Verb.CHECK, Verb.MULTI_SET])
def test_each_byte_of_a_long_list_is_taken_at_most_twice(verb: Verb, cut: int) -> None:
    keys = [b"/%05d" % number for number in range(20_000)]
    frame = encode_request(verb, keys if verb is Verb.CHECK else [(key, b"v") for key in keys])
    CountingBytes.taken = 0
    reader = opened()
    for start in range(0, len(frame), cut):
        reader.feed(CountingBytes(frame[start : start + cut]))
        request = reader.next()
    assert request is not None
    assert len(request[1]) == len(keys)
    assert CountingBytes.taken <= 2 * len(frame)


def test_a_list_of_the_largest_count_comes_out() -> None:
    keys = [b"k"] * KEY_COUNT_MAX
    requests = read(opened(1 << 24), encode_request(Verb.CHECK, keys), 4096)
    assert requests == [(Verb.CHECK, keys)]


# --- the handshake ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 5])
def test_validate_may_be_cut(cut: int) -> None:
    reader = RequestReader()
    assert not reader.is_validated
    assert read(reader, VALIDATE + encode_request(Verb.PING, 1), cut) == [(Verb.VALIDATE, MAGIC), (Verb.PING, 1)]
    assert reader.is_validated


@pytest.mark.parametrize("cut", [1, 5])
def test_another_magic_is_refused_once_it_is_complete(cut: int) -> None:
    reader = RequestReader()
    with pytest.raises(RequestError, match=r"^VALIDATE carries 0x12345678 instead of 0x3c85f7ce$") as caught:
        read(reader, bytes.fromhex("0078563412"), cut)
    assert caught.value.reason is CloseReason.BAD_HANDSHAKE
    assert not reader.is_validated


def test_a_stranger_is_refused_at_its_first_byte() -> None:
    reader = RequestReader()
    reader.feed(b"G")
    with pytest.raises(RequestError, match=r"opened with the byte 0x47 instead of VALIDATE \(0x00\)") as caught:
        reader.next()
    assert caught.value.reason is CloseReason.BAD_HANDSHAKE


def test_validate_again_is_refused() -> None:
    reader = opened()
    reader.feed(VALIDATE)
    with pytest.raises(RequestError, match="VALIDATE came again") as caught:
        reader.next()
    assert caught.value.reason is CloseReason.UNKNOWN_VERB


# --- limits ----------------------------------------------------------------------------------------------


def length(size: int) -> bytes:
    return size.to_bytes(8, "little")


@pytest.mark.parametrize("cut", [1, 9, 100])
@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (b"\x03" + length(8193), "GET claims a key of 8193 bytes, the limit is 8192"),
        (b"\x01" + length(0) + length(8_388_609), "SET claims a value of 8388609 bytes, the limit is 8388608"),
        (b"\x05" + length(131_073), "CHECK claims a list of 131073 items, the limit is 131072"),
        (b"\x05" + length(2) + length(0) + length(8193), "CHECK claims a key of 8193 bytes, the limit is 8192"),
        (b"\x0b" + length(1) + length(8193), "MULTI_SET claims a key of 8193 bytes, the limit is 8192"),
        (
            b"\x0b" + length(1) + length(0) + length(8_388_609),
            "MULTI_SET claims a value of 8388609 bytes, the limit is 8388608",
        ),
    ],
)
def test_a_length_over_its_limit_is_refused_as_soon_as_it_is_complete(frame: bytes, message: str, cut: int) -> None:
    assert read(opened(), frame[:-1], cut) == []
    with pytest.raises(RequestError, match=f"^{re.escape(message)}$") as caught:
        read(opened(), frame, cut)
    assert caught.value.reason is CloseReason.FIELD_TOO_LARGE


@pytest.mark.parametrize("cut", [1, 7, 200])
@pytest.mark.parametrize(
    "frame",
    [
        encode_request(Verb.SET, b"k" * 60, b"v" * 60),
        encode_request(Verb.CHECK, [b"k" * 10] * 8),
        encode_request(Verb.MULTI_SET, [(b"k", b"v")] * 8),
    ],
)
def test_a_request_over_the_limit_as_a_whole_is_refused(frame: bytes, cut: int) -> None:
    assert len(read(opened(len(frame)), frame, cut)) == 1
    with pytest.raises(RequestError, match=rf"is \d+ bytes long or longer, the limit is {len(frame) - 1}$") as caught:
        read(opened(len(frame) - 1), frame, cut)
    assert caught.value.reason is CloseReason.REQUEST_TOO_LARGE


def test_a_request_over_the_limit_is_refused_before_its_body_comes() -> None:
    reader = opened(100)
    with pytest.raises(RequestError):
        read(reader, encode_request(Verb.SET, b"/k", bytes(100))[:19], 1)


@pytest.mark.parametrize("cut", [1, 100])
def test_requests_before_an_unknown_verb_come_out_first(cut: int) -> None:
    reader = opened()
    ping = encode_request(Verb.PING, 1)
    assert read(reader, ping + ping, cut) == [(Verb.PING, 1)] * 2
    reader.feed(ping + b"\x13")
    assert reader.next() == (Verb.PING, 1)
    with pytest.raises(RequestError, match="the verb byte is 19"):
        reader.next()


def test_a_closed_reader_holds_nothing() -> None:
    reader = opened()
    assert read(reader, encode_request(Verb.MULTI_SET, [(b"/k", bytes(100))] * 3)[:-5], 7) == []
    assert reader.held
    for _ in range(2):
        reader.close()
        assert (reader.held, reader.unread) == (0, 0)


def test_requests_behind_validate_may_have_decoders_of_their_own():
    decoders = list(DECODERS)
    decoders[Verb.GET] = lambda verb, data, at, end: (end, (verb, b"mine"))
    reader = RequestReader(1 << 20, tuple(decoders))
    reader.feed(VALIDATE + encode_request(Verb.ADD, b"/n", 1) + encode_request(Verb.GET, b"/k"))
    assert [reader.next() for _ in range(4)] == [
        (Verb.VALIDATE, MAGIC),
        (Verb.ADD, b"/n", 1),
        (Verb.GET, b"mine"),
        None,
    ]
    reader.feed(VALIDATE)
    with pytest.raises(RequestError, match="VALIDATE came again"):
        reader.next()
