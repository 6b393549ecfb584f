"""Every example runs, and ends as its own text says."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TIME_MAX_S = 110


def run(*command: str) -> str:
    """Run a program to its end; its output is shown if it fails, and what it started ends with it."""
    with subprocess.Popen(
        [sys.executable, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=TIME_MAX_S)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, output
    return output


def accuracy_in(output: str) -> float:
    found = re.findall(r"(\d+\.\d)% of the test images", output)
    assert found, output
    return float(found[-1])


def test_the_demo_trains_loses_a_worker_and_recovers() -> None:
    output = run(str(EXAMPLES / "demo.py"))
    rounds = re.findall(r"round (\d+): (\d+) workers", output)
    assert rounds == [("0", "4"), ("1", "4")], output
    assert "with SIGKILL" in output
    assert re.search(r"time to recover \d+\.\d\d s", output)
    assert accuracy_in(output) > 90


def test_the_digits_train_on_one_node(tmp_path: Path) -> None:
    checkpoint = tmp_path / "digits.npz"
    command = ["-m", "rallypoint", "run", "--nproc-per-node=2", str(EXAMPLES / "train_digits.py")]
    output = run(*command, "--epochs=5", f"--checkpoint={checkpoint}")
    assert '"event": "trained"' in output
    assert checkpoint.exists()


def test_torch_ddp_trains_under_rallypoint_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    command = ["-m", "rallypoint", "run", "--nproc-per-node=2"]
    output = run(*command, str(EXAMPLES / "ddp_digits.py"), "--epochs=10")
    assert "on 2 workers" in output
    assert accuracy_in(output) > 90


def test_a_function_runs_as_workers_and_survives_an_accident() -> None:
    assert run(str(EXAMPLES / "functions.py")) == "pi is 3.141593, from 4 workers\n"


def test_torch_groups_meet_at_a_url_and_name_who_is_missing() -> None:
    output = run(str(EXAMPLES / "torch_group.py"))
    assert "the ranks of 3 members add up to 3" in output
    assert re.search(r"nobody goes on: exchange timeout after .*missing: .*rank 3", output)


def test_one_thread_waits_for_what_another_sets_which_torch_cannot() -> None:
    program = str(EXAMPLES / "two_threads.py")
    assert "rallypoint: the wait gave b'42'; the set was not held up" in run(program)
    assert "torch.distributed: the wait failed with DistStoreError; the set was held up by it" in run(program, "torch")
