"""Any requests of any sessions in any order, over connections that come and go: nothing breaks or stays behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rallypoint.protocol.session.codec import REPLY_HEAD_SIZE, decode_reply, decode_reply_head, encode_request
from rallypoint.protocol.session.spec import CLOSING_ID, NONCE_SIZE, OPENING, SESSION_VERBS, Field, SessionVerb, Status
from rallypoint.server.changes import State, apply
from rallypoint.server.engine import Engine
from rallypoint.server.limits import Limits
from rallypoint.server.vocabulary import Close, Connected, Disconnected, Event, Pause, Received, Reply, Resumed, Ticked

V = SessionVerb
HANDSHAKE = {V.HELLO, V.PROVE, V.BYE}
UNNUMBERED = {V.CANCEL, V.UNWATCH}
ASKED = [verb for verb in SESSION_VERBS if verb not in HANDSHAKE]
WAITING = [V.CANCEL, *(verb for verb in ASKED if SESSION_VERBS[verb].is_deferred)]
LASTING = [V.LEASE_GRANT, V.LEASE_RENEW, V.LEASE_REVOKE, V.SWAP, V.WATCH, V.UNWATCH, V.QUEUE_PUSH]

names = st.sampled_from([b"", b"a", b"ab", b"b", b"peers", b"keys/a"])
FIELDS: dict[Field, st.SearchStrategy[Any]] = {
    Field.U8: st.integers(0, 2),
    Field.U32: st.integers(0, 3),
    Field.I64: st.sampled_from([0, 1, 2, -1, 3, 1000, -(1 << 63), (1 << 63) - 1]),
    Field.KEY: names,
    Field.VALUE: st.sampled_from([b"", b"1", b"text", bytes(2000)]),
    Field.KEYS: st.lists(names, max_size=3),
    Field.PAIRS: st.lists(st.tuples(names, st.sampled_from([b"", b"7"])), max_size=3),
}


@st.composite
def asking(draw: st.DrawFn, verbs: Sequence[SessionVerb] = ASKED) -> tuple[str, int, tuple[Any, ...]]:
    verb = draw(st.sampled_from(verbs))
    fields = tuple(draw(FIELDS[field]) for field in SESSION_VERBS[verb].request)
    return "ask", draw(st.integers(0, 2)), (verb, *fields)


happenings = st.one_of(
    asking(),
    asking(),
    asking(WAITING),
    asking(LASTING),
    st.tuples(st.sampled_from(["drop", "resume", "repeat", "bye"]), st.integers(0, 2), st.just(())),
    st.tuples(st.just("wait"), st.just(0), st.tuples(st.sampled_from([0.5, 3.0, 20.0]))),
)


class Peer:
    def __init__(self) -> None:
        self.number = 0
        self.session = b""
        self.last_id = 0
        self.asked: dict[int, tuple[SessionVerb, bytes]] = {}
        self.answers: dict[int, bytes] = {}


class World:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.engine = Engine(limits, seed=bytes(32), journal=True)
        self.now = 0.0
        self.count = 0
        self.peers = [Peer() for _ in range(3)]
        self.by_number: dict[int, Peer] = {}
        self.unread: dict[int, bytes] = {}

    def step(self, event: Event) -> None:
        paused = []
        for effect in self.engine.step(event, self.now):
            if isinstance(effect, Reply):
                self.unread[effect.peer] = self.unread.get(effect.peer, b"") + effect.data
            elif isinstance(effect, Close):
                self.hear(effect.peer)
                self.by_number.pop(effect.peer).number = 0
            elif isinstance(effect, Pause):
                paused.append(effect.peer)
        for number in list(self.unread):
            self.hear(number)
        for number in paused:
            self.step(Resumed(number))

    def hear(self, number: int) -> None:
        """Take what a peer was sent: whole frames that answer what it has asked, each once for each asking."""
        data = self.unread.pop(number, b"")
        peer = self.by_number[number]
        while data:
            end = 4 + int.from_bytes(data[:4], "little")
            assert end <= len(data)
            status, request_id = decode_reply_head(data, 0)
            verb = V.HELLO if request_id == CLOSING_ID else peer.asked[request_id][0]
            fields = decode_reply(Status(status), verb, data, REPLY_HEAD_SIZE, end)
            if request_id == CLOSING_ID and status == Status.OK:
                if not fields[1]:
                    peer.asked.clear()
                    peer.answers.clear()
                peer.session = fields[0]
            elif status != Status.EVENT and SESSION_VERBS[verb].is_write and fields[:1] != (b"too_many_pending",):
                assert peer.answers.setdefault(request_id, data[:end]) == data[:end], "a write is answered alike always"
            data = data[end:]

    def connect(self, peer: Peer) -> None:
        self.count += 1
        peer.number = self.count
        self.by_number[peer.number] = peer
        self.step(Connected(peer.number))
        hello = encode_request(V.HELLO, CLOSING_ID, 0, 1, peer.session, b"", b"label", bytes(NONCE_SIZE), 5000)
        self.step(Received(peer.number, OPENING + hello))

    def drop(self, peer: Peer) -> None:
        if peer.number:
            del self.by_number[peer.number]
            number, peer.number = peer.number, 0
            self.step(Disconnected(number))

    def ask(self, peer: Peer, verb: SessionVerb, *fields: Any) -> None:
        if not peer.number:
            self.connect(peer)
        request_id = CLOSING_ID
        if verb in UNNUMBERED:
            fields = (peer.last_id - max(-1, min(fields[0], 3)),)  # one of the latest
        else:
            request_id = peer.last_id = peer.last_id + 1
        frame = encode_request(verb, request_id, max(0, request_id - 6), *fields)
        if request_id != CLOSING_ID:
            peer.asked[request_id] = (verb, frame)
        self.step(Received(peer.number, frame))

    def repeat(self, peer: Peer) -> None:
        """Come back, and send again the latest requests."""
        self.drop(peer)
        self.connect(peer)
        for request_id, (_, frame) in sorted(peer.asked.items()):
            if request_id > peer.last_id - 5 and peer.number:
                self.step(Received(peer.number, frame))

    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while (deadline := self.engine.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.step(Ticked())
        self.now = end

    def play(self, what: str, which: int, arguments: tuple[Any, ...]) -> None:
        peer = self.peers[which]
        if what == "ask":
            self.ask(peer, *arguments)
        elif what == "drop":
            self.drop(peer)
        elif what == "resume":
            self.drop(peer)
            self.connect(peer)
        elif what == "repeat":
            self.repeat(peer)
        elif what == "wait":
            self.wait(*arguments)
        else:
            self.ask(peer, V.BYE)
            self.drop(peer)


limits = st.sampled_from(
    [
        Limits(),
        Limits(output_size_max=100),
        Limits(session_answers_max=2, session_waits_max=2, waited_names_max=2),
        Limits(leases_max=1, watches_max=1, groups_max=1, watch_events_max=1, stored_size_max=3000),
    ]
)


@settings(max_examples=250, deadline=None)
@given(limits, st.lists(happenings, max_size=40))
def test_nothing_breaks_and_nothing_stays_behind(bounds: Limits, played: list[Any]) -> None:
    world = World(bounds)
    state = State()
    for one in played:
        world.play(*one)
        apply(state, world.engine.take_changes())
        assert {key: was.value for key, was in state.keys.items()} == {
            key: world.engine.ground.keyspace.get(key) for key in world.engine.ground.keyspace.keys_with(b"")
        }
    another = Engine(bounds, seed=bytes(32), journal=True)
    another.restore(state, 0.0)
    assert another.statistics().keys == world.engine.statistics().keys
    assert another.statistics().stored_size == world.engine.statistics().stored_size
    for peer in world.peers:
        world.drop(peer)
    world.wait(100.0)
    apply(state, world.engine.take_changes())
    statistics = world.engine.statistics()
    assert (statistics.sessions, statistics.waiting, statistics.answers_size) == (0, 0, 0)
    assert (statistics.connections, statistics.input_held) == (0, 0)
    assert state.sessions == {}
    parts = world.engine.parts
    assert len(parts.watches.watches) == 0
    assert all(ttl for ttl in (lease.ttl_ms for lease in state.leases.values())), "leases of sessions end with them"
    assert parts.verbs._waiting == {}
    assert world.engine.ground.waiters._calls == {}
