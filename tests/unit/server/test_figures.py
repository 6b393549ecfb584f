from __future__ import annotations

import socket
import struct

import pytest
from tests.support.raw_server import LOOP_TWINS, running_loop

from rallypoint import events
from rallypoint.errors import DistStoreError
from rallypoint.observe.prometheus import METRICS
from rallypoint.protocol.spec import Verb
from rallypoint.server.figures import FiguresSource
from rallypoint.server.limits import Limits


@pytest.fixture(params=LOOP_TWINS)
def server(request):
    with running_loop(twin=request.param) as running:
        yield running


def test_figures_are_those_of_the_server_under_the_names_of_its_metrics(server):
    client = server.client()
    client.ask(Verb.SET, b"/k", b"v")
    assert client.ping()
    refused = server.client(validates=False)
    refused.send(b"\xff")
    assert refused.read_end() == b""
    figures = FiguresSource(server.loop, Limits())()
    assert set(figures) | {"rallypoint_up"} <= set(METRICS)
    assert (figures["rallypoint_connections"], figures["rallypoint_keys"]) == (1, 1)
    assert figures["rallypoint_requests_total"] == 3
    assert figures["rallypoint_refused_connections_total"] == {"bad_handshake": 1}
    assert figures["rallypoint_limit"]["connections_max"] == 100_000


@pytest.mark.parametrize("twin", LOOP_TWINS)
def test_either_twin_tells_everything(twin):
    with running_loop(twin=twin) as server:
        client = server.client()
        assert client.ping()
        client.close()
        source = FiguresSource(server.loop, Limits())
        figures = source()
        while figures["rallypoint_connections"]:
            figures = source()
        assert set(figures) | {"rallypoint_up"} == set(METRICS)
        assert figures["rallypoint_ended_connections_total"]["peer_closed"] == 1
        assert (figures["rallypoint_received_bytes_total"], figures["rallypoint_sent_bytes_total"]) == (10, 4)


def test_a_server_that_has_ended_tells_nothing():
    with running_loop() as server:
        source = FiguresSource(server.loop, Limits())
        server.stop(0.0)
        with pytest.raises(DistStoreError, match="has ended"):
            source()


@pytest.mark.parametrize("twin", LOOP_TWINS)
def test_ends_of_connections_are_counted_by_reason_and_told_while_somebody_listens(twin):
    told = []
    with running_loop(twin=twin) as running:
        source = FiguresSource(running.loop, Limits())

        def leave(client, *, is_reset=False):
            before = sum(source()["rallypoint_ended_connections_total"].values())
            assert client.ping()
            if is_reset:
                client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            while sum(source()["rallypoint_ended_connections_total"].values()) == before:
                pass

        leave(running.client())
        events.subscribe(told.append)
        try:
            leave(running.client())
            leave(running.client(), is_reset=True)
            assert running.client().ping()
            counts = source()["rallypoint_ended_connections_total"]
            running.stop(0.0)
        finally:
            events.unsubscribe(told.append)
    assert counts == {"peer_closed": 2, "connection_lost": 1, "server_stopped": 0}
    assert {event.name for event in told} == {"server.disconnected"}
    assert sorted(event.fields["reason"] for event in told) == ["CONNECTION_LOST", "PEER_CLOSED", "SERVER_STOPPED"]
    assert all(" is gone: " in event.message for event in told)
