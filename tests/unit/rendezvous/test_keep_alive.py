from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from tests.support.rendezvous_backends import MemoryBackend

from rallypoint import events
from rallypoint.errors import RendezvousConnectionError
from rallypoint.rendezvous.change import Acknowledge, Action, Close
from rallypoint.rendezvous.decide import Enter, Rules
from rallypoint.rendezvous.keep_alive import KeepAlive
from rallypoint.rendezvous.participant import Participant
from rallypoint.rendezvous.state import Card, State, decode_state
from rallypoint.rendezvous.verdict import VerdictKind
from rallypoint.types import Endpoint

WAIT_S = 60.0


class Node:
    def __init__(self, backend: MemoryBackend, interval_s: float) -> None:
        self.backend = backend
        rules = Rules(min_nodes=1, max_nodes=1, keep_alive_interval_s=interval_s, keep_alive_max_attempt=1000)
        self.participant = Participant(backend, rules, Card(host="node1", address="node1"), "run")
        self.keep_alive = KeepAlive(self.participant, "keeper")

    def join(self) -> None:
        def complete(action: Action, _state: State) -> Action:
            is_mine = isinstance(action, Acknowledge)
            return Acknowledge(action.proposal, Endpoint("node1", 1)) if is_mine else action

        self.participant.begin_to_join()
        while not isinstance(self.participant.advance(None, complete)[0].action, Enter):
            pass

    @property
    def beat(self) -> int:
        assert self.backend.data is not None
        return decode_state(self.backend.data).nodes[self.participant.node_id].beat


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look again and again; a test that waits for what never comes ends by its time limit."""
    pause = threading.Event()
    for _ in range(int(WAIT_S / 0.01)):
        if is_so():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen")


@pytest.fixture
def node() -> Iterator[Node]:
    node = Node(MemoryBackend(), 0.05)
    yield node
    node.backend.break_with(None)
    node.keep_alive.stop(WAIT_S)


def test_beats_go_on_by_themselves(node: Node) -> None:
    node.join()
    node.keep_alive.start()
    first = node.beat
    wait_until(lambda: node.beat >= first + 3)


def test_beats_go_on_while_the_node_is_joining(node: Node) -> None:
    node.join()
    node.participant.begin_to_join()
    node.keep_alive.start()
    first = node.beat
    wait_until(lambda: node.beat >= first + 3)


def test_news_come_by_themselves(node: Node) -> None:
    node.join()
    node.keep_alive.start()
    other = Node(node.backend, 0.05).participant
    other.make(Close("closed", "told to"), 5)
    assert node.participant.wait_for_news(WAIT_S).kind is VerdictKind.CLOSED


@pytest.mark.parametrize("fault", [RendezvousConnectionError("gone"), EOFError("odd"), ValueError("odder")])
def test_no_error_ends_the_thread(node: Node, fault: Exception) -> None:
    told: list[events.Event] = []
    events.subscribe(told.append)
    try:
        node.join()
        node.keep_alive.start()
        node.backend.break_with(fault)
        with pytest.raises(RendezvousConnectionError):
            node.participant.wait_for_news(WAIT_S)
        node.backend.break_with(None)
        first = node.beat
        wait_until(lambda: node.beat >= first + 2)
        assert node.participant.news().kind is VerdictKind.CURRENT
        assert [event.name for event in told].count("rendezvous.trouble") == 1
    finally:
        events.unsubscribe(told.append)


def test_stopping_ends_the_thread_and_may_be_repeated(node: Node) -> None:
    node.join()
    node.keep_alive.start()
    assert "keeper" in [thread.name for thread in threading.enumerate()]
    node.keep_alive.stop(WAIT_S)
    node.keep_alive.stop(WAIT_S)
    assert "keeper" not in [thread.name for thread in threading.enumerate()]


def test_a_thread_that_waits_for_the_joining_to_end_can_be_stopped() -> None:
    node = Node(MemoryBackend(), 1000.0)
    node.participant.begin_to_join()
    node.keep_alive.start()
    wait_until(lambda: node.backend.looks > 0)
    node.keep_alive.stop(WAIT_S)
    assert "keeper" not in [thread.name for thread in threading.enumerate()]


def test_the_stopper_knows_nothing_of_the_thread(node: Node) -> None:
    node.join()
    node.keep_alive.start()
    node.keep_alive.stopper()
    wait_until(lambda: "keeper" not in [thread.name for thread in threading.enumerate()])
