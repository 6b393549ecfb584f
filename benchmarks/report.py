"""Figures, ratios and verdicts: the maths of the report and nothing else.

A figure belongs to a row (question, workload, contender) and to a round. Ratios are taken round by round, so that a
slow minute of the machine hits both sides alike, and their median counts. A bar is met or missed by that median; it is
called close where the middle half of the rounds lies on both sides of the bar: then the verdict may change next time.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Bar", "Figures", "Spread", "Verdict", "format_figure", "judge", "table"]

WIDE = 0.3
"""A middle half that spans more than this part of its median is called wide."""

_SCALES = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class Spread:
    """Some values in short."""

    median: float
    lowest: float
    highest: float
    lower: float
    upper: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if not values:
            raise ValueError("there are no values")
        if len(values) == 1:
            lower = upper = values[0]
        else:
            lower, _, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), min(values), max(values), lower, upper, len(values))

    @property
    def is_wide(self) -> bool:
        return self.upper - self.lower > WIDE * abs(self.median)


@dataclass(frozen=True)
class Row:
    """What was measured of whom."""

    question: str
    workload: str
    contender: str


class Figures:
    """All values of a run, by row and round; rows keep the order in which they came."""

    def __init__(self) -> None:
        self._values: dict[Row, dict[int, float]] = {}
        self._units: dict[tuple[str, str], str] = {}

    def add(self, question: str, workload: str, contender: str, unit: str, turn: int, value: float) -> None:
        """Note one value; a second value of the same row and round replaces the first."""
        self._values.setdefault(Row(question, workload, contender), {})[turn] = value
        self._units[question, workload] = unit

    def unit(self, question: str, workload: str) -> str:
        return self._units[question, workload]

    def workloads(self, question: str) -> list[str]:
        return list(dict.fromkeys(row.workload for row in self._values if row.question == question))

    def contenders(self, question: str, workload: str) -> list[str]:
        return [row.contender for row in self._values if (row.question, row.workload) == (question, workload)]

    def values(self, question: str, workload: str, contender: str) -> list[float]:
        return list(self._values.get(Row(question, workload, contender), {}).values())

    def ratios(self, question: str, workload: str, contender: str, base: str, base_workload: str = "") -> list[float]:
        """Give contender / base of every round in which both were measured."""
        ours = self._values.get(Row(question, workload, contender), {})
        theirs = self._values.get(Row(question, base_workload or workload, base), {})
        return [ours[turn] / theirs[turn] for turn in ours if theirs.get(turn)]

    def as_json(self) -> Iterator[dict[str, object]]:
        for row, values in self._values.items():
            unit = self._units[row.question, row.workload]
            yield {**vars(row), "unit": unit, "values": values}


@dataclass(frozen=True)
class Bar:
    """One promise: a ratio, or a value where there is no ``base``, at most or at least so much.

    Attributes:
        text: the promise in words.
        question: where it is measured.
        workload: what is measured.
        contender: of whom.
        limit: the number to keep.
        base: who is compared with; nobody if empty, then ``limit`` is in the workload's unit.
        is_floor: at least ``limit`` instead of at most.
        base_workload: what is compared with, if that is another workload.
    """

    text: str
    question: str
    workload: str
    contender: str
    limit: float
    base: str = ""
    is_floor: bool = False
    base_workload: str = ""


@dataclass(frozen=True)
class Verdict:
    """How a bar came out; ``spread`` is missing where it was not measured."""

    bar: Bar
    spread: Spread | None

    @property
    def is_met(self) -> bool:
        if self.spread is None:
            return False
        return self.spread.median >= self.bar.limit if self.bar.is_floor else self.spread.median <= self.bar.limit

    @property
    def is_close(self) -> bool:
        return self.spread is not None and self.spread.lower < self.bar.limit < self.spread.upper

    @property
    def word(self) -> str:
        if self.spread is None:
            return "not measured"
        doubts = ", too close to call" if self.is_close else ""
        return f"{'PASS' if self.is_met else 'FAIL'}{doubts}{', wide' if self.spread.is_wide else ''}"


def judge(bar: Bar, figures: Figures) -> Verdict:
    """Hold the figures against one bar."""
    if bar.base:
        values = figures.ratios(bar.question, bar.workload, bar.contender, bar.base, bar.base_workload)
    else:
        values = figures.values(bar.question, bar.workload, bar.contender)
    return Verdict(bar, Spread.of(values) if values else None)


def format_figure(value: float, unit: str = "") -> str:
    """Write a number with three digits, rates and bytes with k, M or G."""
    prefix = ""
    if unit in ("/s", "B", "B/s"):
        for scale, name in _SCALES:
            if abs(value) >= scale:
                value, prefix = value / scale, name
                break
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f} {prefix}{unit}".strip()


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Write a table in Markdown."""
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return lines
