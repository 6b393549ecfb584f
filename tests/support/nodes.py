"""What tests ask the nodes of a run, each a ``launcher.Run`` with one worker that reports."""

from __future__ import annotations

from tests.support.launcher import PATIENCE_S, Run, until

__all__ = ["coordinates", "kill", "pids", "rank", "together"]


def pids(run: Run) -> list[int]:
    """Give the processes of its workers, the newest last."""
    return [int(report["pid"]) for report in run.reports()]


def together(*runs: Run, after: int = -1) -> int:
    """Wait until nodes, one worker each, run in one round after another, with nobody else; give it."""

    def is_so() -> bool:
        for run in runs:
            assert run.process.poll() is None, run.stderr
        newest = [run.reports()[-1:] for run in runs]
        rounds = {(report["RALLYPOINT_ROUND"], report["GROUP_WORLD_SIZE"]) for reports in newest for report in reports}
        number, size = rounds.pop() if len(rounds) == 1 else ("-1", "0")
        return all(newest) and int(number) > after and size == str(len(runs))

    until("the nodes run in one round", is_so)
    return int(runs[0].reports()[-1]["RALLYPOINT_ROUND"])


def rank(run: Run) -> int:
    """Give its rank in its last round."""
    return int(run.reports()[-1]["GROUP_RANK"])


def coordinates(run: Run) -> bool:
    """Tell whether it has been in office."""
    return "this node coordinates" in run.stderr


def kill(run: Run) -> None:
    """End its agent without a word."""
    run.process.kill()
    run.process.wait(PATIENCE_S)
