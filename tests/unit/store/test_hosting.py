from __future__ import annotations

import errno
import os
import socket

import pytest

from rallypoint.errors import BindError, DistNetworkError, DistStoreError
from rallypoint.protocol.session.auth import Token
from rallypoint.server.security import Security
from rallypoint.store import hosting
from rallypoint.store.connection import connect
from rallypoint.store.hosting import check_arguments, host_server, is_agent_store, server_mode, server_spin_us

HOST = "127.0.0.1"


@pytest.fixture
def host():
    """Start servers, in threads unless told otherwise, and end those that the test does not."""
    servers = []

    def start(host_name=HOST, port=0, *, listen_fd=None, multi_tenant=False, mode="thread", security=None):
        server = host_server(
            host_name, port, listen_fd=listen_fd, multi_tenant=multi_tenant, mode=mode, security=security
        )
        servers.append(server)
        return server

    yield start
    for server in servers:
        while server.holders:
            server.release()


def is_served(server):
    try:
        connect(server.reachable_at, 0).close()
    except DistNetworkError:
        return False
    return True


@pytest.mark.parametrize("mode", ["thread", "process"])
def test_a_server_serves_until_it_is_released(host, mode):
    server = host(mode=mode)
    assert is_served(server)
    server.release()
    assert not is_served(server)


def test_the_kernel_chooses_a_port_where_none_is_asked_for(host):
    assert host().port not in (0, host().port)


def test_a_name_that_leads_nowhere_is_served_and_reached_all_the_same(host):
    server = host("no-such-host.invalid")
    assert server.reachable_at.host in ("::1", "127.0.0.1")
    assert is_served(server)


def test_a_loopback_name_is_reached_where_it_is_bound(host):
    assert host("127.0.0.1").reachable_at.host == "127.0.0.1"
    assert is_served(host("localhost"))


def test_a_socket_file_serves_too(host, tmp_path):
    server = host(f"unix:{tmp_path}/store")
    assert is_served(server)
    server.release()
    assert not (tmp_path / "store").exists()


def test_a_port_in_use_is_an_error_at_once_that_names_it(host):
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BindError, match=rf"^The server socket has failed to listen .* port: {port}, .*EADDRINUSE"):
            host(port=port)


def test_a_port_in_use_is_an_error_for_a_tenant_of_nobodys_server_too(host):
    lonely = host()
    with pytest.raises(BindError):
        host(port=lonely.port, multi_tenant=True)


def test_tenants_share_a_server_until_the_last_is_gone(host):
    first = host(multi_tenant=True)
    second = host("localhost", first.port, multi_tenant=True)
    assert second is first
    first.release()
    assert is_served(second)
    second.release()
    assert not is_served(second)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, first.port))


def test_a_new_server_can_follow_the_last_tenant(host):
    first = host(multi_tenant=True)
    first.release()
    second = host(port=first.port, multi_tenant=True)
    assert second is not first
    assert is_served(second)


def test_a_bound_socket_is_taken_over(host):
    bound = socket.socket()
    bound.bind((HOST, 0))
    port = bound.getsockname()[1]
    server = host(listen_fd=bound.detach())
    assert server.port == port
    assert is_served(server)


def test_a_listening_socket_is_taken_over_on_its_own_port(host):
    listener = socket.create_server((HOST, 0))
    port = listener.getsockname()[1]
    assert is_served(host(port=port, listen_fd=listener.detach()))


def test_a_bound_socket_on_another_port_is_refused_and_stays_the_callers(host):
    with socket.create_server((HOST, 0)) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        wrong = port - 1
        with pytest.raises(
            DistStoreError, match=rf"^listen fd {fd} is bound to port {port}, expected to be bound to port {wrong}$"
        ):
            host(port=wrong, listen_fd=fd)
        socket.create_connection((HOST, port)).close()


def test_what_is_no_socket_is_refused_in_torchs_words(host):
    reader, writer = os.pipe()
    os.close(writer)
    try:
        with pytest.raises(DistNetworkError, match=rf"^Failed to open existing socket\. socket: {reader}, code: -88"):
            host(listen_fd=reader)
    finally:
        os.close(reader)


@pytest.mark.parametrize("word", ["1", "True", "true"])
def test_the_launchers_store_on_the_port_excuses_a_failed_bind(monkeypatch, word):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", word)
    monkeypatch.setenv("MASTER_PORT", "29500")
    in_use = BindError("", errno=errno.EADDRINUSE)
    assert is_agent_store(29500, in_use)
    assert not is_agent_store(29501, in_use)
    assert not is_agent_store(29500, BindError("", errno=errno.EACCES))


@pytest.mark.parametrize("word", ["", "0", "False"])
def test_without_the_launcher_a_failed_bind_is_not_excused(monkeypatch, word):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", word)
    monkeypatch.setenv("MASTER_PORT", "29500")
    assert not is_agent_store(29500, BindError("", errno=errno.EADDRINUSE))


@pytest.mark.parametrize(("twin", "mode"), [(None, "process"), (hosting, "thread")])
def test_a_server_runs_where_its_twin_does_well_unless_told_otherwise(monkeypatch, twin, mode):
    monkeypatch.setattr(hosting, "native", lambda: twin)
    for word in ("", None):
        monkeypatch.delenv("RALLYPOINT_SERVER", raising=False)
        if word is not None:
            monkeypatch.setenv("RALLYPOINT_SERVER", word)
        assert server_mode(None) == mode
        assert server_mode(None, needs_python=True) == "process"
    assert server_mode("process") == "process"
    assert server_mode("thread") == "thread"
    monkeypatch.setenv("RALLYPOINT_SERVER", "thread")
    assert server_mode(None) == "thread"
    assert server_mode("process") == "process"


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_server_wants_what_it_is_told_to(host, mode):
    assert is_served(host(mode=mode))
    assert not is_served(host(mode=mode, security=Security({"": Token("the-token-of-the-job")})))


def test_unknown_server_modes_are_refused_by_their_source(monkeypatch):
    with pytest.raises(ValueError, match=r"^server must be 'process' or 'thread', not 'coroutine'$"):
        server_mode("coroutine")
    monkeypatch.setenv("RALLYPOINT_SERVER", "Thread")
    with pytest.raises(ValueError, match=r"^RALLYPOINT_SERVER must be 'process' or 'thread', not 'Thread'$"):
        server_mode(None)


def test_a_server_spins_only_if_it_is_told_how_long(monkeypatch, host):
    monkeypatch.delenv("RALLYPOINT_SPIN_US", raising=False)
    assert server_spin_us() == 0
    monkeypatch.setenv("RALLYPOINT_SPIN_US", "50")
    assert server_spin_us() == 50
    assert is_served(host())


@pytest.mark.parametrize("word", ["-1", "1001", "0.5", "many"])
def test_a_spin_that_is_no_number_or_too_long_is_refused_before_anything_listens(monkeypatch, host, word):
    monkeypatch.setenv("RALLYPOINT_SPIN_US", word)
    with pytest.raises(ValueError, match=rf"^RALLYPOINT_SPIN_US must be .* from 0 to 1000, not '{word}'$"):
        host()


def test_a_server_may_be_released_by_the_collector_while_another_is_begun(host, monkeypatch):
    dropped = host()
    start = hosting._start

    def collect_and_start(*arguments):
        dropped.release()
        return start(*arguments)

    port = dropped.port
    monkeypatch.setattr(hosting, "_start", collect_and_start)
    assert host(port=port, multi_tenant=True).port == port


@pytest.mark.parametrize(
    ("host_name", "sentence"),
    [
        ("", "TCPStore: host_name is empty: name the server's host, 'localhost' for this one"),
        ("node0:29500", r"host_name is 'node0:29500': the port is an argument of its own, TCPStore\('node0', 29500\)"),
        ("tcp://me:hidden@node0", "was given with a user or a password"),
        ("tcp://node0", "is the URL .tcp://node0.: write the host alone"),
    ],
)
def test_a_host_name_that_is_none_is_refused_at_once(host_name, sentence):
    with pytest.raises(ValueError, match=sentence):
        check_arguments(host_name, 29500, None, False)


@pytest.mark.parametrize("host_name", ["::1", "fe80::1", "node0,node1:29501", "unix:1"])
def test_other_colons_are_fine(host_name):
    check_arguments(host_name, 29500, None, False)
