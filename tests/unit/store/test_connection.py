"""One connection alone; what several of them make together is in ``test_connections``."""

from __future__ import annotations

import pytest
from tests.support.scripted_peer import scripted_peer

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectTimeoutError, LocalProtocolError
from rallypoint.protocol import client
from rallypoint.protocol.spec import Verb
from rallypoint.store.connection import connect, ping
from rallypoint.types import Endpoint

JOIN_S = 60
LONG_S = 60.0

peer = scripted_peer


@pytest.fixture
def line(peer, pool):
    """A connection, and the server's end of it."""
    connecting = pool.submit(connect, Endpoint("127.0.0.1", peer.port), LONG_S)
    server = peer.accept()
    connection = connecting.result(JOIN_S)
    yield connection, server
    connection.close()


def test_a_post_is_acknowledged_by_the_next_answer(line, pool):
    connection, server = line
    connection.post(client.set_value(b"/k", b"v"), LONG_S)
    assert (connection.is_in_step, connection.is_acknowledged) == (True, False)
    server.expect((Verb.SET, b"/k", b"v"))
    acknowledging = pool.submit(connection.acknowledge, Deadline(LONG_S))
    server.pong()
    acknowledging.result(JOIN_S)
    assert connection.is_acknowledged
    connection.acknowledge(Deadline(LONG_S))  # it is known: nothing is asked
    connection.close()
    server.expect_end()


def test_a_post_that_cannot_be_made_sends_nothing(line):
    connection, server = line
    with pytest.raises(LocalProtocolError):
        connection.post(client.set_value(bytes(10_000), b"v"), LONG_S)
    connection.close()
    server.expect_end()


def test_a_call_is_out_of_step_until_it_has_its_answer(line, pool):
    connection, server = line
    asking = pool.submit(connection.begin, ping(), Deadline(LONG_S), [])
    server.pong()
    assert asking.result(JOIN_S) is None
    assert connection.is_in_step


def test_connecting_to_a_peer_that_accepts_and_stays_silent_ends_in_time(peer):
    with pytest.raises(ConnectTimeoutError, match=r"timed out after 100ms while trying to connect to \(127\.0\.0\.1, "):
        connect(Endpoint("127.0.0.1", peer.port), 0.1)


def test_connecting_to_a_peer_that_is_no_store_says_so(peer, pool):
    connecting = pool.submit(connect, Endpoint("127.0.0.1", peer.port), 0.1)
    peer.accept(shakes_hands=False).reply(b"HTTP")
    with pytest.raises(ConnectTimeoutError) as caught:
        connecting.result(JOIN_S)
    assert caught.value.__cause__ is not None
