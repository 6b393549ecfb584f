"""torchrun, unchanged, with ``--rdzv-backend=rallypoint``: several of its agents on one machine, gloo on CPUs."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.relayed import started
from tests.support.torchruns import PATIENCE_S, Torchrun, backend

WORKER = Path(__file__).parent.parent / "support" / "torchrun_worker.py"

QUICK = {"last_call_timeout": 1, "keep_alive_interval": 1, "join_timeout": 100}
"""A node that dies is dropped after some seconds; nobody waits long for more than the fewest."""

pytestmark = pytest.mark.timeout(2 * PATIENCE_S)


@pytest.fixture
def port() -> Iterator[int]:
    with started("serve", "--bind", "127.0.0.1") as (_, port):
        yield port


@pytest.fixture
def agents() -> Iterator[ExitStack]:
    """Hold agents until the end of the test."""
    with ExitStack() as stack:
        yield stack


def agent(folder: Path, name: str, port: int, nodes: str = "2", restarts: int = 0, workers: int = 2) -> Torchrun:
    return Torchrun(
        folder,
        name,
        *(f"--nnodes={nodes}", f"--nproc-per-node={workers}", f"--max-restarts={restarts}"),
        *backend("rallypoint", port, **QUICK),
        *(WORKER, folder),
    )


def places(reports: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    """Give rank, node and local rank of each worker, in order."""
    return sorted((report["rank"], report["node"], report["local_rank"]) for report in reports)


FOUR_WORKERS = [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1)]


def test_two_agents_meet_and_their_workers_reduce(tmp_path: Path, port: int, agents: ExitStack) -> None:
    pair = [agents.enter_context(agent(tmp_path, name, port)) for name in ("a", "b")]
    assert [each.wait() for each in pair] == [0, 0], pair[0].log + pair[1].log
    reports = [report for each in pair for report in each.reports()]
    assert places(reports) == FOUR_WORKERS
    assert {report["total"] for report in reports} == {10.0}


def test_a_failed_worker_is_replaced_on_both_nodes(tmp_path: Path, port: int, agents: ExitStack) -> None:
    (tmp_path / "fail").write_text("1 0")
    pair = [agents.enter_context(agent(tmp_path, name, port, restarts=1)) for name in ("a", "b")]
    assert [each.wait() for each in pair] == [0, 0], pair[0].log + pair[1].log
    reports = [report for each in pair for report in each.reports()]
    assert len(reports) == 8
    assert {report["total"] for report in reports} == {10.0}
    assert {report["attempt"] for report in reports} >= {0, 1}


def test_the_last_failure_ends_the_run_for_all_at_once(tmp_path: Path, port: int, agents: ExitStack) -> None:
    (tmp_path / "fail").write_text("1 0")
    (tmp_path / "go-on").touch()
    pair = [agents.enter_context(agent(tmp_path, name, port)) for name in ("a", "b")]
    assert [each.wait() for each in pair] == [1, 1], pair[0].log + pair[1].log
    told, heard = sorted((each.log for each in pair), key=lambda log: "RendezvousClosedError" in log)
    assert "ChildFailedError" in told
    assert "rank 1 left no error file" in heard
    assert "exit code 7" in heard


def test_a_node_that_comes_later_is_taken_in(tmp_path: Path, port: int, agents: ExitStack) -> None:
    (tmp_path / "go-on").touch()
    first = agents.enter_context(agent(tmp_path, "a", port, nodes="1:2"))
    first.until_world(2)
    second = agents.enter_context(agent(tmp_path, "b", port, nodes="1:2"))
    for each in (first, second):
        each.until_world(4, rounds=2)
    (tmp_path / "go-on").unlink()
    assert [first.wait(), second.wait()] == [0, 0], first.log + second.log
    reports = [report for each in (first, second) for report in each.reports() if report["world_size"] == 4]
    assert places(reports) == FOUR_WORKERS
    assert {report["attempt"] for report in reports} == {0}  # growing uses up no restart


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_the_others_go_on_without_an_agent_that_a_signal_ends(
    tmp_path: Path, port: int, agents: ExitStack, signum: signal.Signals
) -> None:
    (tmp_path / "go-on").touch()
    pair = [agents.enter_context(agent(tmp_path, name, port, nodes="1:2", restarts=3)) for name in ("a", "b")]
    for each in pair:
        each.until_world(4, rounds=2)
    gone, left = pair
    if signum == signal.SIGKILL:
        gone.kill()  # and its workers, which torch leaves behind
    else:
        gone.process.send_signal(signum)
        gone.wait()
    left.until_world(2, rounds=2)
    (tmp_path / "go-on").unlink()
    assert left.wait() == 0, left.log


def test_a_node_takes_the_place_of_one_that_was_killed(tmp_path: Path, port: int, agents: ExitStack) -> None:
    (tmp_path / "go-on").touch()
    pair = [agents.enter_context(agent(tmp_path, name, port, restarts=3)) for name in ("a", "b")]
    for each in pair:
        each.until_world(4, rounds=2)
    pair[0].kill()
    fresh = agents.enter_context(agent(tmp_path, "c", port, restarts=3))
    fresh.until_world(4, rounds=2)
    (tmp_path / "go-on").unlink()
    assert [pair[1].wait(), fresh.wait()] == [0, 0], pair[1].log + fresh.log


def test_an_endpoint_where_nobody_serves_is_an_error_that_says_so(tmp_path: Path, agents: ExitStack) -> None:
    with started("serve", "--bind", "127.0.0.1") as (_, gone):
        pass
    options = backend("rallypoint", gone, read_timeout=1, is_host=0)
    lonely = agents.enter_context(Torchrun(tmp_path, "a", "--nnodes=2", *options, WORKER, tmp_path))
    assert lonely.wait() == 1
    assert "RendezvousConnectionError" in lonely.log
    assert str(gone) in lonely.log


def test_torchruns_own_backends_show_nothing_of_the_plug_in(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error::UserWarning", "-m", "torch.distributed.run", "--standalone", "--no-python"]
    done = subprocess.run(
        [*command, "true"], capture_output=True, text=True, timeout=PATIENCE_S, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "rallypoint" not in done.stdout + done.stderr
