"""A relay over the real server, in one thread: each local peer gets, byte for byte, what the server itself would send.

The connection between the two is cut wherever the script says, amid frames and amid answers, and made again.
"""

from __future__ import annotations

import contextlib
import socket
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.fronts import running_front
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, running_loop

from rallypoint.clock import Deadline
from rallypoint.gateway.native import NativeRelay
from rallypoint.gateway.relay import Relay
from rallypoint.gateway.slots import REPLY_AT
from rallypoint.gateway.spaces import KeySpace
from rallypoint.gateway.translator import Translator
from rallypoint.gateway.vocabulary import Answered, Ask, UpstreamThere, Withdraw
from rallypoint.net.retry import Backoff
from rallypoint.protocol.codec import I64, U64, encode_request
from rallypoint.protocol.session.auth import Hello
from rallypoint.protocol.session.client import Request, Session
from rallypoint.protocol.session.handshake import handshake
from rallypoint.protocol.session.spec import NONCE_SIZE, Status
from rallypoint.protocol.spec import MAGIC, Verb
from rallypoint.server.engine import Close, Connected, Disconnected, Engine, Received, Reply
from rallypoint.store.reach import Reacher
from rallypoint.types import Endpoint

QUICK = Backoff(0.001, 1.0, 0.001, 0.0)

VALIDATE = encode_request(Verb.VALIDATE, MAGIC)
PEERS = (1, 2, 3)

KEYS = st.sampled_from([b"a", b"b", b"c"])
NUMBERS = st.sampled_from([b"m", b"n"])
QUEUES = st.sampled_from([b"q", b"r"])
VALUES = st.sampled_from([b"", b"1", b"22", b"x" * 2000])
WAITED = st.lists(st.sampled_from([b"a", b"n", b"w", b"q", b"r"]), max_size=2)
REQUESTS = st.one_of(
    st.tuples(st.just(Verb.SET), st.one_of(KEYS, st.just(b"w")), VALUES),
    st.tuples(st.just(Verb.COMPARE_SET), KEYS, VALUES, VALUES),
    st.tuples(st.just(Verb.GET), KEYS),
    st.tuples(st.just(Verb.ADD), NUMBERS, st.integers(-3, 3)),
    st.tuples(st.just(Verb.CHECK), st.lists(KEYS, max_size=3)),
    st.tuples(st.just(Verb.GETNUMKEYS)),
    st.tuples(st.just(Verb.DELETE_KEY), st.one_of(KEYS, NUMBERS)),
    st.tuples(st.just(Verb.APPEND), KEYS, VALUES),
    st.tuples(st.just(Verb.MULTI_GET), st.lists(KEYS, max_size=3)),
    st.tuples(st.just(Verb.MULTI_SET), st.lists(st.tuples(KEYS, VALUES), max_size=3)),
    st.tuples(st.just(Verb.PING), st.integers(0, 9)),
    st.tuples(st.just(Verb.QUEUE_PUSH), QUEUES, VALUES),
    st.tuples(st.just(Verb.QUEUE_POP), QUEUES),
    st.tuples(st.just(Verb.QUEUE_LEN), QUEUES),
    st.tuples(st.just(Verb.LIST_KEYS)),
    st.tuples(st.just(Verb.WAIT), WAITED),
    st.tuples(st.just(Verb.CANCEL_WAIT)),
    st.tuples(st.just(Verb.BARRIER), st.sampled_from([b"y", b"z"]), st.integers(1, 3)),
)
CUTS = st.one_of(st.none(), st.tuples(st.integers(0, 200), st.integers(0, 100)))
SCRIPTS = st.lists(st.tuples(st.sampled_from(PEERS), REQUESTS, CUTS), max_size=30)


class Relayed:
    """A translator, a session and an engine, and the connection between the last two."""

    def __init__(self, *, is_driven=False):
        self.translator = Translator(shares_reads=is_driven)
        self.reply_at = REPLY_AT if is_driven else {}
        self.session = Session()
        self.engine = Engine()
        self.requests = {}
        self.got = dict.fromkeys(PEERS, b"")
        self.upstream = 100
        self.outgoing = b""
        self.connect()
        for peer in PEERS:
            self.take(Connected(peer))
            self.take(Received(peer, VALIDATE))

    def connect(self):
        """Make another connection to the server, and say HELLO."""
        self.upstream += 1
        self.engine.step(Connected(self.upstream), 0.0)
        course = handshake(Hello(self.session.id, b"", b"relay", bytes(NONCE_SIZE), 60_000))
        step, heard = next(course), b""
        try:
            while True:
                if isinstance(step, bytes):
                    heard += self.serve(step)
                    step = course.send(b"")
                else:
                    piece, heard = heard[:step], heard[step:]
                    step = course.send(piece)
        except StopIteration as end:
            self.outgoing = b"".join(self.session.resume(end.value))
        assert heard == b""
        self.take(UpstreamThere(is_same=True))

    def serve(self, data):
        """Give the server some bytes; give what it says on this connection."""
        effects = self.engine.step(Received(self.upstream, data), 0.0) if data else []
        assert not any(isinstance(effect, Close) for effect in effects)
        return b"".join(effect.data for effect in effects if isinstance(effect, Reply))

    def take(self, event):
        self.do(self.translator.step(event, 0.0))

    def do(self, effects):
        for effect in effects:
            match effect:
                case Ask(call, verb, fields):
                    request = self.requests[call] = Request(verb)
                    self.outgoing += self.session.begin(request, *fields)
                case Withdraw(call):
                    self.outgoing += self.session.cancel(self.requests[call])
                case Reply(peer, data):
                    self.got[peer] += data

    def hear(self, data):
        calls = {id(request): call for call, request in self.requests.items()}
        for request in self.session.receive(data) if data else ():
            at = self.reply_at.get(request.verb) if request.status is Status.OK else None
            status, fields = (request.status, request.fields()) if at is None else (None, (request.rest(at),))
            self.take(Answered(calls[id(request)], status, fields))
        self.do(self.translator.end_turn())

    def pump(self):
        """Let everything that is under way arrive, until nothing is."""
        self.do(self.translator.end_turn())
        while self.outgoing:
            outgoing, self.outgoing = self.outgoing, b""
            self.hear(self.serve(outgoing))

    def cut(self, sent, received):
        """Let so many bytes arrive either way, and lose the rest with the connection."""
        outgoing, self.outgoing = self.outgoing, b""
        self.hear(self.serve(outgoing[:sent])[:received])
        self.engine.step(Disconnected(self.upstream), 0.0)
        self.session.lose()
        self.connect()


def played_directly(script):
    engine = Engine()
    got = dict.fromkeys(PEERS, b"")
    for peer in PEERS:
        engine.step(Connected(peer), 0.0)
        engine.step(Received(peer, VALIDATE), 0.0)
    for peer, request, _ in script:
        for effect in engine.step(Received(peer, encode_request(*request)), 0.0):
            if isinstance(effect, Reply):
                got[effect.peer] += effect.data
    return got


@settings(deadline=None, max_examples=200)
@given(SCRIPTS, st.booleans())
def test_local_peers_get_the_servers_own_bytes_over_any_number_of_cuts(script, is_driven):
    relayed = Relayed(is_driven=is_driven)
    for peer, request, cut in script:
        relayed.take(Received(peer, encode_request(*request)))
        relayed.do(relayed.translator.end_turn())
        if cut is not None and request[0] is not Verb.QUEUE_POP:  # the length it tells is read beside the pop
            relayed.cut(*cut)
        relayed.pump()
    assert relayed.got == played_directly(script)


@settings(deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=5), st.lists(CUTS, max_size=8))
def test_each_item_of_a_queue_is_popped_once_over_any_number_of_cuts(items, cuts):
    relayed = Relayed()
    for item in items:
        relayed.take(Received(1, encode_request(Verb.QUEUE_PUSH, b"q", item)))
    relayed.pump()
    for _, cut in zip(items, [*cuts, *[None] * len(items)], strict=False):
        relayed.take(Received(2, encode_request(Verb.QUEUE_POP, b"q")))
        if cut is not None:
            relayed.cut(*cut)
        relayed.pump()
    got, popped = relayed.got[2], []
    while got:
        (length,), (size,) = I64.unpack_from(got), U64.unpack_from(got, 8)
        assert length > 0
        popped.append(got[16 : 16 + size])
        got = got[16 + size :]
    assert popped == items


class Remote:
    """A relay of either twin over a server, both on sockets, and its local peers."""

    def __init__(self, kind, space):
        self.stack = contextlib.ExitStack()
        self.server = self.stack.enter_context(running_loop())
        self.links = []
        self.relay = self.stack.enter_context(running_front(partial(kind, self.reach, backoff=QUICK), space=space))
        self.clients = {peer: self.relay.client() for peer in PEERS}
        self.got = dict.fromkeys(PEERS, b"")
        for client in self.clients.values():
            assert client.ping()

    def reach(self, session_id, _):
        link = Reacher([Endpoint(*self.server.address)])(session_id, Deadline(PATIENCE_S))
        self.links.append(link)
        return link

    def send(self, peer, data, places):
        """Send bytes in pieces."""
        start = 0
        for place in sorted(min(place, len(data)) for place in places):
            if place > start:
                self.clients[peer].send(data[start:place])
                start = place
        self.clients[peer].send(data[start:])

    def read(self, sizes):
        """Read until each peer has got so many bytes."""
        for peer, size in sizes.items():
            self.got[peer] += self.clients[peer].read(size - len(self.got[peer]))


LONG_LISTS = st.tuples(
    st.sampled_from([Verb.MULTI_GET, Verb.CHECK, Verb.WAIT]),
    st.sampled_from([[b"a"] * 40, [b"a", b"b"] * 30, [b"a", b"b"] * 30 + [b"c"]]),
)
BATCHES = st.lists(
    st.tuples(
        st.sampled_from(PEERS),
        st.lists(st.one_of(REQUESTS, LONG_LISTS), min_size=1, max_size=4),
        st.lists(st.integers(1, 300), max_size=3),
        st.booleans(),
    ),
    max_size=12,
)


@pytest.mark.parametrize("space", [None, KeySpace("rounds/7")])
@pytest.mark.parametrize("twin", LOOP_TWINS)
@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(script=BATCHES)
def test_local_peers_get_the_servers_own_bytes_from_either_twin(twin, space, script):
    engine = Engine()
    expected = dict.fromkeys(PEERS, b"")
    for peer in PEERS:
        engine.step(Connected(peer), 0.0)
        engine.step(Received(peer, VALIDATE), 0.0)
    remote = Remote(Relay if twin == "python" else NativeRelay, space)
    with remote.stack:
        for number, (peer, asked, places, is_cut) in enumerate(script):
            # Those of a key space are listed in another order.
            requests = [request for request in asked if space is None or request[0] is not Verb.LIST_KEYS]
            # The PING's reply tells that everything before it has come to the server, but for waits.
            data = b"".join(encode_request(*request) for request in (*requests, (Verb.PING, number)))
            for effect in engine.step(Received(peer, data), 0.0):
                if isinstance(effect, Reply):
                    expected[effect.peer] += effect.data
            if is_cut and all(request[0] is not Verb.QUEUE_POP for request in requests):
                with contextlib.suppress(OSError):  # it is lost already
                    remote.links[-1].stream._sock.shutdown(socket.SHUT_RDWR)
            remote.send(peer, data, places)
            remote.read({each: len(whole) for each, whole in expected.items()})
            assert remote.got == expected
