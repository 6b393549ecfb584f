"""An engine that ends at any moment, before or after its commit, and the next one with what the journal has.

Clients of sessions survive it: they send again what was not answered. Then nothing is lost, and nothing counts twice.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.support.engine_sessions import Bench

from rallypoint.protocol.codec import encode_request as encode_c10d
from rallypoint.protocol.session.codec import encode_request
from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.protocol.spec import MAGIC, Verb
from rallypoint.server.changes import GroupState, KeyState, LeaseState, SessionState, State, apply
from rallypoint.server.vocabulary import Connected, Received

KEYS = [b"/a", b"/b", b"/sum"]
names = st.sampled_from([b"/a", b"/b"])
values = st.binary(max_size=4)
clients = st.integers(0, 2)
V = SessionVerb


def state_of(engine):
    """Read out of an engine what its changes should add up to."""
    keyspace, parts = engine.ground.keyspace, engine.parts
    leases = parts.leases.leases
    ids = {session.number: session.session_id for session in parts.sessions}
    lease_of = {key: lease.lease for lease in leases._by_id.values() for key in lease.keys}
    return State(
        keyspace.revision,
        leases.last,
        {
            key: KeyState(bytes(value), keyspace._revisions[key], lease_of.get(key, 0))
            for key, value in keyspace._values.items()
        },
        {name: list(items) for name, items in keyspace.queues.items()},
        {
            number: LeaseState(lease.ttl_ms, ids.get(lease.session, b""), lease.identity)
            for number, lease in leases._by_id.items()
        },
        {
            session.session_id: SessionState(
                session.label,
                session.identity,
                round(session.timeout_s * 1000),
                session.done,
                {number: kept[0] for number, kept in session.answers.items() if number >= session.done},
            )
            for session in parts.sessions
        },
        {
            place: GroupState(group.generation, ())
            for place, group in parts.groups.groups._groups.items()
            if group.generation
        },
    )


def comparable(state, done):
    """Leave out of a state what nobody asks for: settled answers, and sessions and members that are gone."""
    return State(
        state.revision,
        state.lease_last,
        state.keys,
        state.queues,
        {
            number: lease._replace(session=lease.session if lease.session in state.sessions else b"")
            for number, lease in state.leases.items()
        },
        {
            name: SessionState(
                session.label,
                session.identity,
                session.timeout_ms,
                0,
                {number: answer for number, answer in session.answers.items() if number >= done.get(name, 0)},
            )
            for name, session in state.sessions.items()
        },
        {place: GroupState(group.generation, ()) for place, group in state.groups.items()},
    )


class Restarts(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.bench = Bench(journal=True)
        self.true = State()
        self.clients = [self.bench.client(b"client %d" % number, 60_000) for number in range(3)]
        self.unanswered = [{} for _ in self.clients]
        self.commit()
        self.adds = self.pushes = self.pops = 0

    # --- what the loop does ------------------------------------------------------------------------------

    def commit(self):
        apply(self.true, self.bench.engine.take_changes())

    def deliver(self):
        for client, unanswered in zip(self.clients, self.unanswered, strict=True):
            if client.session and client.closed is None and client.peer in self.bench.clients:
                for status, number, _ in client.read():
                    if number in unanswered and status is not Status.EVENT:
                        verb = unanswered.pop(number)[0]
                        self.adds += verb is V.ADD
                        self.pushes += verb is V.QUEUE_PUSH
                        self.pops += verb is V.QUEUE_POP and status is Status.OK
                client.done = min(unanswered, default=client.last_id + 1)

    def served(self):
        self.commit()
        self.deliver()

    def end_and_begin(self):
        """End the engine without a word, and begin the next one with what was committed."""
        self.bench = Bench(journal=True)
        self.bench.engine.restore(self.true, self.bench.now)
        for client in self.clients:
            client.bench = self.bench
        for number in range(len(self.clients)):
            self.come_back(number)

    def come_back(self, number):
        client = self.clients[number]
        assert client.connect(), "the session is lost"
        for request_id, (verb, fields) in self.unanswered[number].items():
            self.bench.step(Received(client.peer, encode_request(verb, request_id, client.done, *fields)))

    def ask(self, number, verb, *fields):
        request_id = self.clients[number].send(verb, *fields)
        self.unanswered[number][request_id] = (verb, fields)

    # --- what happens ------------------------------------------------------------------------------------

    @rule(number=clients, key=names, value=values)
    def set(self, number, key, value):
        self.ask(number, V.SET, key, value)
        self.served()

    @rule(number=clients)
    def add(self, number):
        self.ask(number, V.ADD, b"/sum", 1)
        self.served()

    @rule(number=clients, key=names, value=values)
    def append_or_delete(self, number, key, value):
        self.ask(number, V.APPEND, key, value) if value else self.ask(number, V.DELETE_KEY, key)
        self.served()

    @rule(number=clients, name=names, value=values)
    def push(self, number, name, value):
        self.ask(number, V.QUEUE_PUSH, name, value)
        self.served()

    @rule(number=clients, name=names)
    def pop(self, number, name):
        self.ask(number, V.QUEUE_POP, name)
        self.served()

    @rule(number=clients, ttl_ms=st.sampled_from([0, 5000]))
    def grant(self, number, ttl_ms):
        self.ask(number, V.LEASE_GRANT, ttl_ms)
        self.served()

    @precondition(lambda self: self.true.leases)
    @rule(number=clients, key=names, data=st.data())
    def use_lease(self, number, key, data):
        lease = data.draw(st.sampled_from(list(self.true.leases)))
        if data.draw(st.booleans()):
            self.ask(number, V.SWAP, key, -1, b"leased", lease)
        else:
            self.ask(number, V.LEASE_REVOKE, lease)
        self.served()

    @rule(first=clients, second=clients, kind=st.sampled_from([V.MEET, V.EXCHANGE]))
    def meet(self, first, second, kind):
        for rank, number in enumerate((first, second)):
            waiting = [fields for verb, fields in self.unanswered[number].values() if verb is kind]
            if not any(fields[1] == rank for fields in waiting):
                self.ask(number, kind, b"group", rank, 2, b"", *([b"value"] if kind is V.EXCHANGE else []))
        self.served()

    @rule(number=clients)
    def barrier(self, number):
        self.ask(number, V.BARRIER, b"/barrier", 2)
        self.served()

    @rule(value=values)
    def plain(self, value):
        peer = self.bench.new_peer(self.clients[0])
        self.bench.step(Connected(peer))
        for data in (encode_c10d(Verb.VALIDATE, MAGIC), encode_c10d(Verb.SET, b"/plain", value)):
            self.bench.step(Received(peer, data))
        del self.bench.clients[peer]
        self.served()

    @rule(number=clients)
    def lose_connection(self, number):
        self.clients[number].drop()
        self.come_back(number)
        self.served()

    @rule(seconds=st.integers(1, 9))
    def wait(self, seconds):
        self.bench.wait(seconds)
        self.served()

    @rule(number=clients)
    def end_before_the_commit(self, number):
        self.ask(number, V.ADD, b"/sum", 1)
        self.end_and_begin()
        self.served()

    @rule(number=clients, name=names)
    def end_after_the_commit(self, number, name):
        self.ask(number, V.ADD, b"/sum", 1)
        self.ask(number, V.QUEUE_POP, name)
        self.commit()
        self.end_and_begin()
        self.served()

    # --- what holds --------------------------------------------------------------------------------------

    @invariant()
    def the_changes_are_the_state_and_the_state_can_be_put_back(self):
        there = state_of(self.bench.engine)
        done = {name: session.done for name, session in there.sessions.items()}
        assert comparable(there, done) == comparable(self.true, done)
        assert list(there.keys) == list(self.true.keys)
        other = Bench(journal=True)
        other.engine.restore(self.true, other.now)
        assert comparable(state_of(other.engine), done) == comparable(self.true, done)
        assert list(state_of(other.engine).keys) == list(self.true.keys)
        assert other.engine.take_changes() == []

    @invariant()
    def nothing_is_lost_and_nothing_counts_twice(self):
        total = self.true.keys.get(b"/sum", KeyState(b"0", 0))
        assert total.value == b"%d" % self.adds
        assert sum(map(len, self.true.queues.values())) == self.pushes - self.pops


TestRestarts = Restarts.TestCase
TestRestarts.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
