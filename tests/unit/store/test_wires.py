from __future__ import annotations

import pytest

from rallypoint.store.wires import as_integer, as_wire, as_wires, seconds_of


def test_keys_travel_behind_a_slash():
    assert [as_wire(key) for key in ("k", b"k", bytearray(b"k"))] == [b"/k"] * 3
    assert as_wires(key for key in ("a", b"b")) == [b"/a", b"/b"]


@pytest.mark.parametrize("call", [lambda: as_wire(1), lambda: as_wires("abc"), lambda: as_wires([None])])
def test_other_types_are_refused(call):
    with pytest.raises(TypeError, match="key"):
        call()


def test_whole_numbers():
    assert as_integer(True, "amount") == 1
    with pytest.raises(TypeError, match="amount must be an int, not float"):
        as_integer(1.0, "amount")


def test_a_patience_is_seconds_or_somebody_who_has_them():
    class Shop:
        _timeout_s = 7.0

    assert [seconds_of(2.0), seconds_of(Shop())] == [2.0, 7.0]


def test_what_is_no_text_is_said_to_be_none():
    for call in (lambda: as_wire("a\udcff"), lambda: as_wires(["a\udcff"])):
        with pytest.raises(UnicodeEncodeError, match="the key has a lone surrogate, which UTF-8 cannot say"):
            call()
