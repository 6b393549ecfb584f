from __future__ import annotations

import contextlib
import errno
import select
import socket
import struct
from queue import SimpleQueue
from types import SimpleNamespace

import pytest
from tests.support.raw_server import running_loop
from tests.support.scripted_peer import Conversation, ScriptedPeer

from rallypoint.errors import ConnectionLostError
from rallypoint.net.address import listen
from rallypoint.net.unix import listen_locally, local_name
from rallypoint.protocol.spec import Verb
from rallypoint.server.limits import SPIN_US_MAX
from rallypoint.store import route
from rallypoint.store.connection import ping
from rallypoint.store.native import make_client
from rallypoint.store.route import connect, spin_time_us
from rallypoint.types import Endpoint

JOIN_S = 60
LONG_S = 60.0
HOST = "127.0.0.1"


@contextlib.contextmanager
def offering_server():
    """A server on a port and on the port's local name."""
    listeners = listen(HOST, 0)
    local = listen_locally(listeners[0].getsockname()[1], 100)
    assert local is not None
    with running_loop(listeners=[*listeners, local]) as running:
        yield Endpoint(*running.address)


def way_of(connection):
    with socket.socket(fileno=connection.stream.detach()) as sock:
        return sock.family, sock.getpeername()


def test_a_server_on_this_machine_is_reached_by_its_local_name():
    with offering_server() as server:
        connection = connect(server, LONG_S)
        assert connection.stream.peer == server
        assert connection.stream.local.host == HOST
        assert way_of(connection) == (socket.AF_UNIX, local_name(server.port))


def test_the_proof_leaves_nothing_behind(pool):
    with offering_server() as server:
        connection = connect(server, LONG_S)
        connection.stream.send(bytes([Verb.GETNUMKEYS, Verb.LIST_KEYS]), route.Deadline(LONG_S))
        assert connection.stream.receive_exactly(16, route.Deadline(LONG_S)) == bytes(16)
        connection.close()


def test_the_short_cut_can_be_turned_off(monkeypatch):
    with offering_server() as server:
        assert way_of(connect(server, LONG_S, is_direct=True))[0] == socket.AF_INET
        monkeypatch.setenv("RALLYPOINT_UNIX", "0")
        assert way_of(connect(server, LONG_S))[0] == socket.AF_INET


def test_where_nothing_is_offered_tcp_it_is():
    with running_loop() as running:
        assert way_of(connect(Endpoint(*running.address), LONG_S))[0] == socket.AF_INET


def test_another_store_under_the_local_name_is_not_taken():
    with running_loop() as meant:
        endpoint = Endpoint(*meant.address)
        local = listen_locally(endpoint.port, 100)
        with running_loop(listeners=[*listen(HOST, 0), local]) as other:
            connection = connect(endpoint, LONG_S)
            assert other.loop is not meant.loop
            connection.begin(ping(), route.Deadline(LONG_S), [])
            connection.stream.send(bytes([Verb.GETNUMKEYS, Verb.LIST_KEYS]), route.Deadline(LONG_S))
            assert connection.stream.receive_exactly(16, route.Deadline(LONG_S)) == bytes(16)
            assert way_of(connection)[0] == socket.AF_INET


def test_a_stranger_under_the_local_name_is_asked_nothing(monkeypatch):
    monkeypatch.setattr(route.os, "geteuid", lambda: 12345)
    monkeypatch.setattr(route, "ROOT", 12346)
    with offering_server() as server:
        assert way_of(connect(server, LONG_S))[0] == socket.AF_INET


def test_one_that_stays_silent_under_the_local_name_costs_a_moment_only(monkeypatch):
    monkeypatch.setattr(route, "PROOF_S_MAX", 0.05)
    with running_loop() as running:
        endpoint = Endpoint(*running.address)
        with listen_locally(endpoint.port, 100):
            assert way_of(connect(endpoint, LONG_S))[0] == socket.AF_INET


def test_without_a_descriptor_for_the_short_cut_tcp_it_is(monkeypatch):
    def make(family, kind):
        assert family == socket.AF_UNIX
        raise OSError(errno.EMFILE, "Too many open files")

    with offering_server() as server:
        monkeypatch.setattr(route, "socket", SimpleNamespace(**vars(socket) | {"socket": make}))
        connection = connect(server, LONG_S)
        monkeypatch.undo()
        assert way_of(connection)[0] == socket.AF_INET


def test_a_server_that_resets_the_connection_at_once_is_lost_at_the_first_call(pool, monkeypatch):
    def connect_and_be_reset(*arguments, **options):
        connection = connect_directly(*arguments, **options)
        conversation = accepted.get(timeout=JOIN_S)
        conversation.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        conversation.close()
        select.select([connection.stream.fileno()], [], [])
        return connection

    accepted, connect_directly = SimpleQueue(), route.connect_directly
    with ScriptedPeer() as peer:
        monkeypatch.setattr(route, "connect_directly", connect_and_be_reset)
        connecting = pool.submit(make_client, Endpoint(HOST, peer.port), LONG_S)
        accepted.put(peer.accept())
        client = connecting.result(JOIN_S)
        with pytest.raises(ConnectionLostError):
            client.num_keys(LONG_S)
        client.close("the test is over")


def test_a_server_that_closes_on_being_asked_is_connected_to_again(pool):
    with ScriptedPeer() as peer, listen_locally(peer.port, 100) as local:
        connecting = pool.submit(connect, Endpoint(HOST, peer.port), LONG_S)
        first = peer.accept()
        shorter = Conversation(local.accept()[0])
        shorter.shake_hands()
        first.close()
        second = peer.accept()
        assert way_of(connecting.result(JOIN_S))[0] == socket.AF_INET
        second.expect_end()
        shorter.close()


def test_an_item_that_comes_out_changed_is_no_proof(pool):
    with ScriptedPeer() as peer, listen_locally(peer.port, 100) as local:
        connecting = pool.submit(connect, Endpoint(HOST, peer.port), LONG_S)
        direct = peer.accept()
        other = Conversation(local.accept()[0])
        other.shake_hands()
        push = direct.sock.recv(1 << 16)
        while len(push) < 1 + 8 + 49 + 8 + 16 + 5:
            push += direct.sock.recv(1 << 16)
        direct.reply(push[-4:])
        other.sock.recv(1 << 16)
        other.reply(struct.pack("<qQ", 1, 16) + bytes(16))
        direct.sock.recv(1 << 16)
        direct.reply(struct.pack("<qQ", 1, 16) + push[-21:-5])
        assert way_of(connecting.result(JOIN_S))[0] == socket.AF_INET
        other.expect_end()
        other.close()


def test_the_time_to_spin_is_bounded_and_may_come_from_the_environment(monkeypatch):
    assert spin_time_us(None) == 0
    assert spin_time_us(50) == 50
    monkeypatch.setenv("RALLYPOINT_SPIN_US", "20")
    assert (spin_time_us(None), spin_time_us(0)) == (20, 0)
    for wrong in (-1, SPIN_US_MAX + 1):
        with pytest.raises(ValueError, match="spin_us must be from 0 to 1000 microseconds"):
            spin_time_us(wrong)
    for wrong in (1.0, True, "5"):
        with pytest.raises(TypeError, match="spin_us must be an int"):
            spin_time_us(wrong)


def test_a_spinning_connection_reads_as_any_other():
    with offering_server() as server:
        connection = connect(server, LONG_S, spin_us=30)
        for _ in range(20):
            connection.begin(ping(), route.Deadline(LONG_S), [])
        connection.close()
