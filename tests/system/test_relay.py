"""Relays as processes: over servers that are killed, with tokens, and without a server."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, RawClient, use_twin
from tests.support.relayed import outlive_kills, plain, started

from rallypoint.errors import DistNetworkError
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import Verb

KILLS = 5


@pytest.fixture(autouse=True, params=LOOP_TWINS)
def each_twin(request, monkeypatch):
    """Let servers and relays be of each twin."""
    use_twin(request.param, monkeypatch)


def test_plain_clients_do_not_notice_that_a_durable_server_is_killed(tmp_path):
    outlive_kills(str(tmp_path / "data"), KILLS, lambda upstream: ("relay", upstream))


def test_a_relay_with_the_token_lets_plain_clients_use_a_server_that_wants_it(monkeypatch):
    monkeypatch.setenv("RALLYPOINT_TOKEN", "a token of more than sixteen bytes".replace(" ", "-"))
    with started("serve") as (_, server_port), started("relay", f"127.0.0.1:{server_port}") as (_, port):
        with plain(port) as store:
            store.set("k", "v")
            assert store.get("k") == b"v"
        monkeypatch.delenv("RALLYPOINT_TOKEN")
        with pytest.raises(DistNetworkError):
            plain(server_port, timeout_s=0.5)


def test_a_relay_without_the_token_says_why_and_closes_its_clients(monkeypatch):
    monkeypatch.setenv("RALLYPOINT_TOKEN", "a-token-of-more-than-sixteen-bytes")
    with started("serve") as (_, server_port):
        monkeypatch.setenv("RALLYPOINT_TOKEN", "another-token-of-more-than-sixteen-bytes")
        with started("relay", f"127.0.0.1:{server_port}", "--patience-s", "0.5") as (_, port):
            client = RawClient(("127.0.0.1", port))
            assert client.read_end() == b""
            client.close()


def test_clients_are_closed_when_the_server_is_gone_for_too_long():
    with (
        started("serve") as (server, server_port),
        started("relay", f"127.0.0.1:{server_port}", "--patience-s", "0.5") as (_, port),
    ):
        client = RawClient(("127.0.0.1", port))
        assert client.ping()
        server.kill()
        assert client.read_end() == b""
        client.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("command", ["relay", "gateway"])
def test_a_peer_that_asks_for_much_and_does_not_read_costs_little_more_than_one_reply(command):
    size, asked = 1 << 20, 250
    with started("serve") as (_, server_port):
        upstream = f"127.0.0.1:{server_port}"
        arguments = [upstream] if command == "relay" else ["--store", f"tcp://{upstream}"]
        with started(command, *arguments) as (process, port), plain(port) as other:
            other.set("k", b"x" * size)
            assert len(other.get("k")) == size
            before = peak_size(process.pid)
            client = RawClient(("127.0.0.1", port))
            client.send(encode_request(Verb.GET, b"/k") * asked)
            for _ in range(asked):  # the server has answered the other peer's requests by then
                assert len(other.get("k")) == size
            assert peak_size(process.pid) - before < 32 << 20
            for _ in range(asked):
                assert client.read(8 + size)[8:] == b"x" * size
            client.close()


def peak_size(pid):
    """Give the most bytes of memory that a process has had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


def test_a_relay_ends_with_a_signal():
    with started("serve") as (_, server_port), started("relay", f"127.0.0.1:{server_port}") as (relay, port):
        client = RawClient(("127.0.0.1", port))
        assert client.ping()
        relay.terminate()
        assert relay.wait(PATIENCE_S) == 0
        assert client.read_end() == b""
        client.close()
