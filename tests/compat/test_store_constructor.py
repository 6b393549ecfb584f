"""Making stores: who waits for whom, ports, and the errors of a start that goes wrong, beside torch's."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from tests.support.client_twins import each_client  # noqa: F401 - a fixture
from tests.support.torch_peers import TORCHS_CLIENT, meet, torch_dist, torch_server

from rallypoint.errors import DistNetworkError, DistStoreError
from rallypoint.store.tcp import TCPStore

pytestmark = pytest.mark.usefixtures("each_client")

HOST = "127.0.0.1"
JOIN_S = 60


@pytest.mark.parametrize("others", ["torch", "ours"])
def test_our_server_waits_for_workers_of_either_kind(others):
    def join(rank, port):
        if others == "torch":
            torch_dist.TCPStore(HOST, port, 3, is_master=False).set(f"from {rank}", "here")
        else:
            with TCPStore(HOST, port, 3, is_master=False) as store:
                store.set(f"from {rank}", "here")
                assert store.num_keys() >= 1

    listener = socket.create_server((HOST, 0))
    port = listener.getsockname()[1]
    with ThreadPoolExecutor(2) as pool:
        joins = [pool.submit(join, rank, port) for rank in (1, 2)]
        with TCPStore(HOST, port, 3, is_master=True, timeout=JOIN_S, master_listen_fd=listener.detach()) as store:
            for future in joins:
                future.result(JOIN_S)
            assert store.multi_get(["from 1", "from 2"]) == [b"here", b"here"]
            assert store.num_keys() == 3
            assert sorted(store.list_keys()) == ["from 1", "from 2"]


def test_our_workers_join_torchs_server():
    listener = socket.create_server((HOST, 0))
    port = listener.getsockname()[1]

    def join():
        with TCPStore(HOST, port, 3) as store:
            return store.get("from torch")

    with ThreadPoolExecutor(2) as pool:
        joins = [pool.submit(join) for _ in range(2)]
        store = torch_dist.TCPStore(
            HOST, port, 3, True, timeout=timedelta(seconds=JOIN_S), master_listen_fd=listener.detach()
        )
        store.set("from torch", "hello")
        assert [future.result(JOIN_S) for future in joins] == [b"hello", b"hello"]


def test_our_second_server_on_torchs_port_fails_at_once_naming_the_port():
    server = torch_server()
    with pytest.raises(
        DistNetworkError, match=f"^The server socket has failed to listen on any local network address.*{server.port}"
    ):
        TCPStore(HOST, server.port, is_master=True, wait_for_workers=False)


def test_torchs_second_server_on_our_port_fails_with_the_words_that_ours_begins_with():
    with TCPStore(HOST, 0, is_master=True, wait_for_workers=False) as server:
        with pytest.raises(torch_dist.DistNetworkError) as theirs:
            torch_dist.TCPStore(HOST, server.port, is_master=True, wait_for_workers=False)
        with pytest.raises(DistNetworkError) as ours:
            TCPStore(HOST, server.port, is_master=True, wait_for_workers=False)
    assert str(ours.value).startswith(str(theirs.value))


def test_torchs_agent_store_rule_holds_in_both_directions(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    with TCPStore(HOST, 0, is_master=True, wait_for_workers=False) as server:
        monkeypatch.setenv("MASTER_PORT", str(server.port))
        guest = torch_dist.TCPStore(HOST, server.port, 1, is_master=True)
        guest.set("from", "torch")
        assert server.get("from") == b"torch"
    theirs = torch_server()
    monkeypatch.setenv("MASTER_PORT", str(theirs.port))
    with TCPStore(HOST, theirs.port, 1, is_master=True) as store:
        assert store.port == theirs.port
        assert "server=<nullptr>" in repr(store)
        store.set("from", "ours")
        assert theirs.get("from") == b"ours"


@pytest.mark.parametrize("kind", ["torch", "ours"])
def test_a_world_of_no_size_is_refused_in_the_same_words(kind):
    make = torch_dist.TCPStore if kind == "torch" else TCPStore
    with pytest.raises(ValueError, match="TCPStore world size cannot be 0"):
        make(HOST, 0, 0, is_master=True)


@pytest.mark.parametrize("kind", ["torch", "ours"])
def test_a_listen_fd_on_another_port_is_refused_in_the_same_words(kind):
    make = torch_dist.TCPStore if kind == "torch" else TCPStore
    family = torch_dist.DistStoreError if kind == "torch" else DistStoreError
    with socket.create_server((HOST, 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        wrong = port - 1
        with pytest.raises(
            family, match=f"^listen fd {fd} is bound to port {port}, expected to be bound to port {wrong}"
        ):
            make(HOST, wrong, is_master=True, wait_for_workers=False, master_listen_fd=fd)


def test_the_type_of_is_master_is_as_strict_as_torchs():
    for make in (torch_dist.TCPStore, TCPStore):
        with pytest.raises(TypeError):
            make(HOST, 0, is_master=1)


def test_each_sides_stores_refuse_to_be_pickled():
    import copy
    import pickle

    with meet(TORCHS_CLIENT, "our server") as meeting:
        for store in (meeting.connect(), meeting.connect_other()):
            for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
                with pytest.raises(TypeError, match="TCPStore"):
                    attempt(store)
