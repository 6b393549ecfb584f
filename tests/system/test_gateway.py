"""Gateways as processes: over stores that go away and come back, with peers that mean harm."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest
from tests.support.raw_server import PATIENCE_S, RawClient
from tests.support.relayed import outlive_kills, started

from rallypoint.protocol.codec import U64, encode_request
from rallypoint.protocol.spec import MAGIC, Verb
from rallypoint.store.file import FileStore

KILLS = 3


@pytest.fixture
def port(tmp_path):
    with started("gateway", "--store", f"file://{tmp_path}/store") as (process, port):
        yield port
        assert process.poll() is None


def test_clients_do_not_notice_that_a_durable_server_behind_the_gateway_is_killed(tmp_path):
    def front(upstream):
        return ("gateway", "--store", f"tcp://{upstream}", "--key-space", "job")

    outlive_kills(str(tmp_path / "data"), KILLS, front)


def test_a_store_that_is_gone_for_too_long_closes_who_asks_and_nobody_who_waits():
    with contextlib.ExitStack() as processes:
        server, server_port = processes.enter_context(started("serve"))
        url = f"tcp://127.0.0.1:{server_port}"
        _, port = processes.enter_context(started("gateway", "--store", url, "--patience-s", "1"))
        asking, waiting = RawClient(("127.0.0.1", port)), RawClient(("127.0.0.1", port))
        waiting.ask(Verb.WAIT, [b"/k"])
        assert waiting.ping()
        assert asking.ping()
        server.kill()
        asking.ask(Verb.GET, b"/k")
        assert asking.read_end() == b""
        waiting.ask(Verb.PING, 7)
        assert waiting.read(4) == struct.pack("<I", 7)
        asking.close()
        waiting.close()


def test_a_gateway_ends_with_a_signal_and_what_was_written_is_there(tmp_path):
    with started("gateway", "--store", f"file://{tmp_path}/store") as (gateway, port):
        client = RawClient(("127.0.0.1", port))
        for number in range(100):
            client.ask(Verb.APPEND, b"/k", b"%d " % number)
        gateway.terminate()
        assert gateway.wait(PATIENCE_S) == 0
        client.close()
    with FileStore(str(tmp_path / "store")) as store:
        written = store.get("k") if store.check(["k"]) else b""
    assert b"".join(b"%d " % number for number in range(100)).startswith(written)


def test_whoever_does_not_speak_the_wire_is_closed_and_others_do_not_notice(port):
    good = RawClient(("127.0.0.1", port))
    for said in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01" + b"\xff" * 500,
        encode_request(Verb.VALIDATE, MAGIC) + b"\xee",
        encode_request(Verb.VALIDATE, MAGIC) + bytes((Verb.GET,)) + U64.pack(1 << 40),
        encode_request(Verb.VALIDATE, MAGIC) + bytes((Verb.WAIT,)) + U64.pack(1 << 60),
    ):
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as peer:
            peer.sendall(said)
            with contextlib.suppress(ConnectionError):
                while peer.recv(4096):
                    pass
        assert good.ping()
    good.close()


def test_peers_that_leave_amid_requests_leave_nothing_behind(port):
    good = RawClient(("127.0.0.1", port))
    for number in range(100):
        with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as peer:
            peer.sendall(encode_request(Verb.VALIDATE, MAGIC) + encode_request(Verb.WAIT, [b"/never"]))
            peer.sendall(encode_request(Verb.SET, b"/k", b"v" * 1000)[: 10 * number])
    assert good.ping()
    good.ask(Verb.SET, b"/never", b"")
    assert good.get(b"/never") == b""
    good.close()


def test_one_who_floods_and_does_not_read_keeps_nobody_out(port):
    good = RawClient(("127.0.0.1", port))
    good.ask(Verb.SET, b"/k", b"x" * 100_000)
    assert len(good.get(b"/k")) == 100_000
    flood = encode_request(Verb.GET, b"/k") * 1000
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as peer:
        peer.sendall(encode_request(Verb.VALIDATE, MAGIC))
        peer.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            for _ in range(1000):
                peer.send(flood)
        for number in range(50):
            good.ask(Verb.ADD, b"/n", 1)
            assert good.read(8) == struct.pack("<q", number + 1)
    assert good.ping()
    good.close()
