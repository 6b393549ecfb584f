from __future__ import annotations

import math

import click
import pytest

from rallypoint.cli.seconds import SecondsRange


@pytest.mark.parametrize(("text", "seconds"), [("0", 0.0), ("2.5", 2.5), ("inf", math.inf)])
def test_seconds_are_taken(text, seconds):
    assert SecondsRange(0).convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["nan", "-nan", "NaN"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(click.BadParameter, match="is no number of seconds"):
        SecondsRange(0).convert(text, None, None)


@pytest.mark.parametrize("text", ["-1", "many"])
def test_the_range_holds(text):
    with pytest.raises(click.BadParameter):
        SecondsRange(0).convert(text, None, None)
