"""Process groups of real torch on stores of ours: by ``as_torch_store`` and by URL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from tests.support.etcd_members import etcd_cluster, has_etcd
from tests.support.launcher import Run
from tests.support.relayed import started
from tests.support.torch_forks import GLOO_ENVIRON, TorchForks

MEMBER = Path(__file__).parent.parent / "support" / "torch_group_member.py"
PATIENCE_S = 100
GROUP_TIMEOUT_S = 60.0

pytestmark = pytest.mark.timeout(2 * PATIENCE_S)


Reports: TypeAlias = list[dict[str, Any]]


def members_of(where: str, world_size: int) -> list[tuple[str, int, int]]:
    """Give the arguments of all members of a group."""
    return [(where, rank, world_size) for rank in range(world_size)]


@pytest.fixture
def run_members(torch_forks: TorchForks) -> Callable[..., Reports]:
    """Give a function that runs members, each with its own store, rank and world size, and gives what they report."""

    def run(members: list[tuple[str, int, int]], timeout_s: float, **more: str) -> Reports:
        ends = torch_forks.run(MEMBER, [(*member, timeout_s) for member in members], PATIENCE_S, **more)
        assert [end.code for end in ends] == [0] * len(members), "\n".join(end.errors for end in ends)
        return [json.loads(end.output) for end in ends]

    return run


@pytest.fixture
def run_group(run_members: Callable[..., Reports]) -> Callable[..., Reports]:
    """Give a function that runs all members of a group."""

    def run(where: str, world_size: int, **more: str) -> Reports:
        return run_members(members_of(where, world_size), GROUP_TIMEOUT_S, **more)

    return run


def run_processes(members: list[tuple[str, int, int]], timeout_s: float, **more: str) -> Reports:
    """Run members as Python starts and ends any program: torch reads the environment on import, too."""
    environment = {**os.environ, **GLOO_ENVIRON}
    processes = []
    try:
        for member in members:
            command = [sys.executable, str(MEMBER), *map(str, member), str(timeout_s)]
            processes.append(
                subprocess.Popen(
                    command, env=environment | more, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                )
            )
        ends = [(*process.communicate(timeout=PATIENCE_S), process.returncode) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    assert [code for *_, code in ends] == [0] * len(members), "\n".join(errors for _, errors, _ in ends)
    return [json.loads(output) for output, *_ in ends]


def check_work(reports: list[dict[str, Any]]) -> None:
    """Check that the members of a group did all that they should."""
    count = len(reports)
    values = [10.0 * (rank + 1) for rank in range(count)]
    for rank, report in enumerate(reports):
        assert "error" not in report, report
        assert report["total"] == sum(range(1, count + 1))
        everybody, zero, even = report["sums"]
        assert everybody == sum(values)
        assert zero == values[rank]
        assert even == (sum(values[::2]) if rank % 2 == 0 else values[rank])
        assert report["gathered"] == [{"rank": other} for other in range(count)]
        assert report["object"] == "from 0"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with started("serve", "--bind", "127.0.0.1") as (_, port):
        yield port


# --- as_torch_store --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", ["session", "c10d"])
@pytest.mark.parametrize("world_size", [2, 4])
def test_a_group_meets_on_a_server(dialect: str, world_size: int, run_group: Callable[..., Reports]) -> None:
    with started("serve", "--bind", "127.0.0.1") as (_, port):
        check_work(run_group(f"{dialect}:{port}", world_size))


def test_a_group_meets_in_a_file(tmp_path: Path, run_group: Callable[..., Reports]) -> None:
    check_work(run_group(f"file:{tmp_path}/store", 3))


def test_a_group_of_one_needs_no_more_than_a_dictionary(run_group: Callable[..., Reports]) -> None:
    check_work(run_group("hash:", 1))


@pytest.mark.parametrize(
    "more",
    [
        {"TORCH_DIST_INIT_BARRIER": "1"},
        {"TORCH_DISTRIBUTED_DEBUG": "DETAIL"},
        {"TORCH_GLOO_LAZY_INIT": "1"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_a_group_meets_however_torch_is_told_to_begin(more: dict[str, str]) -> None:
    with started("serve", "--bind", "127.0.0.1") as (_, port):
        check_work(run_processes(members_of(f"session:{port}", 2), GROUP_TIMEOUT_S, **more))


@pytest.mark.parametrize("dialect", ["session", "c10d"])
def test_a_wait_for_a_member_ends_after_the_groups_timeout(dialect: str, run_members: Callable[..., Reports]) -> None:
    with started("serve", "--bind", "127.0.0.1") as (_, port):
        (report,) = run_members([(f"{dialect}:{port}", 0, 2)], timeout_s=1.5)
    assert (report["error"], report["cause"]) == ("DistStoreError", "StoreTimeoutError")
    assert "missing 1 of" in report["text"]
    assert report["waited_s"] < PATIENCE_S / 2  # the store's own timeout is 300 s


def test_a_barrier_at_the_beginning_ends_after_the_groups_timeout_too(port: int) -> None:
    where = f"session:{port}"
    (report,) = run_processes([(where, 0, 2)], 1.5, TORCH_DIST_INIT_BARRIER="1", TORCH_GLOO_LAZY_INIT="1")
    assert report["error"] in {"DistStoreError", "DistBackendError"}
    assert report["waited_s"] < PATIENCE_S / 2


# --- the URL ---------------------------------------------------------------------------------------------


def test_a_group_meets_at_a_url(port: int, run_group: Callable[..., Reports]) -> None:
    check_work(run_group(f"rallypoint://127.0.0.1:{port}/by-url", 3))


def test_a_run_that_begins_anew_meets_anew(port: int, run_group: Callable[..., Reports]) -> None:
    for _ in range(2):
        check_work(run_group(f"rallypoint://127.0.0.1:{port}/again", 2))


def test_a_group_meets_at_the_second_of_two_places(port: int, run_group: Callable[..., Reports]) -> None:
    with started("serve", "--bind", "127.0.0.1") as (_, gone):
        pass
    check_work(run_group(f"rallypoint://127.0.0.1:{gone},127.0.0.1:{port}/places", 2))


def test_a_group_meets_at_a_url_of_a_file(tmp_path: Path, run_group: Callable[..., Reports]) -> None:
    check_work(run_group(f"rallypoint+file://{tmp_path}/store?run=r", 2))


@pytest.mark.skipif(not has_etcd(), reason="etcd is not installed")
def test_a_group_meets_on_etcd(tmp_path: Path, run_group: Callable[..., Reports]) -> None:
    with etcd_cluster(tmp_path) as cluster:
        check_work(run_group(f"rallypoint+{cluster.url}/on-etcd", 2))
        check_work(run_group(f"rallypoint+{cluster.url}/on-etcd", 2))


def test_rank_0_serves_where_the_url_says_so(run_group: Callable[..., Reports]) -> None:
    with started("serve", "--bind", "127.0.0.1") as (_, free):
        pass
    check_work(run_group(f"rallypoint://127.0.0.1:{free}/served?serve=1", 2))


def test_a_group_meets_on_a_guarded_server(
    tmp_path: Path, run_group: Callable[..., Reports], run_members: Callable[..., Reports]
) -> None:
    token = tmp_path / "token"
    token.write_text("0123456789abcdef" * 4)
    token.chmod(0o600)
    with started("serve", "--bind", "127.0.0.1", "--token-file", str(token)) as (_, guarded):
        url = f"rallypoint://127.0.0.1:{guarded}/guarded"
        check_work(run_group(url, 2, RALLYPOINT_TOKEN_FILE=str(token)))
        (report,) = run_members([(url, 0, 1)], 5)
    assert report["error"] == "DistNetworkError"
    assert "token" in report["text"]


def test_a_url_names_the_member_that_does_not_come(port: int, run_members: Callable[..., Reports]) -> None:
    url = f"rallypoint://127.0.0.1:{port}/lonely"
    reports = run_members([(url, 0, 3), (url, 2, 3)], 6)
    for report in reports:
        assert report["error"] == "DistStoreError"
        assert "rank 1" in report["text"]


URL_WORKER = """
import os, sys, warnings
warnings.simplefilter("ignore")
import torch, torch.distributed as dist
import rallypoint.integrations.torch
dist.init_process_group("gloo", init_method=sys.argv[1])
total = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(total)
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    dist.barrier()
    os._exit(3)
os.write(1, f"rank {dist.get_rank()}: {total.item()}\\n".encode())
dist.barrier()
dist.destroy_process_group()
"""


def test_workers_of_our_launcher_need_no_more_than_a_place_and_meet_anew_after_a_restart(
    tmp_path: Path, port: int
) -> None:
    script = tmp_path / "worker.py"
    script.write_text(URL_WORKER)
    launch = ("--nproc-per-node=2", "--max-restarts=1", "--rdzv-id=by-run", str(script))
    with Run(tmp_path, *launch, f"rallypoint://127.0.0.1:{port}", environ=GLOO_ENVIRON) as run:
        run.process.wait(PATIENCE_S)
        assert sorted(run.stdout.splitlines()) == ["rank 0: 3.0", "rank 1: 3.0"], run.stderr
        assert run.wait() == 0
