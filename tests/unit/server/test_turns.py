from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from rallypoint.server.connection import Connection
from rallypoint.server.turns import HEAVY_SLICE_S, SLICE_S, STEP_S, StepTime, Turns
from rallypoint.testing.clock import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def turns(clock: ManualClock) -> Turns:
    return Turns(clock)


@pytest.fixture
def connections() -> Iterator[list[Connection]]:
    sockets = [sock for _ in range(3) for sock in socket.socketpair()]
    yield [Connection(sock) for sock in sockets]
    for sock in sockets:
        sock.close()


def served(turns: Turns, clock: ManualClock, cost_s: float) -> list[Connection]:
    """Take one slice in which each turn costs so much."""
    given = []
    for connection in turns.take():
        given.append(connection)
        clock.advance(cost_s)
    return given


def test_the_line_is_served_in_order_and_each_stands_in_it_once(
    turns: Turns, clock: ManualClock, connections: list[Connection]
) -> None:
    for connection in connections + connections:
        turns.add(connection)
    assert len(turns) == 6
    assert served(turns, clock, 0.0) == connections
    assert not turns
    assert served(turns, clock, 0.0) == []


def test_a_slice_ends_in_time_but_serves_one_at_least(
    turns: Turns, clock: ManualClock, connections: list[Connection]
) -> None:
    for connection in connections:
        turns.add(connection)
    assert served(turns, clock, HEAVY_SLICE_S / 2) == connections[:2]
    assert served(turns, clock, HEAVY_SLICE_S * 9) == connections[2:3]
    assert len(turns) == 3


def test_light_ones_come_first_and_do_not_keep_out_the_heavy(
    turns: Turns, clock: ManualClock, connections: list[Connection]
) -> None:
    for connection in connections[2:]:
        connection.slow_steps = 1
    connections[2].is_paused = True
    for connection in connections:
        turns.add(connection)
    assert served(turns, clock, SLICE_S / 2) == [connections[3], connections[4], connections[0]]
    assert served(turns, clock, 0.0) == [connections[5], connections[1], connections[2]]


def test_one_that_is_gone_is_not_served(turns: Turns, clock: ManualClock, connections: list[Connection]) -> None:
    connections[1].slow_steps = 0
    for connection in connections[:3]:
        turns.add(connection)
    for connection in (*connections[:2], connections[5]):
        turns.discard(connection)
    assert served(turns, clock, 0.0) == [connections[2]]


def test_a_step_is_late_after_its_time_and_begins_with_its_first_request(clock: ManualClock) -> None:
    time = StepTime(clock)
    for _ in range(2):
        assert not time.is_late(1)
        clock.advance(STEP_S / 2)
        assert not time.is_late(2)
        clock.advance(STEP_S)
        assert time.is_late(3)
