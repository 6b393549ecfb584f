"""Another thread closes a store amid a step that makes a connection: wherever that is, none stays open."""

from __future__ import annotations

import contextlib
import itertools
import socket

import pytest
from tests.support.meanwhile import runs_until

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectionLostError
from rallypoint.net.stream import Stream
from rallypoint.protocol.session.auth import Welcome
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.store import connection, connections, leading, trunk, uplink
from rallypoint.store.connection import Connection
from rallypoint.store.connections import Connections
from rallypoint.store.ticket import Ticket
from rallypoint.store.trunk import Trunk
from rallypoint.store.uplink import Link
from rallypoint.types import Endpoint

ENDPOINT = Endpoint("node0", 29500)
WELCOME = Welcome(b"s" * 16, 0, b"d" * 16, b"l" * 16, 10_000, 1)
LINES = [connection, connections, leading, trunk, uplink]
LONG_S = 300.0


class Maker:
    """Makes connections, and has them all."""

    def __init__(self):
        self.streams, self.servers = [], []

    def stream(self):
        ours, theirs = socket.socketpair()
        self.streams.append(Stream(ours, ENDPOINT))
        self.servers.append(theirs)
        return self.streams[-1]

    def connection(self, *_):
        return Connection(self.stream())

    def link(self, *_):
        return Link(self.stream(), WELCOME)

    def close(self):
        for end in (*self.streams, *self.servers):
            end.close()


@pytest.fixture
def makers():
    """Give as many makers as a test wants."""
    made = []

    def make():
        made.append(Maker())
        return made[-1]

    yield make
    for maker in made:
        maker.close()


def count_lines(makers, prepare):
    """Close at each line; ``prepare`` gives the call to be disturbed, and who is to be closed."""
    for line in itertools.count():
        maker = makers()
        call, owner = prepare(maker)
        with contextlib.suppress(ConnectionLostError):
            if not runs_until(line, LINES, call, lambda owner=owner: owner.close("it is late")):
                return line
        assert {stream.fileno() for stream in maker.streams} == {-1}, f"closed before line {line}"
        maker.close()
    raise AssertionError


def test_the_main_connection_made_anew(makers):
    def prepare(maker):
        store = Connections(ENDPOINT, maker.connection(), reconnect=maker.connection)
        store.main.is_in_step = False
        return lambda: store._main_in_step(Deadline(LONG_S)), store

    assert count_lines(makers, prepare) > 8


def test_a_side_connection(makers):
    def nothing(_):
        return
        yield

    def prepare(maker):
        store = Connections(ENDPOINT, maker.connection(), reconnect=maker.connection)
        return lambda: store._run_beside(nothing, Deadline(LONG_S), Deadline(LONG_S)), store

    assert count_lines(makers, prepare) > 15


def test_the_connection_that_a_session_goes_on_over(makers):
    def prepare(maker):
        session = Trunk(ENDPOINT, maker.link(), maker.link)
        session._uplink.lose(session.link, ConnectionLostError("gone"))
        return lambda: session._reconnect(Ticket(SessionVerb.PING), LONG_S), session

    assert count_lines(makers, prepare) > 20


def test_a_handlers_own_session(makers):
    def prepare(maker):
        session = Trunk(ENDPOINT, maker.link(), maker.link)
        return lambda: session._aside(LONG_S), session

    assert count_lines(makers, prepare) > 6
