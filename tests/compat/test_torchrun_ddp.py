"""One training job by an unmodified torchrun, over torch's own store and over ours: the same losses to the last bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.support.etcd_members import EtcdCluster, etcd_cluster, has_etcd
from tests.support.relayed import started
from tests.support.torchruns import PATIENCE_S, Torchrun, backend

JOB = Path(__file__).parent.parent / "support" / "ddp_job.py"
STEPS = 40

pytestmark = pytest.mark.timeout(2 * PATIENCE_S)


@pytest.fixture
def running() -> Iterator[ExitStack]:
    """Hold servers and agents until the end of the test."""
    with ExitStack() as stack:
        yield stack


def agents_of(running: ExitStack, folder: Path, rendezvous: Sequence[Sequence[str]], **environ: str) -> list[Torchrun]:
    """Start one agent of two workers for each rendezvous."""
    usual = ("--nnodes=2", "--nproc-per-node=2", "--max-restarts=0")
    return [
        running.enter_context(Torchrun(folder, f"agent-{node}", *usual, *options, JOB, folder, STEPS, **environ))
        for node, options in enumerate(rendezvous)
    ]


def losses_of(agents: list[Torchrun]) -> list[float]:
    """Wait for the end of the job and give its losses."""
    logs = "\n".join(agent.log for agent in agents if agent.wait() != 0)
    assert not logs, logs
    (report,) = (report for agent in agents for report in agent.reports())
    assert report["world_size"] == 4
    losses: list[float] = report["losses"]
    assert len(losses) == STEPS
    return losses


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Give the losses of the job over torch's own store, which torch's first agent serves."""
    with started("serve", "--bind", "127.0.0.1") as (_, free):
        pass
    with ExitStack() as running:
        theirs = [backend("c10d", free, is_host=is_host) for is_host in (1, 0)]
        losses = losses_of(agents_of(running, tmp_path_factory.mktemp("reference"), theirs))
    assert losses[-1] < losses[0]
    return losses


def test_torchs_rendezvous_on_our_server(tmp_path: Path, running: ExitStack, reference: list[float]) -> None:
    _, port = running.enter_context(started("serve", "--bind", "127.0.0.1"))
    agents = agents_of(running, tmp_path, [backend("c10d", port, is_host=0)] * 2)
    assert losses_of(agents) == reference


def test_our_rendezvous_on_our_server(tmp_path: Path, running: ExitStack, reference: list[float]) -> None:
    _, port = running.enter_context(started("serve", "--bind", "127.0.0.1"))
    agents = agents_of(running, tmp_path, [backend("rallypoint", port)] * 2)
    assert losses_of(agents) == reference


@pytest.fixture
def token(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text("0123456789abcdef" * 4)
    path.chmod(0o600)
    return str(path)


def test_our_rendezvous_on_a_guarded_server(
    tmp_path: Path, running: ExitStack, reference: list[float], token: str
) -> None:
    _, port = running.enter_context(started("serve", "--bind", "127.0.0.1", "--token-file", token))
    # torch's workers know no token: the store that node 0 serves for them lets its own machine in.
    known = {"RALLYPOINT_TOKEN_FILE": token, "RALLYPOINT_ALLOW_PLAIN": "127.0.0.1"}
    agents = agents_of(running, tmp_path, [backend("rallypoint", port)] * 2, **known)
    assert losses_of(agents) == reference


def test_torchs_rendezvous_through_a_relay_of_each_machine(
    tmp_path: Path, running: ExitStack, reference: list[float], token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, port = running.enter_context(started("serve", "--bind", "127.0.0.1", "--token-file", token))
    monkeypatch.setenv("RALLYPOINT_TOKEN_FILE", token)
    relays = [running.enter_context(started("relay", f"127.0.0.1:{port}"))[1] for _ in range(2)]
    monkeypatch.delenv("RALLYPOINT_TOKEN_FILE")
    agents = agents_of(running, tmp_path, [backend("c10d", relay, is_host=0) for relay in relays])
    assert losses_of(agents) == reference


# --- on etcd ---------------------------------------------------------------------------------------------

HELD_STEP = 20

on_etcd = pytest.mark.skipif(not has_etcd(), reason="etcd is not installed")


@pytest.fixture
def cluster(tmp_path: Path, running: ExitStack) -> EtcdCluster:
    return running.enter_context(etcd_cluster(tmp_path / "etcd", 3))


def kill_the_leader_amid(folder: Path, agents: list[Torchrun], cluster: EtcdCluster) -> None:
    """Kill the member that leads while the training waits in the middle; groups meet after that, too."""

    def is_there() -> bool:
        ended = [agent.log for agent in agents if agent.process.poll() is not None]
        assert not ended, "\n".join(ended)
        return (folder / "step").exists() and (folder / "step").read_text() == str(HELD_STEP)

    agents[0].until(f"step {HELD_STEP}", is_there)
    leader = cluster.members[cluster.leader()]
    leader.kill()
    leader.wait()
    (folder / "hold").unlink()


@on_etcd
def test_torchs_rendezvous_through_gateways_to_etcd_that_loses_its_leader(
    tmp_path: Path, running: ExitStack, reference: list[float], cluster: EtcdCluster
) -> None:
    (tmp_path / "hold").write_text(str(HELD_STEP))
    url = f"{cluster.url}/run"
    gateways = [running.enter_context(started("gateway", "--store", url))[1] for _ in range(2)]
    agents = agents_of(running, tmp_path, [backend("c10d", gateway, is_host=0) for gateway in gateways])
    kill_the_leader_amid(tmp_path, agents, cluster)
    assert losses_of(agents) == reference


@on_etcd
def test_our_rendezvous_on_etcd_that_loses_its_leader(
    tmp_path: Path, running: ExitStack, reference: list[float], cluster: EtcdCluster
) -> None:
    (tmp_path / "hold").write_text(str(HELD_STEP))
    options = [
        "--rdzv-backend=rallypoint",
        f"--rdzv-endpoint={cluster.url}",
        "--rdzv-id=job",
        "--rdzv-conf=worker_store=gateway",
    ]
    agents = agents_of(running, tmp_path, [options] * 2)
    kill_the_leader_amid(tmp_path, agents, cluster)
    assert losses_of(agents) == reference
