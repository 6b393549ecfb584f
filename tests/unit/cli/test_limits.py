from __future__ import annotations

from dataclasses import fields, replace

import click
import pytest

from rallypoint.cli.limits import limits_with
from rallypoint.server.limits import DEFAULT_LIMITS, MOST, NUMBER_MAX, Limits

NAMES = [field.name for field in fields(Limits)]


@pytest.mark.parametrize("name", NAMES)
def test_every_limit_can_be_set(name: str) -> None:
    assert limits_with([f"{name}=7"]) == replace(DEFAULT_LIMITS, **{name: 7})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["0", "-1", "", "1e3", "many", "nan", "inf", "1 G", "9" * 29])
def test_a_value_out_of_range_is_told_with_the_range(name: str, value: str) -> None:
    is_time = isinstance(getattr(DEFAULT_LIMITS, name), float)
    if is_time and name not in MOST and value.startswith("9"):
        return
    with pytest.raises(click.BadParameter) as raised:
        limits_with([f"{name}={value}"])
    assert raised.value.message.startswith(f"{name} is {value!r}, it must be ")
    assert ("seconds above 0" if is_time else f"from 1 to {MOST.get(name, NUMBER_MAX)}") in raised.value.message


@pytest.mark.parametrize(("text", "size"), [("3k", 3 << 10), ("3K", 3 << 10), ("5M", 5 << 20), ("2G", 2 << 30)])
def test_sizes_have_units(text: str, size: int) -> None:
    assert limits_with([f"stored_size_max={text}"]).stored_size_max == size


def test_seconds_may_be_broken_and_have_no_units() -> None:
    assert limits_with(["handshake_timeout_s=0.5"]).handshake_timeout_s == 0.5
    with pytest.raises(click.BadParameter, match="it must be seconds above 0, 86400 at most"):
        limits_with(["session_timeout_s_max=1K"])


def test_an_unknown_name_gets_the_list_of_known_ones() -> None:
    with pytest.raises(click.BadParameter) as raised:
        limits_with(["keys=1"])
    assert raised.value.message == f"there is no limit 'keys', the limits are: {', '.join(NAMES)}"


def test_what_is_no_pair_or_set_twice_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="'keys_max' is not NAME=VALUE"):
        limits_with(["keys_max"])
    with pytest.raises(click.BadParameter, match="keys_max is set twice"):
        limits_with(["keys_max=1", "keys_max=2"])
    with pytest.raises(click.BadParameter, match="connections_max is set twice"):
        limits_with(["connections_max=1"], fixed=["connections_max"])
