"""Four processes of a torch gloo group meet on our server, as a training job does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rallypoint.store.tcp import TCPStore

MEMBER = Path(__file__).parent.parent / "support" / "gloo_member.py"
WORLD_SIZE = 4
PATIENCE_S = 100.0


@pytest.mark.parametrize("way", ["env", "store"])
def test_a_gloo_group_of_four_meets_on_our_server(way, torch_forks):
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) as host:
        members = [(way, rank, WORLD_SIZE, host.port) for rank in range(WORLD_SIZE)]
        ends = torch_forks.run(MEMBER, members, PATIENCE_S)
    assert [end.code for end in ends] == [0] * WORLD_SIZE, [end.errors for end in ends]
    reports = [json.loads(end.output) for end in ends]
    assert [report["total"] for report in reports] == [10.0] * WORLD_SIZE
    assert [report["pair"] for report in reports] == [30.0, 30.0, 30.0, 40.0]
    assert all(report["gathered"] == [f"rank {rank}" for rank in range(WORLD_SIZE)] for report in reports)
