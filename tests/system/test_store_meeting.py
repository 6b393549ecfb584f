"""How servers and clients of a TCPStore find each other, or say why they do not."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta

import pytest
from tests.support.client_twins import each_client  # noqa: F401 - a fixture
from tests.support.scripted_peer import scripted_peer
from tests.support.stores import HOST, JOIN_S, first_store, make_store

from rallypoint.errors import BindError, ConnectTimeoutError, DistNetworkError, DistStoreError, WorkersMissingError
from rallypoint.store.tcp import TCPStore

pytestmark = pytest.mark.usefixtures("each_client")


make = make_store
store = first_store
peer = scripted_peer


def test_no_server_is_an_error_within_the_timeout():
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    expected = rf"^The client socket has timed out after 200ms while trying to connect to \({HOST}, {port}\)\."
    with pytest.raises(ConnectTimeoutError, match=expected) as caught:
        TCPStore(HOST, port, timeout=0.2)
    assert isinstance(caught.value, DistNetworkError)


def test_a_silent_listener_is_an_error_within_the_timeout(peer):
    with pytest.raises(DistNetworkError, match=r"^The client socket has timed out after 200ms"):
        TCPStore(HOST, peer.port, timeout=timedelta(seconds=0.2))


def test_a_timeout_of_nothing_still_finds_a_living_server(store, make):
    assert make(HOST, store.port, timeout=0).timeout == timedelta()


def test_a_client_meets_a_server_that_comes_later(pool, make):
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
    connecting = pool.submit(make, HOST, port, is_master=False)
    server = make(HOST, port, is_master=True)
    server.set("k", "v")
    assert connecting.result(JOIN_S).get("k") == b"v"


def test_a_second_server_on_the_port_is_refused_at_once(store):
    with pytest.raises(BindError, match=f"^The server socket has failed to listen .*port: {store.port}"):
        TCPStore(HOST, store.port, is_master=True, server="thread")


def test_tenants_share_data_and_each_reports_its_own_flags(make):
    first = make(multi_tenant=True)
    second = make("localhost", first.port, is_master=True, multi_tenant=True, use_libuv=False)
    first.set("k", "v")
    assert second.get("k") == b"v"
    assert (first.libuvBackend, second.libuvBackend) == (True, False)
    first.close()
    assert second.get("k") == b"v"


def test_a_server_waits_for_its_workers(make, pool):
    port = make().port  # a free one, kept until the next line
    listener = socket.create_server((HOST, 0))
    port = listener.getsockname()[1]
    joining = [pool.submit(make, HOST, port, 3) for _ in range(2)]
    server = make(HOST, port, 3, is_master=True, master_listen_fd=listener.detach())
    for future in joining:
        assert future.result(JOIN_S).port == port
    assert server.num_keys() == 1


def test_a_server_whose_workers_do_not_come_says_how_many_did(make):
    with pytest.raises(
        WorkersMissingError, match=r"^Timed out after 0\.1 seconds waiting for clients\. 1/2 clients"
    ) as caught:
        make(HOST, 0, 2, timeout=0.1)
    assert (caught.value.arrived, caught.value.expected) == (1, 2)
    assert isinstance(caught.value, DistStoreError)


def test_clients_and_servers_of_unknown_size_wait_for_nobody(make):
    server = make(HOST, 0, None, wait_for_workers=True)
    make(HOST, server.port, -1, wait_for_workers=True)
    make(HOST, server.port, 9, wait_for_workers=False)
    assert server.num_keys() == 0


def test_a_worker_does_not_wait_for_the_others(store, make):
    make(HOST, store.port, 5)
    assert store.num_keys() == 1


def test_the_launchers_store_makes_a_master_a_client(store, make, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    guest = make(HOST, store.port, is_master=True)
    guest.set("k", "v")
    assert store.get("k") == b"v"
    assert "server=<nullptr>" in repr(guest)


def test_a_failed_constructor_leaves_nothing_behind(make):
    with pytest.raises(WorkersMissingError):
        make(HOST, 0, 2, timeout=0)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rallypoint-server")]


def test_an_ipv6_server_and_its_clients(make):
    server = make("::1", 0)
    client = make("::1", server.port)
    client.set("k", "v")
    assert server.get("k") == b"v"
    assert f"remote=[::1]:{server.port}" in repr(client)


def test_a_socket_file_server_and_its_clients(make, tmp_path):
    server = make(f"unix:{tmp_path}/s", 0)
    client = make(f"unix:{tmp_path}/s", 0, is_master=False)
    client.set("k", "v")
    assert server.get("k") == b"v"
