from __future__ import annotations

from datetime import timedelta

import pytest

from rallypoint.types import Endpoint, Member, as_bytes, as_keys, as_seconds


def test_an_endpoint_reads_as_host_and_port() -> None:
    assert str(Endpoint("node1", 29400)) == "node1:29400"


def test_an_ipv6_endpoint_is_written_in_brackets() -> None:
    assert str(Endpoint("::1", 29400)) == "[::1]:29400"


@pytest.mark.parametrize("text", ["é", "é".encode(), bytearray("é".encode())])
def test_text_of_every_kind_travels_as_the_same_bytes(text: str | bytes | bytearray) -> None:
    assert as_bytes(text) == b"\xc3\xa9"


@pytest.mark.parametrize("text", [7, None, memoryview(b"x"), 1.5])
def test_anything_else_is_refused_by_name(text: object) -> None:
    with pytest.raises(TypeError, match=f"the key must be str, bytes or bytearray, not {type(text).__name__}"):
        as_bytes(text, "the key")  # type: ignore[arg-type]


def test_keys_come_as_any_iterable_in_order() -> None:
    assert as_keys(key for key in ("b", b"a")) == [b"b", b"a"]


@pytest.mark.parametrize("keys", ["ab", b"ab", bytearray(b"ab")])
def test_one_bare_key_is_not_taken_for_a_list_of_letters(keys: str | bytes | bytearray) -> None:
    with pytest.raises(TypeError, match="keys must be a list"):
        as_keys(keys)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("timeout", "seconds"), [(2, 2.0), (0.25, 0.25), (timedelta(minutes=1), 60.0), (float("inf"), float("inf"))]
)
def test_durations_are_seconds_or_timedeltas(timeout: float | timedelta, seconds: float) -> None:
    assert as_seconds(timeout) == seconds


@pytest.mark.parametrize("timeout", ["5", None, True])
def test_other_durations_are_refused(timeout: object) -> None:
    with pytest.raises(TypeError, match="timeout must be seconds or a timedelta"):
        as_seconds(timeout)  # type: ignore[arg-type]


def test_nan_is_no_duration() -> None:
    with pytest.raises(ValueError, match="NaN"):
        as_seconds(float("nan"))


def test_a_member_is_called_by_rank_and_label() -> None:
    assert [str(Member(3, "host 1")), str(Member(3, ""))] == ["rank 3 (host 1)", "rank 3"]
    assert Member(3, "").since_s is None
