from __future__ import annotations

import json
import sys
import threading
from pathlib import Path

import pytest

from rallypoint.agent.agent import Agent
from rallypoint.agent.spec import RunResult, WorkerSpec, WorkerState
from rallypoint.launch.env import worker_environment
from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.rendezvous.registry import get_rendezvous_handler
from rallypoint.store.tcp import TCPStore

REPORT = """
import json, os, pathlib, sys
names = ("RANK", "WORLD_SIZE", "ROLE_NAME", "ROLE_RANK", "ROLE_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE")
place = {name: os.environ[name] for name in names}
pathlib.Path(sys.argv[1], place["RANK"]).write_text(json.dumps(place))
"""
PATIENCE_S = 60.0


def run_nodes(folder: Path, nodes: list[tuple[str, int]]) -> list[RunResult]:
    """Run one agent for each (role, number of workers), all in this process, and give their results."""
    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    results: list[RunResult] = []

    def run(role: str, workers: int) -> None:
        handler = get_rendezvous_handler(
            RendezvousParameters(
                "c10d", f"127.0.0.1:{server.port}", "roles", len(nodes), len(nodes), "127.0.0.1", is_host="0"
            )
        )
        try:
            command = ("-c", REPORT, str(folder))
            spec = WorkerSpec(role, workers, handler, entrypoint=sys.executable, args=command, max_restarts=0)
            results.append(Agent(spec, lambda place: worker_environment({}, place)).run())
        finally:
            handler.shutdown()

    threads = [threading.Thread(target=run, args=node) for node in nodes]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
    finally:
        server.close()
    return results


@pytest.mark.parametrize(
    "nodes",
    [
        [("trainer", 2), ("trainer", 2)],
        [("trainer", 1), ("reader", 2), ("trainer", 3), ("reader", 1), ("scorer", 2)],
    ],
    ids=["equal", "mixed"],
)
def test_agents_of_any_roles_and_sizes_give_consistent_ranks(tmp_path: Path, nodes: list[tuple[str, int]]) -> None:
    results = run_nodes(tmp_path, nodes)

    assert [result.state for result in results] == [WorkerState.SUCCEEDED] * len(nodes)
    total = sum(workers for _, workers in nodes)
    places = [json.loads((tmp_path / str(rank)).read_text()) for rank in range(total)]
    assert [place["RANK"] for place in places] == [str(rank) for rank in range(total)]
    assert {place["WORLD_SIZE"] for place in places} == {str(total)}
    assert [int(place["GROUP_RANK"]) for place in places] == sorted(int(place["GROUP_RANK"]) for place in places)
    for role in {role for role, _ in nodes}:
        size = sum(workers for name, workers in nodes if name == role)
        own = [place for place in places if place["ROLE_NAME"] == role]
        assert [place["ROLE_RANK"] for place in own] == [str(rank) for rank in range(size)]
        assert {place["ROLE_WORLD_SIZE"] for place in own} == {str(size)}
