"""The engine against its dumb twin: any requests of several peers, in any pieces, in any order."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.support.engine_twin import EngineTwin
from tests.support.twins import over_each_twin
from tests.support.wire import VALIDATE, Connection, Wire

from rallypoint.protocol.codec import Request, encode_request
from rallypoint.protocol.spec import VERBS, Kind, Verb
from rallypoint.server.engine import Limits
from rallypoint.server.keyspace import ENTRY_SIZE

OUTPUT_SIZE_MAX = 40

names = st.sampled_from([b"/a", b"/b", b"/c", b""])
texts = st.sampled_from([b"", b"1", b"-2", b"x", b" \t+7abc", b"0x10", b"9223372036854775807", b"99999999999999999999"])
FIELDS: dict[Kind, st.SearchStrategy[Any]] = {
    Kind.KEY: names,
    Kind.VALUE: texts,
    Kind.I64: st.integers(-2, 4) | st.sampled_from([-(2**63), 2**63 - 1]),
    Kind.U32: st.integers(0, 2**32 - 1),
    Kind.KEYS: st.lists(names, max_size=3),
    Kind.PAIRS: st.lists(st.tuples(names, texts), max_size=3),
}
# For whatever is about waiting: fewer names, so that requests meet, and numbers only, so that nobody is closed.
FEW_NAMES = st.sampled_from([b"/a", b"/b"])
FIELDS_THAT_MEET = FIELDS | {
    Kind.KEY: FEW_NAMES,
    Kind.VALUE: st.just(b"1"),
    Kind.I64: st.integers(1, 4),
    Kind.KEYS: st.lists(FEW_NAMES, min_size=1, max_size=2),
    Kind.PAIRS: st.lists(st.tuples(FEW_NAMES, st.just(b"1")), max_size=2),
}
VERBS_ABOUT_WAITING = [
    *(Verb.WAIT, Verb.WAIT, Verb.BARRIER, Verb.CANCEL_WAIT, Verb.DELETE_KEY),
    *(Verb.SET, Verb.ADD, Verb.COMPARE_SET, Verb.APPEND, Verb.MULTI_SET),
    *(Verb.QUEUE_PUSH, Verb.QUEUE_PUSH, Verb.QUEUE_POP, Verb.QUEUE_POP),
]


@st.composite
def requests(draw: st.DrawFn, verbs: list[Verb], fields: dict[Kind, st.SearchStrategy[Any]]) -> tuple[int, Request]:
    """Give a request, and a number that chooses its peer."""
    verb = draw(st.sampled_from(verbs))
    return draw(st.integers(0, 11)), (int(verb), *(draw(fields[kind]) for kind in VERBS[verb].request))


ANY = requests([verb for verb in Verb if verb is not Verb.VALIDATE], FIELDS)
ABOUT_WAITING = requests(VERBS_ABOUT_WAITING, FIELDS_THAT_MEET)


class Peer:
    """A connection, the bytes it has still to send, and where in them its requests end."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.outgoing = b""
        self.requests: list[tuple[int, Request]] = []
        self.is_between_requests = True

    def ask(self, request: Request, frame: bytes) -> None:
        self.outgoing += frame
        self.requests.append((len(self.outgoing), request))

    def take(self, size: int) -> tuple[bytes, list[Request]]:
        data, self.outgoing = self.outgoing[:size], self.outgoing[size:]
        self.is_between_requests = not self.outgoing or any(end == size for end, _ in self.requests)
        whole = [request for end, request in self.requests if end <= size]
        self.requests = [(end - len(data), request) for end, request in self.requests if end > size]
        return data, whole


class EngineAgainstTwin(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.wire = Wire(Limits(output_size_max=OUTPUT_SIZE_MAX), resumes=False)
        self.twin = EngineTwin(OUTPUT_SIZE_MAX)
        self.peers: list[Peer] = []
        for _ in range(3):
            self.connect()

    def sending(self) -> list[Peer]:
        return [peer for peer in self.peers if peer.outgoing and not peer.connection.is_paused]

    def paused(self) -> list[Peer]:
        return [peer for peer in self.peers if peer.connection.is_paused]

    def deliver(self, peer: Peer, size: int) -> None:
        data, whole = peer.take(size)
        number = peer.connection.peer
        for request in whole:
            self.twin.receive(number, request)
        peer.connection.send(data)
        self.twin.serve(number)
        self.drop_closed()

    def drop_closed(self) -> None:
        self.peers = [peer for peer in self.peers if peer.connection.closed is None]

    @precondition(lambda self: len(self.peers) < 5)
    @rule()
    def connect(self) -> None:
        connection = self.wire.connect(validates=False)
        connection.send(VALIDATE)
        self.twin.connect(connection.peer)
        self.peers.append(Peer(connection))

    def chosen(self, number: int) -> Peer:
        return self.peers[number % len(self.peers)]

    def ask(self, several: list[tuple[int, Request]], *, delivers: bool) -> None:
        for number, request in several:
            if self.peers:
                peer = self.chosen(number)
                peer.ask(request, encode_request(Verb(request[0]), *request[1:]))
                if delivers and not peer.connection.is_paused:
                    self.deliver(peer, len(peer.outgoing))

    @rule(several=st.lists(ABOUT_WAITING, min_size=1, max_size=15))
    def ask_about_waiting(self, several: list[tuple[int, Request]]) -> None:
        self.ask(several, delivers=True)

    @rule(several=st.lists(ANY, min_size=1, max_size=6))
    def ask_anything(self, several: list[tuple[int, Request]]) -> None:
        self.ask(several, delivers=True)

    @rule(several=st.lists(ANY | ABOUT_WAITING, min_size=1, max_size=6))
    def write(self, several: list[tuple[int, Request]]) -> None:
        """Requests that are delivered in pieces."""
        self.ask(several, delivers=False)

    @precondition(lambda self: self.sending())
    @rule(data=st.data(), size=st.integers(1, 60))
    def deliver_piece(self, data: st.DataObject, size: int) -> None:
        self.deliver(data.draw(st.sampled_from(self.sending())), size)

    @precondition(lambda self: self.peers)
    @rule(number=st.integers(0, 11), byte=st.sampled_from([0, 19, 255]))
    def ask_the_impossible(self, number: int, byte: int) -> None:
        peer = self.chosen(number)
        peer.ask((byte,), bytes((byte,)))

    @precondition(lambda self: self.paused())
    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        self.resume_one(data.draw(st.sampled_from(self.paused())))

    def resume_one(self, peer: Peer) -> None:
        self.wire.resume(peer.connection)
        self.twin.resume(peer.connection.peer)
        self.twin.serve(peer.connection.peer)
        self.drop_closed()

    @precondition(lambda self: self.peers)
    @rule(number=st.integers(0, 11))
    def disconnect(self, number: int) -> None:
        peer = self.chosen(number)
        self.peers.remove(peer)
        peer.connection.disconnect()
        self.twin.leave(peer.connection.peer)

    @invariant()
    def every_peer_has_got_what_it_should(self) -> None:
        for number, connection in self.wire.connections.items():
            assert bytes(connection.unread) == self.twin.got[number], f"peer {number}"

    @invariant()
    def the_same_peers_are_open_and_paused(self) -> None:
        assert {peer.connection.peer for peer in self.peers} == self.twin.open
        assert {peer.connection.peer for peer in self.paused()} == self.twin.paused

    @invariant()
    def the_books_are_right(self) -> None:
        statistics = self.wire.engine.statistics()
        queues = {name: items for name, items in self.twin.queues.items() if items}
        entries = [(key, value) for key, value in self.twin.values.items()]
        entries += [(name, item) for name, items in queues.items() for item in items]
        assert statistics.connections == len(self.twin.open)
        assert statistics.keys == len(self.twin.values)
        assert statistics.queues == len(queues)
        assert statistics.waiting == len(self.twin.waiting)
        assert statistics.paused == len(self.twin.paused)
        if not self.paused() and all(peer.is_between_requests for peer in self.peers):
            assert statistics.input_held == 0
        assert statistics.stored_size == sum(len(name) + len(text) + ENTRY_SIZE for name, text in entries)


class History:
    """A long random history of waits and what ends them, for the cases that short ones seldom reach."""

    def __init__(self, seed: int, verbs: list[Verb], names: tuple[bytes, ...]) -> None:
        self.random = random.Random(seed)
        self.verbs = verbs
        self.names = names

    def field(self, kind: Kind) -> Any:
        one = self.random.choice
        if kind is Kind.KEYS:
            return self.random.choices(self.names, k=one([1, 2, 2]))
        if kind is Kind.PAIRS:
            return [(name, b"1") for name in self.random.choices(self.names, k=one([1, 2]))]
        return one(self.names) if kind is Kind.KEY else b"1" if kind is Kind.VALUE else one([1, 2, 3, 4])

    def request(self) -> Request:
        verb = self.random.choice(self.verbs)
        return (int(verb), *(self.field(kind) for kind in VERBS[verb].request))

    def play(self, machine: EngineAgainstTwin, steps: int) -> None:
        for _ in range(steps):
            if len(machine.peers) < 5:
                machine.connect()
            elif self.random.random() < 0.05:
                machine.disconnect(self.random.randrange(5))
            elif machine.paused():
                machine.resume_one(self.random.choice(machine.paused()))
            else:
                machine.ask([(self.random.randrange(5), self.request())], delivers=self.random.random() < 0.8)
            machine.every_peer_has_got_what_it_should()
            machine.the_same_peers_are_open_and_paused()
        machine.the_books_are_right()


@over_each_twin
@pytest.mark.parametrize("seed", range(30))
def test_a_long_history_of_waits_gives_the_same_bytes(seed: int) -> None:
    History(seed, VERBS_ABOUT_WAITING, (b"/a", b"/b")).play(EngineAgainstTwin(), 1000)


@over_each_twin
@pytest.mark.parametrize("seed", range(10))
def test_a_long_history_of_one_queue_gives_the_same_bytes(seed: int) -> None:
    # More pops than pushes: peers wait only for a queue that is empty.
    verbs = [*(Verb.WAIT,) * 6, *(Verb.QUEUE_PUSH,) * 4, *(Verb.QUEUE_POP,) * 8, Verb.CANCEL_WAIT]
    History(seed, verbs, (b"/q",)).play(EngineAgainstTwin(), 1000)


@over_each_twin
def test_any_interleaving_gives_the_same_bytes() -> None:
    run_state_machine_as_test(
        EngineAgainstTwin, settings=settings(max_examples=100, stateful_step_count=30, deadline=None)
    )
