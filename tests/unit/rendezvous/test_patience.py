from __future__ import annotations

import queue
import socket
from collections.abc import Iterator

import pytest

from rallypoint import events
from rallypoint.rendezvous import patience as module
from rallypoint.rendezvous.patience import said_if_slow, told_if_slow
from rallypoint.types import Endpoint

PATIENCE_S = 30.0


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[queue.SimpleQueue[events.Event]]:
    monkeypatch.setattr(module, "SLOW_S", 0.01)
    seen: queue.SimpleQueue[events.Event] = queue.SimpleQueue()
    events.subscribe(seen.put)
    yield seen
    events.unsubscribe(seen.put)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock


def test_a_store_that_is_not_there_yet_is_told_with_the_reason(
    told: queue.SimpleQueue[events.Event], listener: socket.socket
) -> None:
    endpoint = Endpoint(*listener.getsockname())  # bound and not listening: connections are refused
    with told_if_slow(endpoint, 600.0, "run"):
        event = told.get(timeout=PATIENCE_S)
    assert event.name == "rendezvous.wait"
    assert event.message.startswith(f"no store at {endpoint} yet: ")
    assert "refused" in event.message
    assert event.message.endswith("; trying for 600 s")


def test_a_peer_that_is_no_store_is_told_as_such(
    told: queue.SimpleQueue[events.Event], listener: socket.socket
) -> None:
    listener.listen()
    with told_if_slow(Endpoint(*listener.getsockname()), float("inf"), "run"):
        event = told.get(timeout=PATIENCE_S)
    assert event.message.endswith("it accepts connections, but has not answered as a store does; trying")


def test_what_is_quick_is_not_told(told: queue.SimpleQueue[events.Event], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_S", PATIENCE_S)
    with told_if_slow(Endpoint("127.0.0.1", 1), 600.0, "run") as ended:
        pass
    assert ended.is_set()
    assert told.empty()


def test_somebody_else_than_a_log_can_be_told(told: queue.SimpleQueue[events.Event], listener: socket.socket) -> None:
    endpoint = Endpoint(*listener.getsockname())
    said: queue.SimpleQueue[str] = queue.SimpleQueue()
    with said_if_slow(endpoint, 60.0, said.put):
        sentence = said.get(timeout=PATIENCE_S)
    assert sentence == f"no store at {endpoint} yet: connection refused; trying for 60 s"
    assert told.empty()
