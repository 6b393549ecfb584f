from __future__ import annotations

import socket

import pytest

from rallypoint.rendezvous.worker_store import WorkerStore, is_sharing_off, serve_store
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
