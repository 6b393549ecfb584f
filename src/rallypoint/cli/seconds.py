"""Seconds as options give them: ``click.FloatRange`` lets NaN through, which compares with nothing."""

from __future__ import annotations

import math
from typing import Any

import click

__all__ = ["SecondsRange"]


class SecondsRange(click.FloatRange):
    """A range of seconds. Infinity is for ever, if the range has no end; NaN is a usage error."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Give the number; a usage error if it is none, or outside of the range."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value!r} is no number of seconds", param, ctx)
        return seconds
