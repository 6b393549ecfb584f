from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

import pytest

from rallypoint.errors import BindError, DistNetworkError
from rallypoint.net import address
from rallypoint.net.address import (
    adopt_listener,
    close_listener,
    format_endpoint,
    is_loopback,
    listen,
    listen_exactly,
    listen_unix,
    local_endpoint,
    parse_endpoint,
)
from rallypoint.types import Endpoint


@pytest.fixture
def opened():
    sockets = []
    yield sockets
    for sock in sockets:
        close_listener(sock)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("node0:29500", Endpoint("node0", 29500)),
        ("127.0.0.1:0", Endpoint("127.0.0.1", 0)),
        ("[::1]:65535", Endpoint("::1", 65535)),
        ("unix:/run/a.sock", Endpoint("unix:/run/a.sock", 0)),
    ],
)
def test_endpoints_are_read_and_written_alike(text, endpoint):
    assert parse_endpoint(text) == endpoint
    assert format_endpoint(endpoint) == text


def test_a_missing_port_takes_the_default():
    assert parse_endpoint("node0", 29500) == Endpoint("node0", 29500)
    assert parse_endpoint("[fe80::1]", 29500) == Endpoint("fe80::1", 29500)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("node0", "has no port"),
        (":29500", "names no host"),
        ("::1:29500", "in brackets"),
        ("[::1", "in brackets"),
        ("[::1]29500", "in brackets"),
        ("node0:65536", "0 to 65535"),
        ("node0:-1", "0 to 65535"),
        ("node0:٣", "0 to 65535"),
        ("node0:", "0 to 65535"),
        ("unix:", "no path"),
    ],
)
def test_a_wrong_endpoint_is_an_error_that_says_what_would_be_right(text, hint):
    with pytest.raises(ValueError, match=hint):
        parse_endpoint(text)


def test_only_literal_loopback_counts_as_loopback():
    assert all(map(is_loopback, ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.9.9.9", "::1"]))
    assert not any(map(is_loopback, ["", "0.0.0.0", "::", "node0", "128.0.0.1", "localhost.example", "::2"]))


def test_localhost_listens_on_both_loopback_addresses_with_one_port(opened):
    opened += listen("localhost", 0)
    names = [listener.getsockname()[:2] for listener in opened]
    assert names[0][0] == "127.0.0.1"
    assert {host for host, _ in names} <= {"127.0.0.1", "::1"}
    assert len({port for _, port in names}) == 1
    assert names[0][1] > 0


def test_a_loopback_address_listens_on_itself_only(opened):
    opened += listen("127.0.0.7", 0)
    assert [listener.getsockname()[0] for listener in opened] == ["127.0.0.7"]
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", opened[0].getsockname()[1])) == errno.ECONNREFUSED


def test_any_other_host_listens_everywhere_for_both_families(opened):
    opened += listen("a-name-that-is-translated-on-its-way", 0)
    assert opened[0].getsockname()[0] in ("::", "0.0.0.0")
    with socket.create_connection(("127.0.0.1", opened[0].getsockname()[1]), 30):
        pass


def test_without_ipv6_every_ipv4_interface_is_listened_on(opened, monkeypatch):
    real = address._listen_one

    def without_ipv6(where, port, backlog):
        if where.family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "no")
        return real(where, port, backlog)

    monkeypatch.setattr(address, "_listen_one", without_ipv6)
    opened += listen("node0", 0)
    assert opened[0].getsockname()[0] == "0.0.0.0"
    opened += listen("localhost", 0)
    assert opened[1].getsockname()[0] == "127.0.0.1"
    assert len(opened) == 2


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "node0"])
def test_a_port_in_use_is_an_error_in_torchs_words(opened, host):
    opened += listen(host, 0)
    port = opened[0].getsockname()[1]
    with pytest.raises(BindError) as caught:
        listen(host, port)
    assert str(caught.value).startswith(
        f"The server socket has failed to listen on any local network address. port: {port}, useIpv6: false, "
        "code: -98, name: EADDRINUSE, message: address already in use"
        if errno.EADDRINUSE == 98
        else f"The server socket has failed to listen on any local network address. port: {port}, "
    )
    assert caught.value.errno == errno.EADDRINUSE
    assert caught.value.endpoint == Endpoint(host, port)
    assert isinstance(caught.value.__cause__, OSError)


def test_a_port_taken_on_one_of_two_addresses_is_tried_anew_when_the_kernel_chose_it(opened, monkeypatch):
    real = address._listen_one
    clashes = iter([True, False])

    def clash_once(where, port, backlog):
        if where.family == socket.AF_INET6 and next(clashes):
            raise OSError(errno.EADDRINUSE, "in use")
        return real(where, port, backlog)

    monkeypatch.setattr(address, "_listen_one", clash_once)
    opened += listen("localhost", 0)
    assert len(opened) == 2


def test_a_port_taken_on_one_of_two_addresses_is_an_error_when_it_was_asked_for(opened):
    opened += listen("::1", 0)
    with pytest.raises(BindError, match="useIpv6: true"):
        listen("localhost", opened[0].getsockname()[1])


def test_listeners_are_not_inherited_by_programs(opened):
    opened += listen("127.0.0.1", 0)
    assert not opened[0].get_inheritable()


def test_exact_listening_binds_each_address_once_with_one_port(opened):
    opened += listen_exactly(["127.0.0.1", "localhost", "127.0.0.2"], 0)
    names = [listener.getsockname()[:2] for listener in opened]
    assert [host for host, _ in names if host != "::1"] == ["127.0.0.1", "127.0.0.2"]
    assert len({port for _, port in names}) == 1


def test_exact_listening_refuses_an_address_that_is_not_here():
    with pytest.raises(BindError, match=r"EADDRNOTAVAIL.*192\.0\.2\.1"):
        listen_exactly(["127.0.0.1", "192.0.2.1"], 0)


def test_exact_listening_takes_socket_files_and_leaves_nothing_after_an_error(opened, tmp_path):
    first = tmp_path / "a.sock"
    opened += listen_exactly([f"unix:{first}"], 0)
    assert local_endpoint(opened[0]) == Endpoint(f"unix:{first}", 0)
    second = tmp_path / "b.sock"
    with pytest.raises(BindError, match=str(first)):
        listen_exactly([f"unix:{second}", f"unix:{first}"], 0)
    assert not second.exists()


def test_a_closed_socket_file_is_gone(tmp_path):
    path = tmp_path / "a.sock"
    close_listener(listen_unix(str(path)))
    assert not path.exists()


def test_closing_a_listener_twice_is_harmless(tmp_path):
    listener = listen_unix(str(tmp_path / "a.sock"))
    close_listener(listener)
    close_listener(listener)


def test_a_path_that_is_too_long_is_an_error_that_names_it(tmp_path):
    with pytest.raises(BindError, match=r"xxx.*too long"):
        listen_unix(str(tmp_path / ("x" * 200)))


def test_a_bound_socket_is_adopted_listening_or_not(opened):
    for listens in (True, False):
        theirs = socket.socket()
        theirs.bind(("127.0.0.1", 0))
        if listens:
            theirs.listen()
        port = theirs.getsockname()[1]
        os.set_inheritable(theirs.fileno(), True)
        ours = adopt_listener(theirs.detach(), port)
        opened.append(ours)
        assert not ours.get_inheritable()
        with socket.create_connection(("127.0.0.1", port), 30):
            pass


def test_an_adopted_socket_on_another_port_is_refused_and_stays_the_callers():
    with socket.socket() as theirs:
        theirs.bind(("127.0.0.1", 0))
        port = theirs.getsockname()[1]
        with pytest.raises(DistNetworkError) as caught:
            adopt_listener(theirs.fileno(), 1)
        fd = theirs.fileno()
        assert str(caught.value) == f"listen fd {fd} is bound to port {port}, expected to be bound to port 1"
        assert theirs.getsockname()[1] == port


def test_a_descriptor_that_is_not_open_or_no_stream_socket_is_refused():
    with pytest.raises(DistNetworkError, match=r"Failed to open existing socket\. socket: 999999, .*EBADF"):
        adopt_listener(999999)
    with pytest.raises(DistNetworkError, match="name: ENOTSOCK"), Path(os.devnull).open() as file:
        adopt_listener(file.fileno())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        with pytest.raises(DistNetworkError, match="Failed to listen"):
            adopt_listener(datagrams.fileno())
