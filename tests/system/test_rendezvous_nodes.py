"""Nodes of a run as real processes over one store, killed with SIGKILL and stopped with SIGSTOP."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.support.rendezvous_node import NodeOptions, NodeProcess

from rallypoint.store.tcp import TCPStore

Start = Callable[..., NodeProcess]


@pytest.fixture(params=["tcp", "file", "coordinated"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts nodes over one store; ends whatever is left of them."""
    with ExitStack() as stack:
        if request.param != "file":
            server = stack.enter_context(TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False))
            where = f"{request.param}:{server.port}"
        else:
            where = f"file:{tmp_path / 'rendezvous'}"

        def start_node(name: str, least: int, most: int, **options: Any) -> NodeProcess:
            return stack.enter_context(NodeProcess(NodeOptions(name, where, least, most, **options)))

        yield start_node


def expect_round(*nodes: NodeProcess) -> list[dict[str, Any]]:
    """Let every node say its round; all must say the same, and find nothing old in it."""
    return in_one_round([node.expect("round") for node in nodes], len(nodes))


def expect_all(*nodes: NodeProcess) -> list[dict[str, Any]]:
    """As ``expect_round``, for nodes that come one by one: who comes after the last call begins another round."""
    rounds = []
    for node in nodes:
        said = node.expect("round")
        while said["world"] < len(nodes):
            node.expect("over")
            said = node.expect("round")
        rounds.append(said)
    return in_one_round(rounds, len(nodes))


def in_one_round(rounds: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Make sure that so many nodes have said the same."""
    assert {said["world"] for said in rounds} == {count}
    assert sorted(said["rank"] for said in rounds) == list(range(count))
    assert len({(said["round"], *said["master"]) for said in rounds}) == 1
    assert not any(said["old_keys"] or said["old_agent_key"] for said in rounds)
    return rounds


def test_a_third_node_joins_a_running_job(start: Start) -> None:
    first, second = start("node1", 2, 3, last_call_s=2.0), start("node2", 2, 3, last_call_s=2.0)
    before = expect_round(first, second)
    third = start("node3", 2, 3, last_call_s=2.0)
    assert "node3#" in first.expect("over")["why"]
    assert "there is room for it" in second.expect("over")["why"]
    after = expect_round(first, second, third)
    assert after[0]["round"] == 1
    assert after[0]["master"] != before[0]["master"]
    assert [said["rank"] for said in after] == [0, 1, 2]


def test_a_killed_node_is_replaced(start: Start) -> None:
    first, second = start("node1", 2, 2), start("node2", 2, 2)
    expect_round(first, second)
    second.kill()
    assert "node2#" in first.expect("over")["why"]
    third = start("node3", 2, 2)
    assert [said["rank"] for said in expect_round(first, third)] == [0, 1]


def test_the_survivors_of_rank_0_agree_on_the_next(start: Start) -> None:
    nodes = [start(f"node{number}", 2, 3) for number in range(3)]
    before = expect_all(*nodes)
    first = next(number for number in range(3) if before[number]["rank"] == 0)  # who came late to a first round is not
    assert before[0]["master"][0] == f"node{first}"
    survivors = [node for number, node in enumerate(nodes) if number != first]
    nodes[first].kill()
    for node in survivors:
        assert f"node{first}#" in node.expect("over")["why"]
    after = expect_round(*survivors)
    assert after[0]["master"][0] in {f"node{number}" for number in range(3) if number != first}


def test_a_restart_reads_nothing_of_the_round_before(start: Start) -> None:
    first, second = start("node1", 2, 2), start("node2", 2, 2)
    masters = [expect_round(first, second)[0]["master"]]
    for _ in range(3):
        second.order("fail")
        for node in (first, second):
            assert node.expect("over")["why"].endswith("exit code 7: told to fail")
        masters.append(expect_round(first, second)[0]["master"])
    assert len({tuple(master) for master in masters}) == 4


def test_clocks_that_differ_by_an_hour_make_one_world(start: Start) -> None:
    first, second = start("node1", 2, 2, skew_s=3600.0), start("node2", 2, 2, skew_s=-3600.0)
    expect_round(first, second)
    first.says_nothing_for(3.5)  # longer than the time after which a silent node is gone
    second.order("fail")
    first.expect("over")
    second.expect("over")
    expect_round(first, second)


def test_a_node_that_was_stopped_hears_that_it_was_dropped_and_comes_back(start: Start) -> None:
    first, second = start("node1", 1, 2), start("node2", 1, 2)
    expect_all(first, second)
    first.send(signal.SIGSTOP)
    assert "node1#" in second.expect("over")["why"]
    expect_round(second)
    first.send(signal.SIGCONT)
    assert first.expect("fenced", "cut_off")["why"]  # whichever it finds out first, by itself or from the others
    second.expect("over")
    expect_all(first, second)


def test_a_spare_takes_over_and_ends_well(start: Start) -> None:
    first, second = start("node1", 2, 2), start("node2", 2, 2)
    expect_round(first, second)
    spares = [start(name, 2, 2, tells_spare=True) for name in ("node3", "node4")]
    for spare in spares:
        spare.expect("standing by")
    spares[0].says_nothing_for(0.5)
    second.kill()
    first.expect("over")
    said = first.expect("round")
    assert (said["world"], said["round"]) == (2, 1)
    while not any(spare.has_said_something() for spare in spares):
        first.says_nothing_for(0.05)
    got_in, left_out = sorted(spares, key=NodeProcess.has_said_something, reverse=True)
    assert got_in.expect("round")["round"] == 1
    for node in (first, got_in):
        node.order("succeed")
    for node in (first, got_in):
        assert node.expect("closed")["outcome"] == "succeeded"
    assert left_out.expect("stopped")["error"] == "RendezvousGracefulExitError"
    assert left_out.wait() == 0


def test_a_node_that_leaves_is_news_at_once(start: Start) -> None:
    first, second = start("node1", 1, 2, interval_s=20.0), start("node2", 1, 2, interval_s=20.0)
    expect_all(first, second)
    second.order("leave")
    second.expect("left")
    assert first.expect("over")["why"].endswith("left: told to leave")
    expect_round(first)


def test_the_run_ends_for_all_when_all_have_succeeded(start: Start) -> None:
    nodes = [start(f"node{number}", 3, 3) for number in range(3)]
    expect_round(*nodes)
    for node in nodes:
        node.order("succeed")
    for node in nodes:
        assert node.expect("closed")["outcome"] == "succeeded"
        assert node.wait() == 0


def test_a_run_that_is_closed_ends_for_all_and_for_who_comes_later(start: Start) -> None:
    nodes = [start(f"node{number}", 1, 2) for number in range(2)]
    expect_all(*nodes)
    nodes[0].order("close")
    for node in nodes:
        assert node.expect("closed")["outcome"] == "closed"
        assert node.wait() == 0
    assert start("late", 1, 2).expect("stopped")["error"] == "RendezvousClosedError"
