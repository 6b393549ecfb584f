"""The records of a FileStore's file."""

from __future__ import annotations

import pytest

from rallypoint.errors import CorruptStoreError, LocalProtocolError
from rallypoint.store import filerecords
from rallypoint.store.filerecords import KEY_SIZE_MAX, REFCOUNT, decode_records, encode_record

# Written by torch 2.13.0: FileStore(path, 1); set("k", b"v"); delete_key("k"); append("z", "1").
TORCH_FILE = (
    b"\x09\x00\x00\x00refcount/\x01\x00\x00\x001"
    b"\x02\x00\x00\x00/k\x01\x00\x00\x00v"
    b"\x03\x00\x00\x00-/k\x00\x00\x00\x00"
    b"\x02\x00\x00\x00/z\x01\x00\x00\x001"
)
TORCH_RECORDS = [(REFCOUNT, b"1"), (b"/k", b"v"), (b"-/k", b""), (b"/z", b"1")]


def test_torchs_file_is_read():
    assert decode_records(TORCH_FILE, 0, "f") == (TORCH_RECORDS, len(TORCH_FILE))


def test_torchs_file_is_written_byte_for_byte():
    assert b"".join(encode_record(key, value) for key, value in TORCH_RECORDS) == TORCH_FILE


@pytest.mark.parametrize("length", range(len(TORCH_FILE)))
def test_whole_records_are_taken_and_the_rest_is_left(length):
    records, taken = decode_records(TORCH_FILE[:length], 0, "f")
    assert b"".join(encode_record(key, value) for key, value in records) == TORCH_FILE[:taken]
    assert taken <= length
    assert decode_records(TORCH_FILE[taken:], taken, "f")[0] == TORCH_RECORDS[len(records) :]


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"this is not a store at all", "its key would have 1936287860 bytes"),
        (b"\x00\x00\x00\x00\x00\x00\x00\x00", "its key would have 0 bytes"),
        (encode_record(b"key", b""), "no FileStore writes the key b'key'"),
        (encode_record(b"refcount", b"1"), "no FileStore writes the key b'refcount'"),
        (b"\x02\x00\x00\x00/k\xff\xff\xff\xff", "its value would have 4294967295 bytes"),
    ],
)
def test_what_is_no_record_is_damage_at_its_byte(data, complaint):
    with pytest.raises(CorruptStoreError, match=complaint) as caught:
        decode_records(encode_record(b"/a", b"1") + data, 100, "/the/file")
    assert (caught.value.path, caught.value.offset) == ("/the/file", 111)
    assert "byte 111 of /the/file" in str(caught.value)


def test_what_a_reader_would_refuse_is_not_written(monkeypatch):
    encode_record(b"/" * KEY_SIZE_MAX, b"")
    with pytest.raises(LocalProtocolError, match="at most 65535 bytes, got 65536"):
        encode_record(b"/" * (KEY_SIZE_MAX + 1), b"")
    monkeypatch.setattr(filerecords, "VALUE_SIZE_MAX", 10)
    with pytest.raises(LocalProtocolError, match="at most 10 bytes, got 11"):
        encode_record(b"/k", b"12345678901")
