from __future__ import annotations

import os

import pytest
from tests.support.raw_server import running_loop

from rallypoint.errors import ConnectionLostError, ForkedStoreError, StoreTimeoutError
from rallypoint.store import calls
from rallypoint.store.calls import PythonClient
from rallypoint.store.connection import connect
from rallypoint.store.connections import Connections
from rallypoint.types import Endpoint

LONG_S = 60.0


class Shop:
    """Somebody with a timeout."""

    _timeout_s = 0.0


@pytest.fixture
def client():
    with running_loop() as running:
        server = Endpoint(*running.address)
        made = PythonClient(Connections(server, connect(server, LONG_S)))
        yield made
        made.close("the test is over")


def test_the_patience_is_seconds_or_somebody_who_has_them(client):
    client.set("k", "v", LONG_S)
    assert client.get("k", LONG_S) == b"v"
    with pytest.raises(StoreTimeoutError, match=r"^wait timeout after 0ms, keys: /absent"):
        client.get("absent", Shop())


def test_the_ends_of_the_main_connection_are_known_until_it_is_closed(client):
    fd, local, peer = client.ends()
    assert fd >= 0
    assert local.host == peer.host == "127.0.0.1"
    client.close("it is late")
    assert client.ends() is None
    with pytest.raises(ConnectionLostError, match=r"^it is late$"):
        client.get("k", LONG_S)


def test_after_a_fork_nothing_is_sent(client, monkeypatch):
    monkeypatch.setattr(calls, "_forks", [calls._forks[0] + 1])
    for call in (lambda: client.get("k", LONG_S), lambda: client.set("k", "v", LONG_S)):
        with pytest.raises(ForkedStoreError, match=f"^this store belongs to process {os.getpid()}, process "):
            call()
