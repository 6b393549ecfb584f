from __future__ import annotations

import signal

import pytest

from rallypoint.agent.moves import (
    GroupState,
    RunClosed,
    describe_exit,
    describe_signal,
    describe_slow_stop,
    exit_code_of,
)


@pytest.mark.parametrize(("returncode", "exit_code"), [(0, 0), (42, 42), (-9, 137), (-15, 143)])
def test_exit_codes_are_those_that_a_shell_shows(returncode: int, exit_code: int) -> None:
    assert exit_code_of(returncode) == exit_code


def test_an_exit_is_described_in_one_clause() -> None:
    assert describe_exit(1, 77, 42) == "worker 1 (pid 77) ended with exit code 42"
    assert describe_exit(0, 78, -signal.SIGSEGV) == "worker 0 (pid 78) was killed by SIGSEGV"
    assert describe_exit(0, None, 1) == "worker 0 ended with exit code 1"


def test_a_signal_without_a_name_keeps_its_number() -> None:
    assert describe_signal(signal.SIGTERM) == "SIGTERM"
    assert describe_signal(99) == "signal 99"


def test_three_states_are_final() -> None:
    assert {state for state in GroupState if state.is_final} == {
        GroupState.STOPPED,
        GroupState.FAILED,
        GroupState.SUCCEEDED,
    }


def test_the_end_of_a_run_is_told_in_one_sentence() -> None:
    assert RunClosed("failed", "boom").tell() == "the run has ended: boom"
    assert RunClosed("failed", "the run has failed: boom").tell() == "the run has failed: boom"


@pytest.mark.parametrize(
    ("left", "told"),
    [
        ({1: 101}, "worker 1 (pid 101) has not ended 2 s after SIGTERM, SIGKILL follows in 28 s"),
        (
            {1: 101, 0: 100},
            "workers 0 (pid 100), 1 (pid 101) have not ended 2 s after SIGTERM, SIGKILL follows in 28 s",
        ),
        ({}, "what the workers have started has not ended 2 s after SIGTERM, SIGKILL follows in 28 s"),
    ],
)
def test_a_slow_stop_names_who_is_waited_for_and_until_when(left: dict[int, int], told: str) -> None:
    assert describe_slow_stop(left, signal.SIGTERM, 2.0, 28.0) == told


def test_of_many_workers_some_are_named() -> None:
    told = describe_slow_stop({rank: 100 + rank for rank in range(20)}, signal.SIGTERM, 2.0, 28.0)
    assert told.startswith("workers 0 (pid 100), ")
    assert "7 (pid 107) and 12 more have not ended" in told
