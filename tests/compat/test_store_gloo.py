"""Four processes of a torch gloo group meet on our server, as a training job does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rallypoint.store.tcp import TCPStore

MEMBER = Path(__file__).parent.parent / "support" / "gloo_member.py"
WORLD_SIZE = 4


@pytest.mark.parametrize("way", ["env", "store"])
def test_a_gloo_group_of_four_meets_on_our_server(way):
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "TORCH_CPP_LOG_LEVEL": "ERROR", "OMP_NUM_THREADS": "1"}
    members = []
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) as host:
        try:
            for rank in range(WORLD_SIZE):
                command = [sys.executable, str(MEMBER), way, str(rank), str(WORLD_SIZE), str(host.port)]
                members.append(
                    subprocess.Popen(
                        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
                    )
                )
            ends = [(*member.communicate(timeout=100), member.returncode) for member in members]
        finally:
            for member in members:
                if member.poll() is None:
                    member.kill()
                    member.communicate()
    assert [returncode for _, _, returncode in ends] == [0] * WORLD_SIZE, [errors for _, errors, _ in ends]
    reports = [json.loads(output) for output, _, _ in ends]
    assert [report["total"] for report in reports] == [10.0] * WORLD_SIZE
    assert [report["pair"] for report in reports] == [30.0, 30.0, 30.0, 40.0]
    assert all(report["gathered"] == [f"rank {rank}" for rank in range(WORLD_SIZE)] for report in reports)
