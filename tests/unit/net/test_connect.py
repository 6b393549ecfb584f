from __future__ import annotations

import errno
import socket

import pytest

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectTimeoutError, DistNetworkError
from rallypoint.net import connect as module
from rallypoint.net.address import close_listener, listen, listen_unix, local_endpoint
from rallypoint.net.connect import connect
from rallypoint.net.resolve import Resolved
from rallypoint.types import Endpoint

PATIENCE = 30.0
SOMEWHERE = Endpoint("node0", 29500)


def soon():
    return Deadline(PATIENCE)


def test_socket_files_can_be_connected_to(tmp_path):
    listener = listen_unix(str(tmp_path / "a.sock"))
    stream = connect(local_endpoint(listener), soon())
    peer, _ = listener.accept()
    with peer:
        stream.send(b"hello", soon())
        assert peer.recv(5) == b"hello"
        assert stream.peer == local_endpoint(listener)
    stream.close()
    close_listener(listener)


def test_a_refused_connection_says_so_and_names_the_endpoint():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        where = Endpoint(*unused.getsockname())
        with pytest.raises(DistNetworkError, match=f"no connection to {where}: connection refused") as caught:
            connect(where, soon())
    assert not isinstance(caught.value, ConnectTimeoutError)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


def test_the_next_address_of_a_name_is_tried_when_one_refuses(monkeypatch):
    (listener,) = listen("127.0.0.1", 0)
    port = listener.getsockname()[1]
    addresses = [Resolved(socket.AF_INET, (host, port)) for host in ("127.0.0.2", "127.0.0.1")]
    monkeypatch.setattr(module, "resolve", lambda *_: addresses)
    with listener:
        stream = connect(Endpoint("node0", port), soon())
        assert stream.peer == Endpoint("127.0.0.1", port)
        stream.close()


@pytest.fixture
def silent_address():
    """An address that answers no newcomer: a listener with a full backlog."""
    (listener,) = listen("127.0.0.1", 0, backlog=0)
    crowd = []
    for _ in range(8):
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex(listener.getsockname())
        crowd.append(sock)
    yield listener.getsockname()
    for sock in (listener, *crowd):
        sock.close()


def test_the_next_address_of_a_name_is_tried_when_one_stays_silent(monkeypatch, silent_address):
    (listener,) = listen("127.0.0.1", 0)
    addresses = [Resolved(socket.AF_INET, where) for where in (silent_address, listener.getsockname())]
    monkeypatch.setattr(module, "resolve", lambda *_: addresses)
    with listener:
        stream = connect(SOMEWHERE, soon())
        assert stream.peer == local_endpoint(listener)
        stream.close()


def test_nobody_answering_ends_at_the_deadline(silent_address):
    with pytest.raises(ConnectTimeoutError) as caught:
        connect(Endpoint(*silent_address), Deadline(0.3))
    assert caught.value.waited_s >= 0.3
    assert caught.value.endpoint == Endpoint(*silent_address)


def test_a_name_without_addresses_is_an_error():
    with pytest.raises(DistNetworkError, match="cannot be resolved"):
        connect(Endpoint("x" * 300, 1), soon())


def test_a_connection_to_oneself_is_none():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.connect(sock.getsockname())
        outcome = module._finish(sock, SOMEWHERE)
    assert isinstance(outcome, OSError)
    assert outcome.errno == errno.ECONNREFUSED
