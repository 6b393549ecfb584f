from __future__ import annotations

import re

import pytest

from rallypoint.errors import DistError, LocalProtocolError, RemoteProtocolError
from rallypoint.protocol.codec import DECODERS, RequestError, encode_request, too_large
from rallypoint.protocol.spec import (
    KEY_COUNT_MAX,
    KEY_SIZE_MAX,
    MAGIC,
    REQUEST_SIZE_MAX,
    VALUE_SIZE_MAX,
    CloseReason,
    Verb,
)

# Frames as recorded from a torch 2.13.0 client.
FRAMES = {
    (Verb.VALIDATE, MAGIC): "00cef7853c",
    (Verb.SET, b"/k", b"hello"): "0102000000000000002f6b050000000000000068656c6c6f",
    (Verb.COMPARE_SET, b"/c", b"old", b"new"): "0202000000000000002f6303000000000000006f6c6403000000000000006e6577",
    (Verb.GET, b"/k"): "0302000000000000002f6b",
    (Verb.ADD, b"/n", -7): "0402000000000000002f6ef9ffffffffffffff",
    (Verb.CHECK, (b"/a", b"/b")): "05020000000000000002000000000000002f6102000000000000002f62",
    (Verb.WAIT, ()): "060000000000000000",
    (Verb.GETNUMKEYS,): "07",
    (Verb.DELETE_KEY, b"/a"): "0802000000000000002f61",
    (Verb.APPEND, b"/a", b"x"): "0902000000000000002f61010000000000000078",
    (Verb.MULTI_GET, (b"/b", b"/a")): "0a020000000000000002000000000000002f6202000000000000002f61",
    (
        Verb.MULTI_SET,
        ((b"/a", b"1"), (b"/b", b"22")),
    ): "0b020000000000000002000000000000002f6101000000000000003102000000000000002f6202000000000000003232",
    (Verb.CANCEL_WAIT,): "0c",
    (Verb.PING, 0x11223344): "0d44332211",
    (Verb.QUEUE_PUSH, b"/q", b"x"): "0e02000000000000002f71010000000000000078",
    (Verb.QUEUE_POP, b"/q"): "0f02000000000000002f71",
    (Verb.QUEUE_LEN, b"/q"): "1002000000000000002f71",
    (Verb.LIST_KEYS,): "11",
    (Verb.BARRIER, b"/b", 2): "1202000000000000002f620200000000000000",
}


def listed(request: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(list(field) if isinstance(field, tuple) else field for field in request)


@pytest.mark.parametrize(("request_", "frame"), FRAMES.items(), ids=lambda field: "")
def test_a_request_has_the_bytes_that_torch_sends(request_: tuple[object, ...], frame: str) -> None:
    verb, *fields = request_
    assert encode_request(Verb(verb), *fields).hex() == frame


@pytest.mark.parametrize(("request_", "frame"), FRAMES.items(), ids=lambda field: "")
def test_decoding_gives_the_request_back(request_: tuple[object, ...], frame: str) -> None:
    data = b"?" + bytes.fromhex(frame) + b"rest"
    assert DECODERS[data[1]](data[1], data, 2, len(data)) == (len(data) - 4, listed(request_))


@pytest.mark.parametrize(("request_", "frame"), FRAMES.items(), ids=lambda field: "")
def test_a_request_cut_anywhere_is_not_decoded(request_: tuple[object, ...], frame: str) -> None:
    data = bytes.fromhex(frame)
    for end in range(1, len(data)):
        assert DECODERS[data[0]](data[0], data[:end], 1, end) is None
        # The bytes behind ``end`` are not looked at either.
        assert DECODERS[data[0]](data[0], data, 1, end) is None


def test_every_verb_is_among_the_recorded_frames() -> None:
    assert {request[0] for request in FRAMES} == set(Verb)


@pytest.mark.parametrize("byte", [19, 20, 71, 255])
def test_an_unknown_verb_is_refused_by_its_number(byte: int) -> None:
    with pytest.raises(RequestError, match=f"the verb byte is {byte}, the last known one is 18") as caught:
        DECODERS[byte](byte, bytes((byte,)), 1, 1)
    assert caught.value.reason is CloseReason.UNKNOWN_VERB
    assert isinstance(caught.value, RemoteProtocolError)


def length(size: int) -> bytes:
    return size.to_bytes(8, "little")


OVERSIZE = [
    (Verb.GET, length(KEY_SIZE_MAX + 1), "GET claims a key of 8193 bytes, the limit is 8192"),
    (Verb.ADD, length(1 << 63), "ADD claims a key of 9223372036854775808 bytes, the limit is 8192"),
    (Verb.SET, length(KEY_SIZE_MAX + 1), "SET claims a key of 8193 bytes, the limit is 8192"),
    (Verb.SET, length(0) + length(VALUE_SIZE_MAX + 1), "SET claims a value of 8388609 bytes, the limit is 8388608"),
    (
        Verb.COMPARE_SET,
        length(0) + length(0) + length(VALUE_SIZE_MAX + 1),
        "COMPARE_SET claims a value of 8388609 bytes, the limit is 8388608",
    ),
    (Verb.CHECK, length(KEY_COUNT_MAX + 1), "CHECK claims a list of 131073 items, the limit is 131072"),
    (Verb.CHECK, length(2) + length(0) + length(8193), "CHECK claims a key of 8193 bytes, the limit is 8192"),
    (Verb.MULTI_SET, length(KEY_COUNT_MAX + 1), "MULTI_SET claims a list of 131073 items, the limit is 131072"),
    (
        Verb.MULTI_SET,
        length(1) + length(0) + length(VALUE_SIZE_MAX + 1),
        "MULTI_SET claims a value of 8388609 bytes, the limit is 8388608",
    ),
]


@pytest.mark.parametrize(("verb", "fields", "message"), OVERSIZE)
def test_a_length_over_its_limit_is_refused_without_its_body(verb: Verb, fields: bytes, message: str) -> None:
    with pytest.raises(RequestError, match=f"^{re.escape(message)}$") as caught:
        DECODERS[verb](verb, fields, 0, len(fields))
    assert caught.value.reason is CloseReason.FIELD_TOO_LARGE


def test_lengths_at_their_limits_are_taken() -> None:
    key = bytes(KEY_SIZE_MAX)
    value = bytes(VALUE_SIZE_MAX)
    data = encode_request(Verb.SET, key, value)
    assert DECODERS[Verb.SET](Verb.SET, data, 1, len(data)) == (len(data), (Verb.SET, key, value))
    data = encode_request(Verb.CHECK, [b""] * KEY_COUNT_MAX)
    found = DECODERS[Verb.CHECK](Verb.CHECK, data, 1, len(data))
    assert found is not None
    assert len(found[1][1]) == KEY_COUNT_MAX


@pytest.mark.parametrize(
    ("verb", "fields", "message"),
    [
        (Verb.GET, (b"/" + bytes(8192),), r"is 8193 bytes long on the wire, the limit is 8192 bytes"),
        (Verb.WAIT, ([b"/a", b"/" + b"k" * 8192],), r"^the key b'/k+'\.\.\. is 8193 bytes long on the wire"),
        (Verb.SET, (b"/k", bytes(VALUE_SIZE_MAX + 1)), r"^the value for key b'/k' is 8388609 bytes long, the limit is"),
        (Verb.COMPARE_SET, (b"/k", b"", bytes(VALUE_SIZE_MAX + 1)), r"^the value for key b'/k' is 8388609 bytes long"),
        (Verb.MULTI_SET, ([(b"/k", bytes(VALUE_SIZE_MAX + 1))],), r"^the value for key b'/k' is 8388609 bytes long"),
        (Verb.CHECK, ([b""] * (KEY_COUNT_MAX + 1),), r"^CHECK was given 131073 keys, the limit .* is 131072$"),
        (Verb.MULTI_SET, ([(b"", b"")] * (KEY_COUNT_MAX + 1),), r"^MULTI_SET was given 131073 keys"),
        (Verb.ADD, (b"/n", 1 << 63), r"^ADD on key b'/n' was given 9223372036854775808, which 64 bits cannot hold$"),
        (Verb.ADD, (b"/n", -(1 << 63) - 1), r"which 64 bits cannot hold$"),
    ],
)
def test_a_caller_hears_what_is_too_large_and_how_large_it_may_be(
    verb: Verb, fields: tuple[object, ...], message: str
) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        encode_request(verb, *fields)


def test_a_request_too_large_as_a_whole_is_refused_to_the_caller() -> None:
    value = bytes(VALUE_SIZE_MAX)
    count = REQUEST_SIZE_MAX // VALUE_SIZE_MAX
    with pytest.raises(LocalProtocolError, match=f"the limit for one request is {REQUEST_SIZE_MAX}$"):
        encode_request(Verb.MULTI_SET, [(b"", value)] * count)


def test_int64_borders_are_encoded() -> None:
    assert encode_request(Verb.ADD, b"", (1 << 63) - 1)[-8:] == b"\xff" * 7 + b"\x7f"
    assert encode_request(Verb.ADD, b"", -(1 << 63))[-8:] == bytes(7) + b"\x80"


def test_a_refusal_is_an_error_of_the_package_that_counts_items_of_lists() -> None:
    refusal = too_large(Verb.WAIT, "list", 5, 4)
    assert isinstance(refusal, DistError)
    assert str(refusal) == "WAIT claims a list of 5 items, the limit is 4"
