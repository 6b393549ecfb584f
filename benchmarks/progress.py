"""How long to measure, and a word on the standard error about how far it is."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "Effort", "note"]

_START = time.monotonic()


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Attributes:
        rounds: how often everything is measured, contenders in turn.
        seconds: the length of a measurement that has no natural end.
        repeat: how often one process repeats a workload that has one; its median counts.
        calls: calls of one kind that one Python caller makes.
        growth_rounds: rounds of the growth curves, which are many.
        is_quick: leave out what only rounds off the picture.
    """

    rounds: int
    seconds: float
    repeat: int
    calls: int
    growth_rounds: int
    is_quick: bool


FULL = Effort(rounds=6, seconds=0.25, repeat=3, calls=3000, growth_rounds=2, is_quick=False)
QUICK = Effort(rounds=3, seconds=0.1, repeat=1, calls=1000, growth_rounds=1, is_quick=True)


def note(text: str) -> None:
    """Say how far it is."""
    print(f"[{time.monotonic() - _START:5.0f} s] {text}", file=sys.stderr, flush=True)
