"""The maths of the benchmarks' report: what they claim must be what was measured."""

from __future__ import annotations

import pytest
from benchmarks.report import Bar, Figures, Spread, format_figure, judge


def figures_of(**rows: list[float]) -> Figures:
    figures = Figures()
    for contender, values in rows.items():
        for turn, value in enumerate(values):
            figures.add("question", "workload", contender, "us", turn, value)
    return figures


def bar(limit: float, *, base: str = "theirs", is_floor: bool = False) -> Bar:
    return Bar("a promise", "question", "workload", "ours", limit, base, is_floor)


def test_a_ratio_is_taken_round_by_round_so_that_a_slow_round_hits_both_sides() -> None:
    figures = figures_of(ours=[1.0, 10.0, 1.0], theirs=[2.0, 20.0, 2.0])
    assert figures.ratios("question", "workload", "ours", "theirs") == [0.5, 0.5, 0.5]


def test_a_round_that_one_side_has_not_measured_is_in_no_ratio() -> None:
    figures = figures_of(ours=[1.0, 3.0], theirs=[2.0])
    assert figures.ratios("question", "workload", "ours", "theirs") == [0.5]


def test_spread_gives_median_ends_and_quartiles() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(3.0, 1.0, 5.0, 2.0, 4.0, 5)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, 7.0, 7.0, 1)
    with pytest.raises(ValueError, match="no values"):
        Spread.of([])


def test_a_bar_is_kept_by_the_median_ratio() -> None:
    figures = figures_of(ours=[8.0, 9.0, 8.5], theirs=[10.0, 10.0, 10.0])
    assert judge(bar(0.88), figures).word == "PASS"
    assert judge(bar(0.80), figures).word == "FAIL"
    assert judge(bar(0.80, is_floor=True), figures).word == "PASS"
    assert judge(bar(0.88, is_floor=True), figures).word == "FAIL"


def test_a_bar_without_a_base_judges_the_value_itself() -> None:
    figures = figures_of(ours=[300.0])
    assert judge(bar(4096, base=""), figures).word == "PASS"
    assert judge(bar(200, base=""), figures).word == "FAIL"


def test_a_bar_amid_the_middle_half_of_the_rounds_is_too_close_to_call() -> None:
    figures = figures_of(ours=[0.97, 0.98, 0.99, 1.01, 1.02], theirs=[1.0] * 5)
    verdict = judge(bar(1.0), figures)
    assert verdict.word == "PASS, too close to call"
    assert not judge(bar(1.1), figures).is_close


def test_a_wide_spread_is_said_with_the_verdict() -> None:
    figures = figures_of(ours=[1.0, 2.0, 3.0], theirs=[10.0] * 3)
    assert judge(bar(0.9), figures).word == "PASS, wide"


def test_what_was_not_measured_is_never_a_pass() -> None:
    verdict = judge(bar(1.0), figures_of(theirs=[1.0]))
    assert (verdict.word, verdict.is_met) == ("not measured", False)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (5.234, "us", "5.23 us"),
        (52.34, "ms", "52.3 ms"),
        (1234.5, "us", "1,234 us"),
        (6_500_000.0, "/s", "6.50 M/s"),
        (279_000.0, "/s", "279 k/s"),
        (0.45, "", "0.45"),
    ],
)
def test_figures_are_written_with_three_digits(value: float, unit: str, text: str) -> None:
    assert format_figure(value, unit) == text
