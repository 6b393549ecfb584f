"""Our nodes over torch's servers, and over torch's client on ours: a node dies, another comes, workers restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from tests.support.rendezvous_node import NodeOptions, NodeProcess
from tests.support.torch_peers import OUR_CLIENT, OUR_SERVER, TORCH_LEGACY, TORCH_UV, meet

Start = Callable[[str], NodeProcess]


@pytest.fixture(
    params=[("tcp", TORCH_UV), ("legacy", TORCH_LEGACY), ("torch", OUR_SERVER), ("torch", TORCH_UV)],
    ids=["torch-server", "torch-legacy-server", "torch-client", "torch-both"],
)
def start(request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts nodes of a run of two over one store; ends whatever is left of them."""
    client, server = request.param
    with ExitStack() as stack:
        port = stack.enter_context(meet(OUR_CLIENT, server)).port
        yield lambda name: stack.enter_context(NodeProcess(NodeOptions(name, f"{client}:{port}", 2, 2)))


def expect_round(number: int, *nodes: NodeProcess) -> dict[str, Any]:
    rounds = [node.expect("round") for node in nodes]
    assert [said["rank"] for said in rounds] == [0, 1]
    assert len({tuple(said["master"]) for said in rounds}) == 1
    assert {said["round"] for said in rounds} == {number}
    assert not any(said["old_keys"] or said["old_agent_key"] for said in rounds)
    return rounds[0]


def test_nodes_restart_replace_each_other_and_succeed(start: Start) -> None:
    first, second = start("node1"), start("node2")
    expect_round(0, first, second)
    second.order("fail")
    for node in (first, second):
        assert node.expect("over")["why"].endswith("exit code 7: told to fail")
    expect_round(1, first, second)
    second.kill()
    assert "node2#" in first.expect("over")["why"]
    third = start("node3")
    expect_round(2, first, third)
    for node in (first, third):
        node.order("succeed")
    for node in (first, third):
        assert node.expect("closed")["outcome"] == "succeeded"
        assert node.wait() == 0
