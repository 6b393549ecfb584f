"""Runs through a coordinator as real processes: every kind of death, and what everybody makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from tests.support.launcher import PATIENCE_S, WAIT, Run, has_ended, until, write_script
from tests.support.nodes import coordinates, kill, pids, rank, together

from rallypoint.store.bootstrap import get_free_port

FAST = "is_host=0,last_call_timeout=0.5,keep_alive_interval=0.3,keep_alive_max_attempt=10"


class Server:
    """One ``rallypoint serve`` that can be killed and started again on the same port."""

    def __init__(self, data_dir: Path | None = None) -> None:
        self.endpoint = f"127.0.0.1:{get_free_port()}"
        self._command = [sys.executable, "-m", "rallypoint", "serve", "--bind", "127.0.0.1", "--ready-json"]
        self._command += ["--port", self.endpoint.rpartition(":")[2]]
        self._command += [] if data_dir is None else ["--data-dir", str(data_dir)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self.process.stdout is not None
        assert json.loads(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def running_server(data_dir: Path | None = None) -> Iterator[Server]:
    server = Server(data_dir)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.kill()


class Job:
    """The nodes of one run."""

    def __init__(self, stack: ExitStack, folder: Path, endpoint: str, backend: str = "rallypoint") -> None:
        self.stack = stack
        self.folder = folder
        self.endpoint = endpoint
        self.backend = backend
        self.done = folder / "done"
        self.work = write_script(folder, "report()", f"if not os.path.exists({str(self.done)!r}): {WAIT}")

    def node(self, name: str, nodes: str = "2", *more: str, conf: str = FAST, work: str = "") -> Run:
        arguments = [
            f"--nnodes={nodes}",
            f"--rdzv-backend={self.backend}",
            f"--rdzv-endpoint={self.endpoint}",
            f"--rdzv-conf={conf}",
            "--rdzv-id=test",
            "--shutdown-timeout=5",
            *more,
        ]
        return self.stack.enter_context(Run(self.folder, *arguments, work or self.work, name=name))

    def finish(self, *runs: Run) -> None:
        """Let workers that start from now on end at once."""
        self.done.touch()
        os.kill(pids(runs[0])[-1], signal.SIGKILL)
        assert [run.wait() for run in runs] == [0] * len(runs), "".join(run.stderr for run in runs)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def job(stack: ExitStack, tmp_path: Path) -> Job:
    return Job(stack, tmp_path, stack.enter_context(running_server()).endpoint)


def test_a_killed_worker_is_news_on_every_node_and_all_start_again(job: Job) -> None:
    a, b = (job.node(name, "2", "--max-restarts=2") for name in "ab")
    first = together(a, b)
    os.kill(pids(a)[-1], signal.SIGKILL)
    assert together(a, b, after=first) == first + 1
    (said,) = [line for line in b.stderr.splitlines() if "agent.stopping" in line]
    for part in ("round 0", "node ", "killed by SIGKILL", "#"):
        assert part in said
    assert "exit code" not in said
    job.finish(a, b)
    assert [report["TORCHELASTIC_RESTART_COUNT"] for report in a.reports()] == ["0", "1", "2"]


def test_the_nodes_go_on_without_a_killed_agent_whether_it_coordinates_or_not(job: Job) -> None:
    runs = [job.node(name, "1:3", "--max-restarts=1") for name in "abc"]
    together(*runs)
    (head,) = [run for run in runs if coordinates(run)]
    kill(head)
    left = [run for run in runs if run is not head]
    together(*left)
    (head,) = [run for run in left if coordinates(run)]
    (other,) = [run for run in left if run is not head]
    kill(other)
    together(head)
    job.finish(head)
    assert all(has_ended(pid) for run in runs for pid in pids(run))


@pytest.mark.parametrize("is_head", [False, True], ids=["a node", "the coordinator"])
def test_a_frozen_agent_is_left_behind_kills_its_workers_when_it_thaws_and_comes_back(job: Job, is_head: bool) -> None:
    quick = FAST.replace("attempt=10", "attempt=4")
    runs = [job.node(name, "1:2", "--max-restarts=1", conf=quick) for name in "ab"]
    together(*runs)
    other, frozen = sorted(runs, key=lambda run: coordinates(run) is is_head)
    worker = pids(frozen)[-1]
    frozen.process.send_signal(signal.SIGSTOP)
    together(other)
    assert not has_ended(worker)
    frozen.process.send_signal(signal.SIGCONT)
    until("the worker is killed", lambda: has_ended(worker))
    together(other, frozen)
    assert "is over for this node" in frozen.stderr
    job.finish(other, frozen)


def test_a_coordinator_that_freezes_while_nodes_gather_is_replaced(job: Job) -> None:
    quick = FAST.replace("attempt=10", "attempt=4")
    frozen = job.node("a", "2", "--max-restarts=1", conf=quick)  # who comes first says what the run allows
    until("it coordinates", lambda: coordinates(frozen))
    frozen.process.send_signal(signal.SIGSTOP)
    b, c = (job.node(name, "2", "--max-restarts=1", conf=quick) for name in "bc")
    together(b, c)
    job.finish(b, c)


def test_the_restart_of_a_durable_server_disturbs_nobody(stack: ExitStack, tmp_path: Path) -> None:
    server = stack.enter_context(running_server(tmp_path / "data"))
    job = Job(stack, tmp_path, server.endpoint)
    slow = FAST.replace("interval=0.3", "interval=3")  # however slowly a server starts here, it does so in time
    a, b = (job.node(name, "2", "--max-restarts=1", conf=slow) for name in "ab")
    together(a, b)
    before = pids(a) + pids(b)
    for _ in range(2):
        server.kill()
        server.start()
        time.sleep(1.0)  # so that they meet the server that is back, not only the next one
    assert pids(a) + pids(b) == before
    assert not any(has_ended(pid) for pid in before)
    job.finish(a, b)
    assert len(pids(a) + pids(b)) == 4


def test_the_end_of_a_server_without_data_ends_the_run_and_says_so(stack: ExitStack, tmp_path: Path) -> None:
    server = stack.enter_context(running_server())
    job = Job(stack, tmp_path, server.endpoint)
    runs = [job.node(name, "2") for name in "ab"]
    together(*runs)
    server.kill()
    for run in runs:
        assert run.wait() == 1
        assert "what it held" in run.stderr.splitlines()[-1]
        assert "Traceback" not in run.stderr
        assert all(has_ended(pid) for pid in pids(run))


def test_a_run_grows_and_shrinks(job: Job) -> None:
    a, b = job.node("a", "2:4"), job.node("b", "2:4")
    together(a, b)
    c, d = job.node("c", "2:4"), job.node("d", "2:4")
    together(a, b, c, d)
    assert sorted(rank(run) for run in (a, b, c, d)) == [0, 1, 2, 3]
    d.process.send_signal(signal.SIGTERM)
    assert d.wait() == 143
    together(a, b, c)
    assert sorted(rank(run) for run in (a, b, c)) == [0, 1, 2]
    assert "is going: SIGTERM" in a.stderr or "left: SIGTERM" in a.stderr


def test_node_0_is_replaced_and_the_others_keep_their_ranks(job: Job) -> None:
    runs = [job.node(name) for name in "ab"]
    together(*runs)
    first, second = sorted(runs, key=rank)
    kill(first)
    newcomer = job.node("c")
    together(second, newcomer)
    assert (rank(newcomer), rank(second)) == (0, 1)


def test_ranks_go_as_nodes_wish(job: Job) -> None:
    a = job.node("a", "2", "--node-rank=1")
    b = job.node("b", "2", "--node-rank=0", "--label", "rack=7")
    together(a, b)
    assert (rank(a), rank(b)) == (1, 0)


def test_a_spare_takes_over_and_one_that_is_not_needed_ends_well(job: Job) -> None:
    a, b = job.node("a", "2", "--max-restarts=1"), job.node("b", "2", "--max-restarts=1")
    together(a, b)
    spares = [job.node(name, "2", "--max-restarts=1") for name in "cd"]
    for spare in spares:
        until("it stands by", lambda spare=spare: "standing by" in spare.stderr)  # type: ignore[misc]
    kill(b)
    until("one takes over", lambda: any(spare.reports() for spare in spares))
    (seated,) = [spare for spare in spares if spare.reports()]
    together(a, seated)
    job.finish(a, seated)
    assert [spare.wait() for spare in spares] == [0, 0]


def test_a_newcomer_that_comes_and_goes_is_kept_out(job: Job) -> None:
    conf = f"{FAST},flap_limit=2,cool_down=600"
    a = job.node("a", "1:2", "--local-addr=127.0.0.1", conf=conf)
    together(a)
    for name in ("b", "c"):
        shaky = job.node(name, "1:2", "--local-addr=127.0.0.2", conf=conf)
        together(a, shaky)
        kill(shaky)
        together(a)
    rounds = len(a.reports())
    kept_out = job.node("d", "1:2", "--local-addr=127.0.0.2", conf=conf)
    until("it is told", lambda: "none is taken in" in kept_out.stderr)
    assert len(a.reports()) == rounds
    together(a, job.node("e", "1:2", "--local-addr=127.0.0.3", conf=conf))


def test_the_budget_is_of_all_nodes_together(job: Job) -> None:
    a, b = job.node("a", "2", "--max-restarts=1"), job.node("b", "2", "--max-restarts=1")
    first = together(a, b)
    os.kill(pids(a)[-1], signal.SIGKILL)
    together(a, b, after=first)
    os.kill(pids(b)[-1], signal.SIGKILL)
    assert (a.wait(), b.wait()) == (1, 137)
    for run in (a, b):
        assert "is used up" in run.stderr
        assert len(run.reports()) == 2
        assert all(has_ended(pid) for pid in pids(run))


def test_workers_may_use_the_runs_own_store(job: Job) -> None:
    work = write_script(
        job.folder,
        "from rallypoint.store.tcp import TCPStore",
        'place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])',
        "store = TCPStore(*place, is_master=False, wait_for_workers=False, timeout=60)",
        'number = store.add("count", 1)',
        'store.set(os.environ["RANK"], "here")',
        'store.wait(["0", "1"])',
        "report(number=str(number))",
        'sys.exit(os.environ["RALLYPOINT_ROUND"] == "0" and os.environ["RANK"] == "1")',
    )
    conf = f"{FAST},worker_store=gateway"
    a, b = (job.node(name, "2", "--max-restarts=1", conf=conf, work=work) for name in "ab")
    assert (a.wait(), b.wait()) == (0, 0), a.stderr + b.stderr
    reports = a.reports() + b.reports()
    assert {report["MASTER_ADDR"] for report in reports} == {"127.0.0.1"}
    assert "refused" not in a.stderr + b.stderr
    for number in "01":  # nothing of the round before is in the next
        assert sorted(each["number"] for each in reports if each["RALLYPOINT_ROUND"] == number) == ["1", "2"]


def test_a_run_on_etcd_outlives_the_agent_that_coordinates(stack: ExitStack, tmp_path: Path, etcd_url: str) -> None:
    conf = FAST.replace("is_host=0,", "")
    job = Job(stack, tmp_path, etcd_url, backend="etcd")
    runs = [job.node(name, "1:2", "--max-restarts=1", conf=conf) for name in "ab"]
    together(*runs)
    (head,) = [run for run in runs if coordinates(run)]
    (other,) = [run for run in runs if run is not head]
    kill(head)
    together(other)
    job.finish(other)
