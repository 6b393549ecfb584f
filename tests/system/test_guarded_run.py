"""``rallypoint run --auth``: its workers get into its stores, others do not."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest
from tests.support.served import free_port

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
    os.write(1, f"the stranger: {error}\\n".encode())  # in one piece: workers share the stream
"""

TORCHS = """
import os
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
os.write(1, f"the sum: {total.item()}\\n".encode())  # in one piece, as above
dist.destroy_process_group()
"""

TORCHS_STORE = """
import datetime, os
from torch.distributed import TCPStore
where = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
TCPStore(*where, is_master=False, wait_for_workers=False, timeout=datetime.timedelta(seconds=1)).set("a", "b")
"""


def run(script, *arguments, **environ):
    (ended,) = run_nodes(script, ["--nproc-per-node=2", *arguments], **environ)
    return ended


def run_nodes(script, *nodes, **environ):
    """Run one ``rallypoint run`` for each list of arguments, all at the same time."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("RALLYPOINT_T")} | environ
    with contextlib.ExitStack() as stack:
        started = []
        for arguments in nodes:
            command = [
                sys.executable,
                "-m",
                "rallypoint",
                "run",
                *arguments,
                "--no-python",
                sys.executable,
                "-c",
                script,
            ]
            process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            started.append(stack.enter_context(process))
            stack.callback(process.kill)
        said = [process.communicate(timeout=TIMEOUT_S) for process in started]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, *both)
        for process, both in zip(started, said, strict=True)
    ]


def meet_somehow(how):
    """Give the options by which two nodes meet at a store that the first of them, or the node of rank 0, serves."""
    port = free_port()
    if how == "static":
        return [["--nnodes=2", f"--master-port={port}", f"--node-rank={rank}"] for rank in range(2)]
    return [["--nnodes=2", "--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{port}"]] * 2


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


@pytest.mark.parametrize("how", ["c10d", "static"])
def test_several_nodes_meet_by_one_token(how):
    nodes = run_nodes(OURS, *meet_somehow(how), RALLYPOINT_TOKEN="the-token-of-the-job")
    for ended in nodes:
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout.count("the stranger: the server wants to see a token") == 1


def test_torch_s_workers_of_several_nodes_get_in_from_where_they_are_let(token_file):
    nodes = run_nodes(
        TORCHS, *meet_somehow("c10d"), RALLYPOINT_TOKEN_FILE=token_file, RALLYPOINT_ALLOW_PLAIN="127.0.0.0/8,::1"
    )
    for ended in nodes:
        assert ended.returncode == 0, ended.stderr
        assert ended.stdout == "the sum: 2.0\n"


def test_torch_s_workers_that_are_not_let_in_are_told_how(token_file):
    (ended,) = run_nodes(TORCHS_STORE, ["--nproc-per-node=1"], RALLYPOINT_TOKEN_FILE=token_file)
    assert ended.returncode == 1
    assert "it speaks c10d, which cannot prove the token" in ended.stderr
    assert "RALLYPOINT_ALLOW_PLAIN" in ended.stderr
