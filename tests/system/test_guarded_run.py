"""``rallypoint run --auth``: its workers get into its stores, others do not."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

TIMEOUT_S = 60.0

OURS = """
import os
from rallypoint import TCPStore, rendezvous
from rallypoint.errors import AuthenticationError
store, rank, world_size = next(rendezvous("env://"))
store.set(f"rank{rank}", b"here")
store.wait([f"rank{other}" for other in range(world_size)])
token = os.environ.pop("RALLYPOINT_TOKEN")
try:
    TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), timeout=20, dialect="session")
except AuthenticationError as error:
    assert token not in str(error)
    print("the stranger:", error, flush=True)
"""

TORCHS = """
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
print("the sum:", total.item(), flush=True)
dist.destroy_process_group()
"""


def run(script, *arguments, **environ):
    command = [sys.executable, "-m", "rallypoint", "run", "--nproc-per-node", "2", *arguments]
    return subprocess.run(
        [*command, "--no-python", sys.executable, "-c", script],
        env={name: value for name, value in os.environ.items() if not name.startswith("RALLYPOINT_T")} | environ,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text("the-token-of-the-job")
    return str(path)


def test_workers_have_the_token_that_the_run_made():
    ended = run(OURS, "--auth")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("the stranger: the server wants to see a token") == 2


def test_torch_s_workers_get_in_from_where_they_are_let():
    ended = run(TORCHS, "--auth", RALLYPOINT_ALLOW_PLAIN="127.0.0.0/8,::1")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("the sum: 2.0") == 2


def test_a_token_that_was_given_shows_nowhere_in_what_a_run_says(token_file):
    script = "raise ValueError('the worker failed')"
    ended = run(script, "--auth", "--tee", "3", RALLYPOINT_TOKEN_FILE=token_file, LOGLEVEL="DEBUG")
    assert ended.returncode == 1
    assert "the worker failed" in ended.stderr
    assert "the-token-of-the-job" not in ended.stdout + ended.stderr
