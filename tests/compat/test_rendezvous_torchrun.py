"""torchrun, unchanged: two of its agents, two workers each, meet on a server of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

PATIENCE_S = 200.0  # four processes that import torch, perhaps beside other tests

pytestmark = pytest.mark.timeout(2 * PATIENCE_S)

WORKER = """
import os
import torch
import torch.distributed as dist

dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
dist.barrier()
names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "GROUP_RANK", "TORCHELASTIC_RESTART_COUNT")
with open(os.path.join(os.environ["RESULTS"], "rank" + os.environ["RANK"] + ".txt"), "w") as file:
    file.write(" ".join([str(total.item())] + [os.environ[name] for name in names]))
if os.environ.get("FAIL_ONCE") == os.environ["RANK"] and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    os._exit(7)
dist.barrier()
dist.destroy_process_group()
"""


@contextmanager
def running(*command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command; make sure that it is gone afterwards."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **environment}
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.communicate(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()


@pytest.fixture
def port() -> Iterator[int]:
    command = [sys.executable, "-m", "rallypoint", "serve", "--bind", "127.0.0.1", "--port", "0", "--ready-json"]
    with running(*command) as server:
        assert server.stdout is not None
        yield int(json.loads(server.stdout.readline())["port"])


def agent(script: Path, port: int) -> list[str]:
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes=2", "--nproc-per-node=2", "--max-restarts=1"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=job", "--rdzv-conf=is_host=0"),
        *("--local-addr=127.0.0.1", str(script)),
    ]


def run_two_agents(tmp_path: Path, port: int, **environment: str) -> list[list[str]]:
    """Give what each worker wrote, in the order of ranks: sum, rank, world size, local rank, node rank, restarts."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    with ExitStack() as agents:
        environment = {"RESULTS": str(tmp_path), "OMP_NUM_THREADS": "1", **environment}
        started = [agents.enter_context(running(*agent(script, port), **environment)) for _ in range(2)]
        outputs = [process.communicate(timeout=PATIENCE_S)[0] for process in started]
        assert [process.returncode for process in started] == [0, 0], "\n".join(outputs)
    return [(tmp_path / f"rank{rank}.txt").read_text().split() for rank in range(4)]


def test_torchruns_agents_meet_on_our_server_and_their_workers_reduce(tmp_path: Path, port: int) -> None:
    results = run_two_agents(tmp_path, port)
    assert results == [["10.0", str(rank), "4", str(rank % 2), str(rank // 2), "0"] for rank in range(4)]


def test_torchruns_agents_meet_again_after_a_worker_failed(tmp_path: Path, port: int) -> None:
    # Workers share the agents' store over restarts there and may read old addresses in it; that is torch's affair.
    results = run_two_agents(tmp_path, port, FAIL_ONCE="1", TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    assert [result[0] for result in results] == ["10.0"] * 4
    assert "1" in {result[5] for result in results}
