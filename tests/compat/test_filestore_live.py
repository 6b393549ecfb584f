"""One file, used by two processes with torch's FileStore and two with ours at the same time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MEMBER = Path(__file__).parent.parent / "support" / "file_store_member.py"
SIDES = ("torch", "rallypoint", "rallypoint", "torch")
ROUNDS = 40


@pytest.mark.parametrize("first_out", [0, 3], ids=["torch leaves last", "ours leaves last"])
def test_two_torch_processes_and_two_of_ours_work_in_one_file(tmp_path, first_out):
    path = tmp_path / "store"
    world_size = len(SIDES)
    environment = {**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
    members = []
    try:
        for rank, side in enumerate(SIDES):
            command = [sys.executable, str(MEMBER), side, str(path), str(rank), str(world_size)]
            pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
            members.append(subprocess.Popen(command, env=environment, text=True, **pipes))
        told = [member.stdout.readline() for member in members]
        leaving = members[first_out:] + members[:first_out]
        errors = [member.communicate(timeout=100)[1] for member in leaving]
    finally:
        for member in members:
            if member.poll() is None:
                member.kill()
                member.communicate()
    assert [member.returncode for member in members] == [0] * world_size, errors
    reports = [json.loads(line) for line in told]
    numbers = sorted(number for report in reports for number in report["numbers"])
    assert numbers == list(range(1, world_size * ROUNDS + 1))
    assert len({report["winner"] for report in reports}) == 1
    whole_log = sorted(f"{rank}.{number}" for rank in range(world_size) for number in range(ROUNDS))
    for report in reports:
        assert report["sides"] == list(SIDES)
        assert report["large"] is True
        assert report["log"] == whole_log
        assert report["churn"] is False
        assert report["everything"] == [f"from {rank}" for rank in range(world_size)]
        # refcount/; hello, large, all: one each; n, winner, log; meet: 2; finished: 2
        assert report["num_keys"] >= 1 + 3 * world_size + 3 + 2 + 1
    assert not path.exists()  # the last one out, of whichever side, has removed it
