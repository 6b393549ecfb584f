"""What is done for connections; in what order, and over sockets of all kinds, is tested in ``test_loop``."""

from __future__ import annotations

import socket

import pytest

from rallypoint.server.connections import Connections
from rallypoint.server.limits import LINGER_S
from rallypoint.server.poller import make_poller
from rallypoint.server.vocabulary import Close, CloseReason, Connected, Disconnected, EndReason, Pause, Reply
from rallypoint.testing import ManualClock

PATIENCE_S = 30.0


class Recorder:
    """A machine that wants nothing, and writes down what it is told."""

    def __init__(self):
        self.told = []

    def step(self, event, now):
        self.told.append(event)
        return []

    def next_deadline(self):
        return None


class Bench:
    """The connections of a machine, without a loop."""

    def __init__(self):
        self.machine, self.clock, self.lines, self.commits = Recorder(), ManualClock(), [], 0
        self.poller = make_poller()
        self.connections = Connections(
            self.machine, self.poller, self.clock, log=self.lines.append, tls=None, unread=None, commit=self.commit
        )
        self.peers = []

    def commit(self):
        self.commits += 1

    def join(self):
        """Welcome one; give its number and its end."""
        ours, theirs = socket.socketpair()
        theirs.settimeout(PATIENCE_S)
        fd = ours.fileno()
        self.connections._welcome(ours, self.clock.now())
        self.peers.append(theirs)
        return fd, theirs

    def flush(self):
        self.connections._flush_dirty(self.clock.now())

    def end(self):
        for connection in list(self.connections._connections.values()):
            self.connections._close(connection)
        for peer in self.peers:
            peer.close()
        self.poller.close()


@pytest.fixture
def bench():
    made = Bench()
    yield made
    made.end()


def test_who_comes_is_told_to_the_machine_and_what_it_wants_leaves_after_a_commit(bench):
    fd, peer = bench.join()
    assert [(type(event), event.peer) for event in bench.machine.told] == [(Connected, fd)]
    bench.connections.apply([Reply(fd, b"one "), Reply(fd, b"two")])
    assert bench.commits == 0
    bench.flush()
    assert peer.recv(100) == b"one two"
    assert bench.commits >= 1


def test_what_is_wanted_for_who_is_gone_is_nothing(bench):
    bench.connections.apply([Reply(999, b"late"), Pause(999), Close(999, CloseReason.UNKNOWN_VERB, "late")])
    bench.flush()
    assert bench.machine.told == []


def test_a_refused_peer_gets_what_it_is_owed_and_then_the_end(bench):
    fd, peer = bench.join()
    bench.connections.apply([Reply(fd, b"owed"), Close(fd, CloseReason.UNKNOWN_VERB, "a word without meaning")])
    bench.flush()
    assert [peer.recv(100), peer.recv(100)] == [b"owed", b""]
    assert "a word without meaning" in bench.lines[0]
    ((until, connection),) = bench.connections._lingering
    assert (until, connection.fd) == (bench.clock.now() + LINGER_S, fd)
    assert not any(isinstance(event, Disconnected) for event in bench.machine.told)


def test_the_loss_of_a_connection_is_told_and_counted_once(bench):
    fd, peer = bench.join()
    peer.close()
    bench.connections.apply([Reply(fd, b"too late")])
    bench.flush()
    bench.flush()
    assert bench.machine.told[1:] == [Disconnected(fd)]
    assert bench.connections.ends[EndReason.CONNECTION_LOST] == 1


def test_the_end_of_a_peers_words_leaves_what_it_is_owed(bench):
    fd, peer = bench.join()
    bench.connections.apply([Reply(fd, b"owed")])
    peer.shutdown(socket.SHUT_WR)
    bench.connections._end_of_input(bench.connections._connections[fd], bench.clock.now())
    assert bench.machine.told[1:] == [Disconnected(fd)]
    bench.flush()
    assert [peer.recv(100), peer.recv(100)] == [b"owed", b""]
    assert bench.connections.ends[EndReason.PEER_CLOSED] == 1
