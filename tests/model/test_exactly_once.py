"""Sessions over links that break at any byte, either way: each request is applied once, and each is answered.

Two clients ask; their connections are cut after so many bytes to the server, or so many from it. The server may notice
a cut at once, or only when the session is taken over by the next connection. In the end everything is answered, and
what is stored is what the requests give that are applied once each, in their order.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from rallypoint.protocol.session.auth import Hello, Welcome
from rallypoint.protocol.session.client import Request, Session
from rallypoint.protocol.session.codec import REPLY_HEAD_SIZE, decode_reply, encode_request
from rallypoint.protocol.session.spec import CLOSING_ID, NONCE_SIZE, OPENING, SessionVerb, Status
from rallypoint.server.changes import State, apply
from rallypoint.server.engine import Engine
from rallypoint.server.vocabulary import Close, Connected, Disconnected, Event, Pause, Received, Reply, Resumed

V = SessionVerb
ENDLESS = 1 << 40


class Cut(NamedTuple):
    """After how many bytes to and from the server a connection breaks, and whether the server notices at once."""

    up: int
    down: int
    is_noticed: bool


class Link:
    """One connection: it delivers what it may, and then nothing more."""

    def __init__(self, peer: int, cut: Cut) -> None:
        self.peer = peer
        self.up = cut.up
        self.down = cut.down
        self.is_noticed = cut.is_noticed
        self.is_broken = False
        self.inbox = b""


class World:
    def __init__(self, cuts: list[Cut]) -> None:
        self.engine = Engine(seed=bytes(32), journal=True)
        self.cuts: Iterator[Cut] = iter(cuts)
        self.links: dict[int, Link] = {}
        self.count = 0

    def connect(self) -> Link:
        self.count += 1
        link = Link(self.count, next(self.cuts, Cut(ENDLESS, ENDLESS, is_noticed=True)))
        self.links[link.peer] = link
        self.step(Connected(link.peer))
        return link

    def send(self, link: Link, data: bytes) -> None:
        if link.is_broken:
            return
        arrived = data[: link.up]
        link.up -= len(arrived)
        if arrived:
            self.step(Received(link.peer, arrived))
        if len(arrived) < len(data):
            self.break_link(link)

    def step(self, event: Event) -> None:
        for effect in self.engine.step(event, 0.0):
            link = self.links.get(effect.peer)
            if link is None:
                continue
            if isinstance(effect, Reply) and not link.is_broken:
                arrived = effect.data[: link.down]
                link.down -= len(arrived)
                link.inbox += arrived
                if len(arrived) < len(effect.data):
                    self.break_link(link)
            elif isinstance(effect, Close):
                link.is_broken = True
                del self.links[effect.peer]
            elif isinstance(effect, Pause):
                self.step(Resumed(effect.peer))

    def break_link(self, link: Link) -> None:
        if not link.is_broken:
            link.is_broken = True
            if link.is_noticed:
                self.links.pop(link.peer, None)
                self.step(Disconnected(link.peer))


class Client:
    def __init__(self, world: World) -> None:
        self.world = world
        self.machine = Session()
        self.asked: list[tuple[Request, tuple[Any, ...]]] = []
        self.link: Link | None = None
        self.is_welcome = False

    def ask(self, verb: SessionVerb, *fields: Any) -> None:
        request = Request(verb)
        frame = self.machine.begin(request, *fields)
        self.asked.append((request, fields))
        self.pump()
        if self.is_welcome and self.link is not None:
            self.world.send(self.link, frame)
        self.pump()

    def pump(self) -> None:
        """Read what is there; where the connection broke, make another and go on."""
        while self.link is None or self.link.is_broken or self.link.inbox:
            if self.link is None:
                self.greet()
                continue
            data, self.link.inbox = self.link.inbox, b""
            self.hear(data)
            if self.link.is_broken and not self.link.inbox:
                self.machine.lose()
                self.link, self.is_welcome = None, False

    def greet(self) -> None:
        self.link = self.world.connect()
        hello = Hello(self.machine.id, b"", b"client", bytes(NONCE_SIZE), 60_000)
        frame = encode_request(V.HELLO, CLOSING_ID, 0, hello.version, *hello[:5])
        self.world.send(self.link, OPENING + frame)

    def hear(self, data: bytes) -> None:
        assert self.link is not None
        if self.is_welcome:
            self.machine.receive(data)
            return
        size = 4 + int.from_bytes(data[:4], "little")
        if len(data) < 4 or len(data) < size:
            assert self.link.is_broken
            return
        session, is_resumed, data_id, life_id, _, timeout_ms, revision = decode_reply(
            Status.OK, V.HELLO, data, REPLY_HEAD_SIZE, size
        )
        assert is_resumed == bool(self.machine.id), "the session was there all the time"
        self.is_welcome = True
        for again in self.machine.resume(Welcome(session, is_resumed, data_id, life_id, timeout_ms, revision)):
            self.world.send(self.link, again)
        self.machine.receive(data[size:])

    def replies(self, *verbs: SessionVerb) -> list[tuple[Any, ...]]:
        return [request.fields() for request, _ in self.asked if request.verb in verbs]


def own(number: int, name: bytes) -> bytes:
    return b"/%d/%s" % (number, name)


names = st.sampled_from([b"a", b"b"])
values = st.binary(max_size=30)
operations = st.one_of(
    st.tuples(st.just(V.SET), names, values),
    st.tuples(st.just(V.APPEND), names, values),
    st.tuples(st.just(V.ADD), st.just(b"n"), st.integers(-5, 5)),
    st.tuples(st.just(V.DELETE_KEY), names),
    st.tuples(st.just(V.COMPARE_SET), names, st.just(b""), values),
    st.tuples(st.just(V.MULTI_SET), st.lists(st.tuples(names, values), max_size=3)),
    st.tuples(st.just(V.DELETE_PREFIX), names),
    st.tuples(st.just(V.QUEUE_PUSH)),
    st.tuples(st.just(V.QUEUE_POP)),
    st.tuples(st.just(V.GET)),
    st.tuples(st.just(V.BARRIER)),
    st.tuples(st.just(V.MEET)),
)
cuts = st.builds(Cut, st.integers(0, 500), st.integers(0, 300), st.booleans())


class Program:
    """Two clients' requests, and what they give."""

    def __init__(self, world: World) -> None:
        self.clients = [Client(world), Client(world)]
        self.expected: dict[bytes, bytes] = {}
        self.totals: list[list[int]] = [[], []]
        self.pushed: list[bytes] = []
        self.done = [dict.fromkeys((V.QUEUE_PUSH, V.QUEUE_POP, V.GET, V.BARRIER, V.MEET), 0) for _ in self.clients]

    def ask(self, number: int, verb: SessionVerb, *fields: Any) -> None:
        if verb in self.done[number]:
            self.meet(number, verb)
            return
        expected = self.expected
        if verb is V.MULTI_SET:
            pairs = [(own(number, name), value) for name, value in fields[0]]
            expected.update(pairs)
            self.clients[number].ask(verb, pairs)
            return
        key = own(number, fields[0])
        if verb is V.SET:
            expected[key] = fields[1]
        elif verb is V.APPEND:
            expected[key] = expected.get(key, b"") + fields[1]
        elif verb is V.ADD:
            total = int(expected.get(key, b"0")) + fields[1]
            expected[key] = b"%d" % total
            self.totals[number].append(total)
        elif verb is V.COMPARE_SET:
            if not expected.get(key):
                expected[key] = fields[2]
        else:
            expected.pop(key, None)
        self.clients[number].ask(verb, key, *fields[1:])

    def meet(self, number: int, verb: SessionVerb) -> None:
        """Ask for what the other client has a part in."""
        client = self.clients[number]
        if verb is V.MEET and any(request.verb is V.MEET for request in client.machine.unanswered):
            return  # a second arrival would take the place of the first
        count = self.done[number][verb] = self.done[number][verb] + 1
        if verb is V.QUEUE_PUSH:
            self.pushed.append(b"%d-%d" % (number, count))
            client.ask(verb, b"/queue", self.pushed[-1])
        elif verb is V.QUEUE_POP:
            client.ask(verb, b"/queue")
        elif verb is V.GET:
            client.ask(verb, own(1 - number, b"end"))
        elif verb is V.BARRIER:
            client.ask(verb, b"/barrier/%d" % count, 2)
        else:
            client.ask(verb, b"/group", number, 2, b"member")

    def finish(self) -> None:
        """Ask for what the requests so far wait for."""
        for number, client in enumerate(self.clients):
            client.ask(V.SET, own(number, b"end"), b"end")
            self.expected[own(number, b"end")] = b"end"
        for verb in (V.BARRIER, V.MEET):
            most = max(done[verb] for done in self.done)
            for number, done in enumerate(self.done):
                for _ in range(most - done[verb]):
                    self.meet(number, verb)
            if verb is V.BARRIER:
                self.expected.update({b"/barrier/%d" % (count + 1): b"2" for count in range(most)})
        for _ in range(sum(done[V.QUEUE_POP] for done in self.done) - len(self.pushed)):
            self.meet(0, V.QUEUE_PUSH)
        for _ in range(1000):
            if not any(client.machine.unanswered for client in self.clients):
                return
            for client in self.clients:
                client.pump()
        raise AssertionError("requests are not answered though nothing is missing")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), operations), max_size=25), st.lists(cuts, max_size=15))
def test_each_request_is_applied_once_and_answered(
    asked: list[tuple[int, tuple[Any, ...]]], cut_list: list[Cut]
) -> None:
    world = World(cut_list)
    program = Program(world)
    for number, operation in asked:
        program.ask(number, *operation)
    program.finish()

    ground = world.engine.ground
    assert stored(world.engine) == program.expected
    for client, totals in zip(program.clients, program.totals, strict=True):
        assert all(request.status is Status.OK for request, _ in client.asked)
        assert client.replies(V.ADD) == [(total,) for total in totals]
        assert client.replies(V.MEET) == [(count + 1,) for count in range(len(client.replies(V.MEET)))]
        assert set(client.replies(V.GET)) <= {(b"end",)}
    popped = [item for client in program.clients for (item,) in client.replies(V.QUEUE_POP)]
    left = list(ground.keyspace.queues.get(b"/queue", ()))
    assert sorted(popped + left) == sorted(program.pushed)
    assert ground.waiting == 0
    assert_that_the_journal_has_all(world.engine)


def stored(engine: Engine) -> dict[bytes, bytes | None]:
    keyspace = engine.ground.keyspace
    return {key: keyspace.get(key) for key in keyspace.keys_with(b"")}


def assert_that_the_journal_has_all(engine: Engine) -> None:
    state = State()
    apply(state, engine.take_changes())
    keyspace = engine.ground.keyspace
    assert {key: was.value for key, was in state.keys.items()} == stored(engine)
    assert all(was.revision == keyspace.revision_of(key) for key, was in state.keys.items())
    assert state.revision == keyspace.revision
    assert {name: list(items) for name, items in keyspace.queues.items()} == state.queues
    for session in engine.parts.sessions:
        remembered = state.sessions[session.session_id]
        assert remembered.done <= session.done
        kept = {number: answer for number, (answer, _) in session.answers.items() if number >= session.done}
        assert {number: answer for number, answer in remembered.answers.items() if number >= session.done} == kept
