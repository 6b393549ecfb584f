from __future__ import annotations

import contextlib
import socket
import threading

import pytest
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, RawClient, use_twin
from tests.support.raw_session import RawSession

from rallypoint.net.address import listen
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.protocol.spec import Verb
from rallypoint.server.connection import Connection
from rallypoint.server.data_dir import DataDirError
from rallypoint.server.durable import open_journal
from rallypoint.server.limits import Limits
from rallypoint.server.loop import ServerLoop
from rallypoint.server.native import make_loop
from rallypoint.server.vocabulary import Disconnected, Received, Reply


class Running:
    """A loop in a thread; what it raises is kept."""

    def __init__(self, loop, address):
        self.loop = loop
        self.address = address
        self.error = None
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        try:
            self.loop.run()
        except DataDirError as error:
            self.error = error

    def end(self):
        self.loop.stop(0.0)
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def running(make):
    (listener,) = listen("127.0.0.1", 0)
    address = listener.getsockname()
    server = Running(make([listener]), address)
    try:
        yield server
    finally:
        server.end()


@contextlib.contextmanager
def durable(path):
    journal = open_journal(path)
    try:
        with running(lambda listeners: make_loop(Limits(), listeners, journal=journal)) as server:
            server.journal = journal
            yield server
    finally:
        journal.close()


@pytest.fixture(params=LOOP_TWINS)
def each_loop(request, monkeypatch):
    return use_twin(request.param, monkeypatch)


@pytest.fixture
def python_loop(monkeypatch):
    use_twin("python", monkeypatch)


@pytest.fixture
def trace(python_loop, monkeypatch):
    """Give what was sent and committed, in its order."""
    seen = []
    flush = Connection.flush

    def traced(connection):
        if connection.output:
            seen.append(b"".join(connection.output))
        return flush(connection)

    monkeypatch.setattr(Connection, "flush", traced)
    return seen


def test_nothing_is_sent_before_its_commit_in_either_dialect(tmp_path, trace):
    with durable(tmp_path) as server:
        write = server.journal.write

        def traced(changes):
            if changes:
                trace.append([type(change).__name__ for change in changes])
            write(changes)

        server.journal.write = traced
        session = RawSession(server.address)
        plain = RawClient(server.address)
        trace.clear()
        session.call(SessionVerb.SET, b"/k", b"v")
        assert trace[0] == ["KeySet", "AnswerKept"]
        assert isinstance(trace[1], bytes)
        trace.clear()
        plain.ask(Verb.SET, b"/k", b"w")
        assert plain.get(b"/k") == b"w"
        assert trace[0] == ["KeySet"]
        trace.clear()
        assert plain.get(b"/k") == b"w"
        assert all(isinstance(entry, bytes) for entry in trace)
        session.close()
        plain.close()


def test_what_is_stored_comes_back_under_the_same_data_id_in_another_life(each_loop, tmp_path):
    with durable(tmp_path) as server:
        session = RawSession(server.address)
        session.call(SessionVerb.ADD, b"/n", 5)
        data, life = session.data_id, session.life_id
    with durable(tmp_path) as server:
        session.address = server.address
        assert session.call(SessionVerb.ADD, b"/n", 1) == (6,)
        assert session.data_id == data
        assert session.life_id != life
        session.close()


@pytest.mark.parametrize(("first", "second"), [(one, other) for one in LOOP_TWINS for other in LOOP_TWINS])
def test_either_twin_goes_on_with_what_the_other_has_written(first, second, monkeypatch, tmp_path):
    use_twin(first, monkeypatch)
    with durable(tmp_path) as server:
        session = RawSession(server.address)
        session.call(SessionVerb.SET, b"/k", b"v")
        session.call(SessionVerb.APPEND, b"/k", b"w")
        session.call(SessionVerb.SET, b"/gone", b"")
        session.call(SessionVerb.DELETE_KEY, b"/gone")
        for item in (b"1", b"2", bytes(5000)):
            session.call(SessionVerb.QUEUE_PUSH, b"/q", item)
        (lease,) = session.call(SessionVerb.LEASE_GRANT, 0)
        session.call(SessionVerb.SWAP, b"/leased", 0, b"l", lease)
        session.call(SessionVerb.MEET, b"/m", 0, 1, b"me")
        session.call(SessionVerb.QUEUE_POP, b"/q")
        data = session.data_id
    use_twin(second, monkeypatch)
    for _ in range(2):  # what it was given, and what it has written of that
        with durable(tmp_path) as server:
            session.address = server.address
            assert session.call(SessionVerb.READ, b"/k") == (2, b"vw")
            assert session.call(SessionVerb.LIST_KEYS) == ([b"/k", b"/leased"],)
            assert session.call(SessionVerb.QUEUE_LEN, b"/q") == (2,)
            assert session.data_id == data
            (lease_after,) = session.call(SessionVerb.LEASE_GRANT, 0)
            lease += 1
            assert lease_after == lease
    with durable(tmp_path) as server:
        session.address = server.address
        assert session.call(SessionVerb.MEET, b"/m", 0, 1, b"me") == (2,)
        session.call(SessionVerb.BYE)
        other = RawSession(server.address)
        assert other.call(SessionVerb.READ, b"/leased") == (0, b"")
        assert [other.call(SessionVerb.QUEUE_POP, b"/q") for _ in range(2)] == [(b"2",), (bytes(5000),)]
        other.close()
        session.close()


def test_a_commit_that_fails_ends_the_loop_and_what_waited_for_it_is_never_sent(each_loop, tmp_path):
    with durable(tmp_path) as server:
        client = RawClient(server.address)
        assert client.ping()
        server.journal._database.execute("PRAGMA max_page_count = 1")
        client.ask(Verb.ADD, b"/big", 1)
        client.ask(Verb.SET, b"/k", bytes(1 << 20))
        with contextlib.suppress(ConnectionError):  # the loop may have ended by now
            client.ask(Verb.SET, b"/l", bytes(1 << 20))
            client.ask(Verb.GET, b"/l")
        assert len(client.read_end()) <= 8
        client.close()
        server.thread.join(PATIENCE_S)
        assert "could not be committed" in str(server.error)


class Forgetful:
    """A machine that has something to commit whenever a peer is lost, and tells the other peer of it."""

    def __init__(self):
        self.peers = []
        self.uncommitted = 0

    def step(self, event, now):
        if isinstance(event, Received):
            self.peers.append(event.peer)
            return [Reply(peer, b"hello") for peer in self.peers] if len(self.peers) == 2 else []
        if isinstance(event, Disconnected):
            self.uncommitted += 1
            return [Reply(peer, b"it is gone") for peer in self.peers if peer != event.peer]
        return []

    def next_deadline(self):
        return None

    def commit(self):
        self.uncommitted = 0


def test_what_the_loss_of_one_peer_causes_is_committed_before_the_next_is_told(monkeypatch):
    machine = Forgetful()
    told = []

    def flush(connection):
        assert machine.uncommitted == 0
        if connection.output and connection.fd == machine.peers[0]:
            raise ConnectionResetError
        told.append(b"".join(connection.output))
        connection.output.clear()
        return True

    monkeypatch.setattr(Connection, "flush", flush)
    with (
        running(lambda listeners: ServerLoop(machine, listeners, commit=machine.commit)) as server,
        socket.create_connection(server.address, PATIENCE_S) as first,
        socket.create_connection(server.address, PATIENCE_S) as second,
    ):
        first.sendall(b"x")
        second.sendall(b"x")
        assert first.recv(1) == b""
    assert b"".join(told) == b"helloit is gone"
