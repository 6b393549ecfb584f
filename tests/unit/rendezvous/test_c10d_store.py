from __future__ import annotations

import socket
from typing import Any

import pytest
from tests.support.agents import observed

from rallypoint.errors import RendezvousConnectionError
from rallypoint.rendezvous.c10d_store import UNREACHABLE, open_tcp_store
from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.store.hash import HashStore
from rallypoint.store.tcp import TCPStore


def parameters(endpoint: str, max_nodes: int = 1, **options: Any) -> RendezvousParameters:
    return RendezvousParameters("c10d", endpoint, "run", 1, max_nodes, **options)


def test_whoever_does_not_say_what_it_is_hosts_or_else_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[bool] = []
    real = TCPStore

    def opened(*arguments: Any, **options: Any) -> TCPStore:
        tried.append(options["is_master"])
        return real(*arguments, **{**options, "multi_tenant": False})  # as if each were a process of its own

    monkeypatch.setattr("rallypoint.store.tcp.TCPStore", opened)
    with real("127.0.0.1", 0, is_master=True, wait_for_workers=False) as held:
        endpoint = f"localhost:{held.port}"
        for _ in range(2):
            store, _, _ = open_tcp_store(parameters(endpoint, 2))
            store.close()
    assert tried == [True, False, True, False]


def test_a_host_that_cannot_bind_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(RendezvousConnectionError, match=UNREACHABLE) as caught:
            open_tcp_store(parameters(endpoint, is_host="true"))
        assert str(taken.getsockname()[1]) in str(caught.value.__cause__)


@pytest.mark.parametrize("is_host", [True, False])
def test_a_host_name_that_does_not_exist_is_a_connection_error(is_host: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr("rallypoint.store.tcp.TCPStore", refuse)
    with pytest.raises(RendezvousConnectionError, match=UNREACHABLE):
        open_tcp_store(parameters("nobody.invalid:29400", is_host=is_host))


def test_the_port_is_29400_if_none_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[Any, ...]] = []

    class Opened(HashStore):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__()
            self.host, self.port = arguments
            opened.append((*arguments, options["is_master"], options["timeout"]))

    monkeypatch.setattr("rallypoint.store.tcp.TCPStore", Opened)
    open_tcp_store(parameters("far-away.example.org", 2, is_host=False))
    open_tcp_store(parameters("[2001:db8::1]", 2, is_host=True, read_timeout=7))
    assert opened == [("far-away.example.org", 29400, False, 60.0), ("2001:db8::1", 29400, True, 7.0)]


def test_who_hosts_for_several_nodes_because_no_endpoint_was_given_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    class Opened(HashStore):
        def __init__(self, host: str, port: int, **_: Any) -> None:
            super().__init__()
            self.host, self.port = host, port

    monkeypatch.setattr("rallypoint.store.tcp.TCPStore", Opened)
    with observed() as events:
        for endpoint, max_nodes, is_host in (("", 1, True), ("", 2, False), ("localhost", 2, True)):
            open_tcp_store(parameters(endpoint, max_nodes, is_host=is_host))
        assert not events
        open_tcp_store(parameters(" ", 2, is_host=True))
    (said,) = [event.message for event in events]
    assert said.startswith("no rendezvous endpoint was given, so localhost:29400 was taken")
    assert "--rdzv-endpoint=HOST:29400" in said


@pytest.mark.parametrize("options", [{"max_nodes": 2}, {"max_nodes": 2, "is_host": False}, {"is_host": False}])
def test_port_0_is_refused_where_nobody_could_find_it(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"'localhost:0' has port 0.*name a port, as in localhost:29400$"):
        open_tcp_store(parameters("localhost:0", **options))
