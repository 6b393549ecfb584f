from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.launcher import WAIT, Run, has_ended, serving, until, write_script

from rallypoint.store.bootstrap import get_free_port

FAST = "is_host=0,keep_alive_interval=0.2,keep_alive_max_attempt=10"
SEAT = ("TORCHELASTIC_RESTART_COUNT", "RANK")


@pytest.fixture(params=["c10d", "rallypoint"])
def meeting(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """The backend by which nodes meet, and where."""
    with serving() as found:
        yield request.param, found


def options(meeting: tuple[str, str], nodes: str = "2", last_call_s: int = 1) -> list[str]:
    """Give the options of nodes that meet; where all have to come back at once, the last call must be longer."""
    return [
        f"--nnodes={nodes}",
        f"--rdzv-backend={meeting[0]}",
        f"--rdzv-endpoint={meeting[1]}",
        f"--rdzv-conf={FAST},last_call_timeout={last_call_s}",
        "--rdzv-id=test",
        "--shutdown-timeout=5",
    ]


def together(*runs: Run, workers: int = 1) -> int:
    """Wait until nodes run in one round, which may follow one that began before the last of them came; give it.

    What they run has to wait if it is alone in the meantime.
    """

    def is_so() -> bool:
        for run in runs:
            assert run.process.poll() is None, run.stderr
        newest = [run.reports()[-workers:] for run in runs]
        rounds = {(report["RALLYPOINT_ROUND"], report["GROUP_WORLD_SIZE"]) for reports in newest for report in reports}
        is_one = len(rounds) == 1 and rounds.pop()[1] == str(len(runs))
        return is_one and all(len(reports) == workers for reports in newest)

    until("the nodes run in one round", is_so)
    return int(runs[0].reports()[-1]["RALLYPOINT_ROUND"])


def unless(path: Path) -> str:
    """Give the line that has workers wait unless there is a file when they start."""
    return f"if not os.path.exists({str(path)!r}): {WAIT}"


def seats(*runs: Run) -> list[tuple[str, ...]]:
    return sorted(tuple(report[name] for name in SEAT) for run in runs for report in run.reports())


def test_two_nodes_form_one_world(tmp_path: Path, meeting: tuple[str, str]) -> None:
    both = [*options(meeting), "--nproc-per-node=2", write_script(tmp_path, "report()")]

    with Run(tmp_path, *both, name="a") as a, Run(tmp_path, *both, name="b") as b:
        assert (a.wait(), b.wait()) == (0, 0), a.stderr + b.stderr

    reports = a.reports() + b.reports()
    assert sorted(report["RANK"] for report in reports) == ["0", "1", "2", "3"]
    for name, value in (("WORLD_SIZE", "4"), ("GROUP_WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        assert {report[name] for report in reports} == {value}
    assert len({(report["MASTER_ADDR"], report["MASTER_PORT"]) for report in reports}) == 1


def test_nodes_may_run_different_numbers_of_workers(tmp_path: Path, meeting: tuple[str, str]) -> None:
    work = write_script(tmp_path, "report()")

    with (
        Run(tmp_path, *options(meeting), "--nproc-per-node=1", work, name="a") as a,
        Run(tmp_path, *options(meeting), "--nproc-per-node=3", work, name="b") as b,
    ):
        assert (a.wait(), b.wait()) == (0, 0), a.stderr + b.stderr

    assert [rank for _, rank in seats(a, b)] == ["0", "1", "2", "3"]
    for run in (a, b):
        ranks = sorted(int(report["RANK"]) for report in run.reports())
        assert ranks == list(range(ranks[0], ranks[0] + len(ranks)))


def test_a_killed_worker_starts_a_new_round_on_both_nodes(tmp_path: Path, meeting: tuple[str, str]) -> None:
    work = write_script(tmp_path, "report()", f'if os.environ["RALLYPOINT_ROUND"] == "0": {WAIT}')
    both = [*options(meeting), "--nproc-per-node=2", "--max-restarts=1", work]

    with Run(tmp_path, *both, name="a") as a, Run(tmp_path, *both, name="b") as b:
        b.until_reports(2)
        os.kill(int(a.until_reports(2)[0]["pid"]), signal.SIGKILL)
        assert (a.wait(), b.wait()) == (0, 0), a.stderr + b.stderr

    assert seats(a, b) == [(count, rank) for count in "01" for rank in "0123"]
    assert {report["RALLYPOINT_NODE_RESTARTS"] for report in a.reports()} == {"0", "1"}
    assert {report["RALLYPOINT_NODE_RESTARTS"] for report in b.reports()} == {"0"}


def test_the_last_failure_ends_the_run_everywhere_and_says_why(tmp_path: Path, meeting: tuple[str, str]) -> None:
    a_work = write_script(tmp_path, "report()", "sys.exit(42)")
    (tmp_path / "b").mkdir()
    b_work = write_script(tmp_path / "b", "report()", WAIT)

    with (
        Run(tmp_path, *options(meeting), a_work, name="a") as a,
        Run(tmp_path, *options(meeting), b_work, name="b") as b,
    ):
        assert (a.wait(), b.wait()) == (42, 1)

    assert "exit code 42" in b.stderr.splitlines()[-1]
    assert "Traceback" not in a.stderr + b.stderr
    assert all(has_ended(int(report["pid"])) for report in b.reports())


def test_the_survivor_of_a_killed_agent_goes_on_alone(tmp_path: Path, meeting: tuple[str, str]) -> None:
    work = write_script(tmp_path, "report()", f'if os.environ["WORLD_SIZE"] == "4": {WAIT}', unless(tmp_path / "go"))
    both = [*options(meeting, "1:2"), "--nproc-per-node=2", work]

    with Run(tmp_path, *both, name="a") as a, Run(tmp_path, *both, name="b") as b:
        number = together(a, b, workers=2)
        orphans = a.reports()[-2:]
        (tmp_path / "go").touch()
        a.process.kill()
        assert b.wait() == 0, b.stderr

        for report in orphans:
            until("the orphan is gone", lambda pid=int(report["pid"]): has_ended(pid))

    alone = [report for report in b.reports() if int(report["TORCHELASTIC_RESTART_COUNT"]) > number]
    assert sorted(report["RANK"] for report in alone) == ["0", "1"]
    assert {report["TORCHELASTIC_RESTART_COUNT"] for report in alone} == {str(number + 1)}
    assert {report["WORLD_SIZE"] for report in alone} == {"2"}


def test_a_frozen_agent_kills_its_workers_when_it_wakes_and_comes_back(
    tmp_path: Path, meeting: tuple[str, str]
) -> None:
    both = [*options(meeting, "1:2", last_call_s=3), write_script(tmp_path, "report()", unless(tmp_path / "go"))]

    with Run(tmp_path, *both, name="a") as a, Run(tmp_path, *both, name="b") as b:
        number = together(a, b)
        stale = a.reports()[-1]
        a.process.send_signal(signal.SIGSTOP)
        assert together(b) == number + 1
        (tmp_path / "go").touch()
        a.process.send_signal(signal.SIGCONT)
        assert (a.wait(), b.wait()) == (0, 0), a.stderr + b.stderr

    assert has_ended(int(stale["pid"]))
    assert "is over for this node" in a.stderr
    assert [int(report["RALLYPOINT_ROUND"]) for report in a.reports()][-2:] == [number, number + 2]
    assert [int(report["RALLYPOINT_ROUND"]) for report in b.reports()][-3:] == [number, number + 1, number + 2]


def test_a_node_that_comes_later_is_taken_in(tmp_path: Path, meeting: tuple[str, str]) -> None:
    work = write_script(tmp_path, "report()", f'if os.environ["GROUP_WORLD_SIZE"] == "1": {WAIT}')
    both = [*options(meeting, "1:2"), work]

    with Run(tmp_path, *both, name="a") as a:
        a.until_reports(1)
        with Run(tmp_path, *both, name="b") as b:
            assert (a.wait(), b.wait()) == (0, 0), a.stderr + b.stderr

    assert seats(a, b) == [("0", "0"), ("1", "0"), ("1", "1")]


def test_a_node_that_is_told_to_go_leaves_at_once(tmp_path: Path, meeting: tuple[str, str]) -> None:
    work = write_script(
        tmp_path, "report()", f'if os.environ["GROUP_WORLD_SIZE"] == "2": {WAIT}', unless(tmp_path / "go")
    )
    both = [*options(meeting, "1:2"), work]

    with Run(tmp_path, *both, name="a") as a, Run(tmp_path, *both, name="b") as b:
        together(a, b)
        (tmp_path / "go").touch()
        a.process.terminate()
        assert (a.wait(), b.wait()) == (143, 0), a.stderr + b.stderr

    assert "left: SIGTERM" in b.stderr or "is going: SIGTERM" in b.stderr
    assert "no beat" not in b.stderr


def test_a_spare_that_was_not_needed_ends_well(tmp_path: Path, meeting: tuple[str, str]) -> None:
    go = tmp_path / "go"
    work = write_script(
        tmp_path, "report()", "import pathlib, time", f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.02)"
    )
    both = [*options(meeting, "1"), work]

    with Run(tmp_path, *both, name="a") as a:
        a.until_reports(1)
        with Run(tmp_path, *both, name="spare") as spare:
            until("the spare stands by", lambda: "standing by" in spare.stderr)
            go.touch()
            assert (a.wait(), spare.wait()) == (0, 0), spare.stderr

    assert spare.reports() == []


def test_a_failure_after_a_peers_success_runs_both_again(tmp_path: Path, meeting: tuple[str, str]) -> None:
    done = tmp_path / "done"
    work = write_script(
        tmp_path,
        "report()",
        "import pathlib, time",
        'if os.environ["RALLYPOINT_ROUND"] == "0":',
        f'    if os.environ["RANK"] == "0": pathlib.Path({str(done)!r}).touch(); sys.exit(0)',
        f"    while not pathlib.Path({str(done)!r}).exists(): time.sleep(0.02)",
        "    time.sleep(0.5)",
        "    sys.exit(7)",
    )
    both = [*options(meeting), "--max-restarts=1", work]

    with Run(tmp_path, *both, name="a") as a, Run(tmp_path, *both, name="b") as b:
        assert (a.wait(), b.wait()) == (0, 0), a.stderr + b.stderr

    assert seats(a, b) == [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")]


def test_a_signal_while_waiting_for_other_nodes_ends_the_wait(tmp_path: Path, meeting: tuple[str, str]) -> None:
    with Run(tmp_path, *options(meeting), write_script(tmp_path, "report()")) as run:
        until("it waits", lambda: "waiting for 1" in run.stderr)
        run.process.send_signal(signal.SIGINT)
        assert run.wait() == 130

    assert "Traceback" not in run.stderr


def test_the_first_of_several_agents_serves_the_store(tmp_path: Path) -> None:
    endpoint = f"localhost:{get_free_port()}"
    work = write_script(tmp_path, "report()")
    both = ["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", work]

    with Run(tmp_path, *both, name="a") as a, Run(tmp_path, *both, name="b") as b:
        assert (a.wait(), b.wait()) == (0, 0), a.stderr + b.stderr

    assert seats(a, b) == [("0", "0"), ("0", "1")]


def test_static_nodes_keep_their_ranks_over_a_restart(tmp_path: Path) -> None:
    work = write_script(
        tmp_path, "report()", 'if (os.environ["RALLYPOINT_ROUND"], os.environ["RANK"]) == ("0", "1"): sys.exit(7)'
    )
    both = ["--nnodes=2", f"--master-port={get_free_port()}", "--max-restarts=1"]

    with (
        Run(tmp_path, *both, "--node-rank=0", work, name="a") as a,
        Run(tmp_path, *both, "--node-rank=1", work, name="b") as b,
    ):
        assert (a.wait(), b.wait()) == (0, 0), a.stderr + b.stderr

    assert {report["RANK"] for report in a.reports()} == {"0"}
    assert {report["RANK"] for report in b.reports()} == {"1"}
    assert {report["TORCHELASTIC_RESTART_COUNT"] for report in a.reports() + b.reports()} == {"0", "1"}
