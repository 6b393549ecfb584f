from __future__ import annotations

import pytest
from tests.support.raw_server import LOOP_TWINS, running_loop

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


def test_the_python_twin_tells_everything():
    with running_loop() as server:
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
