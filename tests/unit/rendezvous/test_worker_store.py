from __future__ import annotations

import socket

import pytest

from rallypoint.rendezvous import worker_store as module
from rallypoint.rendezvous.worker_store import (
    EmbeddedSpace,
    GatewaySpace,
    WorkerStore,
    is_sharing_off,
    known_gateway,
    serve_store,
    use_gateway,
)
from rallypoint.store.base import Store
from rallypoint.store.hash import HashStore
from rallypoint.types import Endpoint


class FakeServer:
    made: list[FakeServer]

    def __init__(self, port: int) -> None:
        self.port = port
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def make_store(address: str = "node1", is_shared: bool = True) -> tuple[WorkerStore, list[FakeServer], list[str]]:
    servers: list[FakeServer] = []
    hosts: list[str] = []

    def serve(host: str) -> FakeServer:
        hosts.append(host)
        servers.append(FakeServer(4000 + len(servers)))
        return servers[-1]

    return WorkerStore(address, is_shared, serve), servers, hosts


def test_a_proposal_gets_one_server() -> None:
    store, servers, hosts = make_store()
    assert store.open(7) == store.open(7) == Endpoint("node1", 4000)
    assert (len(servers), hosts) == (1, ["node1"])


def test_the_next_proposal_gets_a_fresh_server_and_the_old_one_ends() -> None:
    store, servers, _ = make_store()
    store.open(7)
    assert store.open(8) == Endpoint("node1", 4001)
    assert [server.is_closed for server in servers] == [True, False]


def test_closing_ends_the_server_and_may_be_repeated() -> None:
    store, servers, _ = make_store()
    store.open(7)
    store.close()
    store.close()
    assert servers[0].is_closed
    assert store.open(7) == Endpoint("node1", 4001)


def test_without_sharing_a_free_port_is_named_and_nothing_serves_there() -> None:
    store, servers, _ = make_store("localhost", is_shared=False)
    endpoint = store.open(1)
    assert servers == []
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        assert probe.connect_ex((endpoint.host, endpoint.port)) != 0
    store.close()


@pytest.mark.parametrize("host", ["localhost", "a-name-that-only-others-know.invalid"])
def test_a_real_server_takes_keys(host: str) -> None:
    from rallypoint.store.tcp import TCPStore

    served = serve_store(host)
    try:
        client = TCPStore("localhost", served.port, wait_for_workers=False, timeout=30)
        client.set("key", "value")
        assert client.get("key") == b"value"
        client.close()
    finally:
        served.close()


@pytest.mark.parametrize(("value", "is_off"), [(None, False), ("0", False), ("1", True)])
def test_torchs_variable_turns_sharing_off(monkeypatch: pytest.MonkeyPatch, value: str | None, is_off: bool) -> None:
    if value is None:
        monkeypatch.delenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", raising=False)
    else:
        monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", value)
    assert is_sharing_off() is is_off


def test_an_embedded_space_is_rank_0s_and_fresh_for_each_proposal() -> None:
    servers: list[FakeServer] = []

    def serve(host: str) -> FakeServer:
        servers.append(FakeServer(4000 + len(servers)))
        return servers[-1]

    space = EmbeddedSpace(WorkerStore("node", True, serve))
    first, second = space.open(1, 0), space.open(2, 0)
    assert first != second
    assert space.enter(0, 0, second) == second
    assert [server.is_closed for server in servers] == [True, False]
    other = Endpoint("elsewhere", 1)
    assert space.enter(0, 1, other) == other
    assert servers[1].is_closed
    space.close()


def test_a_gateway_space_is_each_nodes_own_and_one_for_each_round() -> None:
    made: list[tuple[str, FakeServer]] = []

    def make(store: Store, prefix: str) -> FakeServer:
        made.append((prefix, FakeServer(5000 + len(made))))
        return made[-1][1]

    space = GatewaySpace(HashStore(), lambda number: f"rounds/{number}", make)
    assert space.open(1, 7) == space.open(2, 7) == space.enter(7, 0, Endpoint("x", 1)) == Endpoint("127.0.0.1", 5000)
    assert space.enter(8, 1, Endpoint("x", 1)) == Endpoint("127.0.0.1", 5001)
    assert [prefix for prefix, _ in made] == ["rounds/7", "rounds/8"]
    space.close()
    space.close()
    assert all(server.is_closed for _, server in made)


def test_a_gateway_has_to_be_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_gateways", [])
    with pytest.raises(ValueError, match=r"needs rallypoint.gateway"):
        known_gateway()

    def make(store: Store, prefix: str) -> FakeServer:
        raise AssertionError

    use_gateway(make)
    assert known_gateway() is make
