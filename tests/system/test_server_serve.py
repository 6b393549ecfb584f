"""``rallypoint serve`` as people run it."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct

import pytest
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, RawClient, use_twin
from tests.support.served import served

from rallypoint.protocol.spec import Verb

BIG = 8 * 1024 * 1024


@pytest.fixture(params=LOOP_TWINS, autouse=True)
def twin(request, monkeypatch):
    return use_twin(request.param, monkeypatch)


def owe_much(client):
    """Let the server have more to send to this client than the system takes."""
    client.ask(Verb.SET, b"/big", bytes(BIG))
    client.ask(Verb.GET, b"/big")
    client.ask(Verb.GET, b"/big")
    assert client.read(8) == struct.pack("<Q", BIG)


def test_the_ready_line_names_a_server_that_serves():
    with served("--port", "0") as (process, ready):
        assert ready["pid"] == process.pid
        assert ready["host"] == "127.0.0.1"
        client = RawClient((ready["host"], ready["port"]))
        assert client.ping()
        client.close()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.2", ready["port"]), PATIENCE_S)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_the_exit_code_is_0(number):
    with served("--port", "0", "--drain-s", "60") as (process, ready):
        client = RawClient((ready["host"], ready["port"]))
        idle = RawClient((ready["host"], ready["port"]))
        owe_much(client)
        process.send_signal(number)
        assert idle.ping() or idle.read_end() == b""
        rest = client.read_end()
        assert len(rest) == BIG + 8 + BIG
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr.read() == ""
        client.close()
        idle.close()


def test_a_second_signal_ends_at_once():
    with served("--port", "0", "--drain-s", "3600") as (process, ready):
        client = RawClient((ready["host"], ready["port"]))
        owe_much(client)
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):  # reset: still in the backlog
            while True:  # until the drain has begun
                socket.create_connection((ready["host"], ready["port"]), PATIENCE_S).close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGTERM
        client.close()


def test_a_peer_that_does_not_read_delays_the_end_only_so_long():
    with served("--port", "0", "--drain-s", "0.2") as (process, ready):
        client = RawClient((ready["host"], ready["port"]))
        owe_much(client)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        client.close()


def test_a_socket_file_is_served_removed_at_the_end_and_replaced_after_a_crash(tmp_path):
    file = tmp_path / "store.sock"
    path = str(file)
    with served("--bind", f"unix:{path}") as (process, ready):
        assert ready == {"path": path, "pid": process.pid}
        client = RawClient(path)
        assert client.ping()
        client.close()
        process.kill()
        process.wait(PATIENCE_S)
    assert file.exists()
    with served("--bind", f"unix:{path}") as (process, _):
        client = RawClient(path)
        assert client.ping()
        client.close()
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    assert not file.exists()


def test_both_loopback_addresses_share_a_port():
    with served("--bind", "localhost", "--port", "0") as (_, ready):
        for host in ("127.0.0.1", "localhost"):
            client = RawClient((host, ready["port"]))
            assert client.ping()
            client.close()
