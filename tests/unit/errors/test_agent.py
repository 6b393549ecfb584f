from __future__ import annotations

from rallypoint.errors.agent import SignalException, WorkerStartError


def test_a_signal_is_known_by_its_number() -> None:
    assert SignalException("told to stop", 15).sigval == 15


def test_a_worker_that_did_not_start_is_known_with_its_command() -> None:
    error = WorkerStartError("no such program", local_rank=3, argv=["run", "it"], errno=2)
    assert (error.local_rank, error.argv, error.errno) == (3, ("run", "it"), 2)
