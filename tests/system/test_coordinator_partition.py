"""Runs through a coordinator on machines whose links are cut and heal: who is cut off stops before the others go on."""

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
from tests.support.etcd import program
from tests.support.launcher import Run, has_ended, until, write_script
from tests.support.netns import Machine, network
from tests.support.nodes import coordinates, pids, together

PORT = 29400
LEASE_S = 3.0
CONF = "is_host=0,last_call_timeout=0.5,keep_alive_interval=0.3,keep_alive_max_attempt={:.0f}"

WORK = """
import time
done, place = os.path.join(os.getcwd(), "done"), os.open(f"alive-{os.getpid()}", os.O_CREAT | os.O_WRONLY)
report(began=repr(time.monotonic()))
while not os.path.exists(done):
    os.pwrite(place, repr(time.monotonic()).ljust(32).encode(), 0)
    time.sleep(0.005)
"""


@contextmanager
def serving(machine: Machine, data_dir: Path | None = None) -> Iterator[None]:
    command = [*machine.before, sys.executable, "-m", "rallypoint", "serve", "--bind", machine.address]
    command += ["--port", str(PORT), "--ready-json"] + ([] if data_dir is None else ["--data-dir", str(data_dir)])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())
            yield
        finally:
            process.kill()


class Cluster:
    """A machine for the store, and one for each node of the run."""

    def __init__(self, stack: ExitStack, folder: Path, lease_s: float = LEASE_S) -> None:
        self._stack = stack
        self._folder = folder
        self._network = stack.enter_context(network())
        self.store = self._network.machine("store")
        self._conf = CONF.format(lease_s / 0.3)
        self._work = write_script(folder, WORK)
        self._endpoint = f"{self.store.address}:{PORT}"
        self._backend = "rallypoint"
        self.machines: dict[Run, Machine] = {}

    def serve(self) -> None:
        self._stack.enter_context(serving(self.store))

    def serve_etcd(self) -> None:
        """Run an etcd of one member in place of our server; clients wait until it answers."""
        self._backend, self._conf = "etcd", self._conf.replace("is_host=0,", "")
        here, itself = f"http://{self._endpoint}", "http://127.0.0.1:2380"
        command = [*self.store.before, str(program()), "--name=only", f"--data-dir={self._folder / 'etcd'}"]
        command += [f"--listen-client-urls={here}", f"--advertise-client-urls={here}", f"--listen-peer-urls={itself}"]
        command += [f"--initial-advertise-peer-urls={itself}", f"--initial-cluster=only={itself}"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)

    def node(self, name: str, nodes: str) -> Run:
        machine = self._network.machine(name)
        arguments = [
            f"--nnodes={nodes}",
            f"--rdzv-backend={self._backend}",
            f"--rdzv-endpoint={self._endpoint}",
            f"--rdzv-conf={self._conf}",
            "--rdzv-id=test",
            f"--local-addr={machine.address}",
            "--shutdown-timeout=5",
            "--max-restarts=3",
        ]
        run = self._stack.enter_context(Run(self._folder, *arguments, self._work, name=name, before=machine.before))
        self.machines[run] = machine
        return run

    def last_step(self, pid: int) -> float:
        """Give when a worker did something for the last time, on the clock that all machines share."""
        return float((self._folder / f"alive-{pid}").read_text(encoding="utf-8"))

    def finish(self, *runs: Run) -> None:
        """Let workers that run, and those that start from now on, end well."""
        (self._folder / "done").touch()
        assert [run.wait() for run in runs] == [0] * len(runs), "".join(run.stderr for run in runs)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with ExitStack() as stack:
        made = Cluster(stack, tmp_path)
        made.serve()
        yield made


def began(*runs: Run, after: int) -> float:
    """Give when the first worker began in a round after another that these nodes had to themselves."""
    found = [report for run in runs for report in run.reports() if int(report["RALLYPOINT_ROUND"]) > after]
    return min(float(report["began"]) for report in found if int(report["GROUP_WORLD_SIZE"]) <= len(runs))


@pytest.mark.parametrize("is_head", [False, True], ids=["a node", "the coordinator"])
def test_a_node_that_is_cut_off_stops_before_the_others_go_on_and_comes_back(cluster: Cluster, is_head: bool) -> None:
    runs = [cluster.node(name, "1:3") for name in "abc"]
    first = together(*runs)
    (lost,) = (
        [run for run in runs if coordinates(run)] if is_head else [run for run in runs if not coordinates(run)][:1]
    )
    left = [run for run in runs if run is not lost]
    worker = pids(lost)[-1]
    cluster.machines[lost].cut()
    second = together(*left, after=first)
    assert has_ended(worker)
    assert cluster.last_step(worker) < began(*left, after=first)
    assert "no renewal of this node's lease" in lost.stderr
    for run in left:
        said = [line for line in run.stderr.splitlines() if "agent.stopping" in line][-1]
        assert f"{cluster.machines[lost].address}#" in said
        assert "is gone" in said
    assert any(coordinates(run) for run in left)
    cluster.machines[lost].heal()
    together(*runs, after=second)
    cluster.finish(*runs)


def test_a_store_that_is_cut_off_from_all_for_less_than_a_lease_disturbs_nobody(tmp_path: Path) -> None:
    with ExitStack() as stack:
        cluster = Cluster(stack, tmp_path, lease_s=15.0)
        cluster.serve()
        a, b = (cluster.node(name, "2") for name in "ab")
        first = together(a, b)
        cluster.store.cut()
        time.sleep(2.5)
        cluster.store.heal()
        os.kill(pids(a)[-1], signal.SIGKILL)  # that both hear of it says that both are connected
        assert together(a, b, after=first) == first + 1
        assert [len(run.reports()) for run in (a, b)] == [2, 2]
        cluster.finish(a, b)


def test_all_are_cut_off_for_longer_than_a_lease_and_meet_again(cluster: Cluster) -> None:
    a, b = (cluster.node(name, "2") for name in "ab")
    first = together(a, b)
    workers = [pids(run)[-1] for run in (a, b)]
    cluster.store.cut()
    until("nobody works", lambda: all(has_ended(pid) for pid in workers))
    cluster.store.heal()
    together(a, b, after=first)
    cluster.finish(a, b)


@pytest.mark.parametrize("is_head", [False, True], ids=["a node", "the coordinator"])
def test_a_node_whose_connection_breaks_as_it_is_cut_off_stops_before_the_others_go_on(
    cluster: Cluster, is_head: bool
) -> None:
    runs = [cluster.node(name, "1:3") for name in "abc"]
    first = together(*runs)
    lost = next(run for run in runs if coordinates(run) is is_head)
    left = [run for run in runs if run is not lost]
    worker = pids(lost)[-1]
    machine = cluster.machines[lost]
    machine.cut()
    machine.reset(cluster.store)
    cluster.store.reset(machine)
    second = together(*left, after=first)
    until("the worker is killed", lambda: has_ended(worker))
    assert cluster.last_step(worker) < began(*left, after=first)
    assert "the connection to the store was lost" in lost.stderr
    machine.heal()
    together(*runs, after=second)
    cluster.finish(*runs)


def test_on_etcd_too_a_node_that_is_cut_off_stops_before_the_others_go_on(tmp_path: Path) -> None:
    with ExitStack() as stack:
        cluster = Cluster(stack, tmp_path, lease_s=15.0)  # far longer than the session, which is what ends
        cluster.serve_etcd()
        runs = [cluster.node(name, "1:2") for name in "ab"]
        first = together(*runs)
        left, lost = runs
        worker = pids(lost)[-1]
        cluster.machines[lost].cut()
        second = together(left, after=first)
        until("the worker is killed", lambda: has_ended(worker))
        assert cluster.last_step(worker) < began(left, after=first)
        cluster.machines[lost].heal()
        together(*runs, after=second)
        cluster.finish(*runs)
