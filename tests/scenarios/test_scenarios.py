"""Each ``*.txt`` beside this file, on the pure rules; ``python -m tests.support.scenarios --rewrite`` rewrites them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.office_stage import OfficeStage, projected
from tests.support.scenarios import ONLY_COORDINATOR, ONLY_STATE, blocks, play, scenario_files


@pytest.mark.parametrize("path", scenario_files(), ids=lambda path: path.stem)
def test_a_scenario_runs_as_written(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert play(text) == text


@pytest.mark.parametrize("path", scenario_files(), ids=lambda path: path.stem)
def test_users_see_the_same_with_a_coordinator(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if {ONLY_COORDINATOR, ONLY_STATE} & set(text.splitlines()):
        return  # the test above plays it where it belongs
    stage = OfficeStage()
    for commands, expected in blocks(text):
        happened = [said for command in commands for said in stage.run(command)]
        assert projected(happened) == projected(expected), (commands, happened)


def test_every_fault_of_the_list_has_a_scenario() -> None:
    played = {path.stem.split("_")[0] for path in scenario_files()}
    assert {f"w{number:02d}" for number in range(1, 20)} <= played


def test_a_wrong_expectation_is_found() -> None:
    text = "rules min=1 max=1\nnode a\njoin a\nsettle\n----\nnothing happens\n"
    assert play(text) != text
