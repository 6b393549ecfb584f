"""etcd's messages: what is written is what etcd takes, what is read is bounded by the message."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallypoint.errors import RemoteProtocolError
from rallypoint.store import etcd_wire as wire

# As etcd's own client writes and gets them.
PUT = bytes.fromhex("0a016b120176")
RANGE = bytes.fromhex("0a016b12016c1805")
ENTRY = bytes.fromhex("0a016b1005180720012a0176")
RANGED = bytes.fromhex("0a0608011002180912") + bytes([len(ENTRY)]) + ENTRY + bytes.fromhex("2001")


def test_requests_are_what_etcd_takes():
    assert wire.put(b"k", b"v") == PUT
    assert wire.range_of(b"k", b"l", limit=5) == RANGE
    assert wire.lease_grant(300, 5) == b"\x08\x05\x10\xac\x02"
    assert wire.watch_cancel(1) == b"\x12\x02\x08\x01"


def test_an_answer_is_read():
    answer = wire.read_range(RANGED)
    assert answer.entries == [wire.KeyValue(b"k", b"v", 7)]
    assert (answer.total, answer.revision) == (1, 9)
    assert wire.revision_of(RANGED) == 9


def test_a_transaction_is_read_with_the_answers_of_its_operations():
    told = bytes.fromhex("0a0218091001") + b"\x1a" + bytes([len(RANGED) + 2]) + b"\x0a" + bytes([len(RANGED)]) + RANGED
    result = wire.read_txn(told)
    assert (result.is_done, result.revision) == (True, 9)
    assert wire.read_range(result.answers[0]).total == 1


def test_a_negative_number_is_one():
    assert wire.numbers_of(b"\x18" + b"\xff" * 9 + b"\x01") == {3: -1}


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"a", b"b"), (b"a\xff", b"b"), (b"a\xff\xff", b"b"), (b"\xff", b"\0"), (b"", b"\0")],
)
def test_the_end_of_a_prefix_is_the_next_key_without_it(prefix, end):
    assert wire.end_of_prefix(prefix) == end


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\x05abc", b"\x0b", b"\xff" * 11, b"\x12\x02\x0a\x09", b"\x09abc"])
def test_bytes_that_are_no_message_are_refused(data):
    with pytest.raises(RemoteProtocolError):
        wire.read_range(data)


@given(st.binary(max_size=200))
def test_nothing_but_a_refusal_comes_of_any_bytes(data):
    for read in (wire.read_range, wire.read_txn, wire.read_watch, wire.numbers_of, wire.revision_of):
        with contextlib.suppress(RemoteProtocolError):
            read(data)


@given(st.binary(max_size=20), st.binary(max_size=300), st.integers(0, (1 << 63) - 1))
def test_what_is_written_is_read_again(key, value, lease):
    told = wire.put(key, value, lease=lease)
    assert wire.texts_of(told, 1) == [key]
    assert wire.texts_of(told, 2) == [value]
    assert wire.numbers_of(told).get(3, 0) == lease
