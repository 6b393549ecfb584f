from __future__ import annotations

from typing import Any

import pytest

from rallypoint.errors import LocalProtocolError
from rallypoint.protocol.codec import RequestError
from rallypoint.protocol.session.fields import check_field, decode_fields, encode_field
from rallypoint.protocol.session.spec import Field, SessionVerb
from rallypoint.protocol.spec import KEY_SIZE_MAX, CloseReason

SAMPLES: list[tuple[Field, Any, str]] = [
    (Field.U8, 255, "ff"),
    (Field.U32, 0x01020304, "04030201"),
    (Field.I64, -2, "feffffffffffffff"),
    (Field.KEY, b"k", "01000000000000006b"),
    (Field.VALUE, b"", "0000000000000000"),
    (Field.STORED, b"v", "010000000000000076"),
    (Field.STORED_EACH, [b"v", b""], "0100000000000000760000000000000000"),
    (Field.KEYS, [b"k"], "010000000000000001000000000000006b"),
    (Field.LISTED, [b"k"], "010000000000000001000000000000006b"),
    (Field.PAIRS, [(b"k", b"")], "010000000000000001000000000000006b0000000000000000"),
    (
        Field.ENTRIES,
        [(b"k", 3, b"v")],
        "010000000000000001000000000000006b0300000000000000010000000000000076",
    ),
    (
        Field.MEMBERS,
        [(1, b"l", -1)],
        "01000000000000000100000001000000000000006cffffffffffffffff",
    ),
]


@pytest.mark.parametrize(("field", "value", "data"), SAMPLES, ids=[field.name for field, _, _ in SAMPLES])
def test_every_field_has_its_bytes(field: Field, value: Any, data: str) -> None:
    encoded = b"".join(encode_field(field, value))
    assert encoded.hex() == data
    assert decode_fields((field,), encoded, 0, len(encoded)) == (value,)
    assert decode_fields((Field.U8, field), b"?\0" + encoded, 1, len(encoded) + 2) == (0, value)


def test_every_field_is_shown() -> None:
    assert {field for field, _, _ in SAMPLES} == set(Field)


@pytest.mark.parametrize(("field", "value", "data"), SAMPLES, ids=[field.name for field, _, _ in SAMPLES])
def test_a_field_that_is_cut_or_followed_by_more_is_none(field: Field, value: Any, data: str) -> None:
    encoded = bytes.fromhex(data)
    for wrong in (encoded[:-1], encoded + b"\0"):
        with pytest.raises(RequestError) as refusal:
            decode_fields((field,), wrong, 0, len(wrong))
        assert refusal.value.reason is CloseReason.BAD_FRAME


def test_a_field_over_its_limit_is_not_sent() -> None:
    check_field(SessionVerb.READ, Field.KEY, bytes(KEY_SIZE_MAX))
    for field, value in ((Field.KEY, bytes(KEY_SIZE_MAX + 1)), (Field.I64, 1 << 63), (Field.U32, -1)):
        with pytest.raises(LocalProtocolError):
            check_field(SessionVerb.READ, field, value)
