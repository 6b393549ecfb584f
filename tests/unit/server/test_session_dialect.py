from __future__ import annotations

from typing import Any

import pytest
from tests.support.engine_sessions import Bench

from rallypoint.protocol.codec import encode_request as encode_c10d
from rallypoint.protocol.session.auth import Hello, Token, Welcome
from rallypoint.protocol.session.codec import REPLY_HEAD_SIZE, decode_reply, decode_reply_head, encode_request
from rallypoint.protocol.session.spec import (
    CLOSING_ID,
    HELLO_SIZE_MAX,
    LABEL_SIZE_MAX,
    NONCE_SIZE,
    OPENING,
    SESSION_ID_SIZE,
    SessionVerb,
    Status,
)
from rallypoint.protocol.spec import MAGIC, CloseReason, Verb
from rallypoint.server.access import Gate, Rule
from rallypoint.server.engine import Engine
from rallypoint.server.limits import Limits
from rallypoint.server.vocabulary import Close, Connected, Disconnected, Effect, Origin, Received, Reply, Ticked

V = SessionVerb
NONCE = b"n" * NONCE_SIZE
PING = encode_request(V.PING, 1, 0, 7)


def hello(session: bytes = b"", **changed: Any) -> bytes:
    fields = {"version": 1, "session": session, "identity": b"", "label": b"me", "nonce": NONCE, "timeout_ms": 5000}
    return encode_request(V.HELLO, CLOSING_ID, 0, *(fields | changed).values())


def frames(effects: list[Effect], peer: int = 1, verb: SessionVerb = V.PING) -> list[tuple[Status, Any]]:
    """Give what a peer is sent, its frames being small."""
    data = b"".join(effect.data for effect in effects if isinstance(effect, Reply) and effect.peer == peer)
    found = []
    while data:
        end = 4 + int.from_bytes(data[:4], "little")
        status, request_id = decode_reply_head(data, 0)
        asked = V.HELLO if request_id == CLOSING_ID else verb
        found.append((Status(status), decode_reply(Status(status), asked, data, REPLY_HEAD_SIZE, end)))
        data = data[end:]
    return found


def closes(effects: list[Effect]) -> list[tuple[int, CloseReason]]:
    return [(effect.peer, effect.reason) for effect in effects if isinstance(effect, Close)]


class Talker:
    """One engine, and peers that say bytes."""

    def __init__(self, *, gate: Gate | None = None, **limits: float) -> None:
        self.engine = Engine(Limits(**limits), seed=b"s" * 32, gate=gate)
        self.now = 0.0

    def say(self, peer: int, *data: bytes) -> list[Effect]:
        return [effect for each in data for effect in self.engine.step(Received(peer, each), self.now)]

    def connect(self, peer: int, *data: bytes, origin: Origin | None = None) -> list[Effect]:
        effects = self.engine.step(Connected(peer, "there", origin or Origin()), self.now)
        return effects + self.say(peer, *data)


def test_a_new_session_is_welcomed() -> None:
    talker = Talker()
    effects = talker.connect(1, OPENING + hello())
    ((status, fields),) = frames(effects)
    session, is_resumed, data_id, life_id, proof, timeout_ms, revision = fields
    assert status is Status.OK
    assert [len(each) for each in (session, data_id, life_id, proof)] == [SESSION_ID_SIZE] * 3 + [0]
    assert (is_resumed, timeout_ms, revision) == (0, 5000, 0)
    assert (talker.engine.statistics().sessions, talker.engine.statistics().validated) == (1, 1)
    assert talker.engine.next_deadline() is None
    assert frames(talker.say(1, PING)) == [(Status.OK, (7,))]


def test_the_welcome_tells_the_revision_and_the_time_that_is_granted() -> None:
    talker = Talker(session_timeout_s_max=2.5)
    talker.connect(9, encode_c10d(Verb.VALIDATE, MAGIC), encode_c10d(Verb.SET, b"/k", b""))
    ((_, fields),) = frames(talker.connect(1, OPENING, hello()))
    assert fields[5:] == (2500, 1)


@pytest.mark.parametrize("cut", [1, 7])
def test_the_opening_may_come_in_pieces(cut: int) -> None:
    data = OPENING + hello() + PING
    effects = Talker().connect(1, *(data[start : start + cut] for start in range(0, len(data), cut)))
    assert len([effect for effect in effects if isinstance(effect, Reply)]) == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"RPS2", CloseReason.BAD_HANDSHAKE),
        (OPENING + PING, CloseReason.BAD_HANDSHAKE),
        (OPENING + encode_request(V.PROVE, 0, 0, b""), CloseReason.BAD_HANDSHAKE),
        (OPENING + hello() + hello(), CloseReason.BAD_HANDSHAKE),
        (OPENING + hello() + encode_request(V.PROVE, 0, 0, b""), CloseReason.BAD_HANDSHAKE),
        (OPENING + hello(version=2), CloseReason.UNKNOWN_VERSION),
        (OPENING + hello(session=b"short"), CloseReason.BAD_ARGUMENT),
        (OPENING + hello(nonce=b""), CloseReason.BAD_ARGUMENT),
        (OPENING + hello(timeout_ms=-1), CloseReason.BAD_ARGUMENT),
        (OPENING + hello(label=bytes(LABEL_SIZE_MAX + 1)), CloseReason.BAD_ARGUMENT),
        (OPENING + hello(identity=bytes(LABEL_SIZE_MAX + 1)), CloseReason.BAD_ARGUMENT),
        (OPENING + (HELLO_SIZE_MAX + 1).to_bytes(4, "little"), CloseReason.REQUEST_TOO_LARGE),
        (OPENING + hello() + PING + PING, CloseReason.BAD_FRAME),
        (OPENING + hello() + b"\x05\0\0\0", CloseReason.BAD_FRAME),
        (OPENING + hello() + b"\x11\0\0\0" + b"\xff" * 17, CloseReason.UNKNOWN_VERB),
    ],
)
def test_what_is_no_conversation_ends_with_a_reason(data: bytes, reason: CloseReason) -> None:
    talker = Talker()
    effects = talker.connect(1, data)
    assert closes(effects) == [(1, reason)]
    status, (code, sentence) = frames(effects)[-1]
    assert (status, code) == (Status.CLOSING, reason.value.encode())
    assert effects[-1].detail.encode() == sentence
    assert talker.engine.statistics().connections == 0


def test_a_hello_that_does_not_come_closes() -> None:
    talker = Talker(handshake_timeout_s=5.0)
    talker.connect(1, OPENING)
    effects = talker.engine.step(Ticked(), 5.0)
    assert closes(effects) == [(1, CloseReason.HANDSHAKE_TIMEOUT)]
    assert "HELLO did not come within 5 s" in effects[-1].detail


# --- sessions over connections ---------------------------------------------------------------------------


def session_of(effects: list[Effect], peer: int = 1) -> tuple[bytes, int]:
    fields = frames(effects, peer)[0][1]
    return fields[0], fields[1]


def test_a_session_is_resumed_by_its_id() -> None:
    talker = Talker()
    session, _ = session_of(talker.connect(1, OPENING, hello()))
    talker.engine.step(Disconnected(1), 0.0)
    assert session_of(talker.connect(2, OPENING, hello(session)), 2) == (session, 1)


def test_a_session_has_one_connection_the_last() -> None:
    talker = Talker()
    session, _ = session_of(talker.connect(1, OPENING, hello()))
    effects = talker.connect(2, OPENING, hello(session))
    assert closes(effects) == [(1, CloseReason.TAKEN_OVER)]
    assert frames(effects, 1)[0][1][0] == b"taken_over"
    assert session_of(effects, 2) == (session, 1)
    assert talker.engine.step(Disconnected(1), 0.0) == []
    assert talker.engine.next_deadline() is None


def test_an_unknown_session_gets_a_new_one_and_is_told_so() -> None:
    talker = Talker()
    session, is_resumed = session_of(talker.connect(1, OPENING, hello(b"x" * SESSION_ID_SIZE)))
    assert (session != b"x" * SESSION_ID_SIZE, is_resumed) == (True, 0)


def test_a_session_that_nobody_comes_back_to_ends() -> None:
    talker = Talker()
    session, _ = session_of(talker.connect(1, OPENING, hello()))
    talker.now = 1.0
    talker.engine.step(Disconnected(1), 1.0)
    assert talker.engine.next_deadline() == 6.0
    talker.engine.step(Ticked(), 6.0)
    assert talker.engine.statistics().sessions == 0
    assert session_of(talker.connect(2, OPENING, hello(session)), 2)[1] == 0


def test_a_frame_error_does_not_end_the_session() -> None:
    talker = Talker()
    session, _ = session_of(talker.connect(1, OPENING, hello()))
    talker.say(1, b"\xff" * 30)
    assert session_of(talker.connect(2, OPENING, hello(session)), 2) == (session, 1)


def test_bye_ends_the_session_and_the_connection_may_begin_anew() -> None:
    talker = Talker(handshake_timeout_s=5.0)
    session, _ = session_of(talker.connect(1, OPENING, hello()))
    assert frames(talker.say(1, encode_request(V.BYE, 1, 0)), verb=V.BYE) == [(Status.OK, ())]
    assert talker.engine.statistics().sessions == 0
    assert talker.engine.next_deadline() == 5.0
    other, is_resumed = session_of(talker.say(1, hello(session)))
    assert (other != session, is_resumed) == (True, 0)
    assert talker.engine.next_deadline() is None


def test_sessions_are_bounded() -> None:
    talker = Talker(sessions_max=1)
    talker.connect(1, OPENING, hello())
    assert closes(talker.connect(2, OPENING, hello())) == [(2, CloseReason.TOO_MANY_SESSIONS)]


def test_much_output_pauses_and_nothing_is_lost() -> None:
    bench = Bench(output_size_max=100)
    client = bench.client()
    client.ask(V.SET, b"/k", bytes(80))
    got = [client.send(V.GET, b"/k") for _ in range(3)]
    frame = b"".join(client.frame(V.GET, b"/k")[1] for _ in range(4))
    bench.step(Received(client.peer, frame))
    assert client.is_paused
    while client.is_paused:
        client.resumed()
    assert [answered for _, answered, _ in client.read()] == [*got, *range(got[-1] + 1, client.last_id + 1)]


# --- proofs and rules ------------------------------------------------------------------------------------

TOKEN = Token("0123456789abcdef0123456789abcdef")
GREETING = Hello(b"", b"", b"me", NONCE, 5000)


def challenged(talker: Talker) -> bytes:
    ((status, (nonce,)),) = frames(talker.connect(1, OPENING, hello()))
    assert (status, len(nonce)) == (Status.CHALLENGE, NONCE_SIZE)
    return nonce


def test_both_prove_that_they_hold_the_token() -> None:
    talker = Talker(gate=Gate({"": TOKEN}))
    nonce = challenged(talker)
    effects = talker.say(1, encode_request(V.PROVE, CLOSING_ID, 0, TOKEN.client_proof(GREETING, nonce)))
    ((status, (session, is_resumed, data_id, life_id, proof, timeout_ms, revision)),) = frames(effects)
    assert status is Status.OK
    welcome = Welcome(session, is_resumed, data_id, life_id, timeout_ms, revision)
    assert TOKEN.is_server_proof(proof, GREETING, nonce, welcome)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encode_request(V.PROVE, CLOSING_ID, 0, bytes(32)), CloseReason.AUTHENTICATION_FAILED),
        (encode_request(V.PROVE, CLOSING_ID, 0, b""), CloseReason.AUTHENTICATION_FAILED),
        (PING, CloseReason.BAD_HANDSHAKE),
        (hello(), CloseReason.BAD_HANDSHAKE),
    ],
)
def test_without_a_proof_nothing_goes(data: bytes, reason: CloseReason) -> None:
    talker = Talker(gate=Gate({"": TOKEN}))
    challenged(talker)
    assert closes(talker.say(1, data)) == [(1, reason)]
    assert talker.engine.statistics().sessions == 0


def test_a_proof_serves_one_connection() -> None:
    talker = Talker(gate=Gate({"": TOKEN}))
    proof = TOKEN.client_proof(GREETING, challenged(talker))
    talker.connect(2, OPENING, hello())
    assert closes(talker.say(2, encode_request(V.PROVE, CLOSING_ID, 0, proof))) == [
        (2, CloseReason.AUTHENTICATION_FAILED)
    ]


def test_a_dialect_that_cannot_prove_stays_out_but_for_a_guarded_socket() -> None:
    talker = Talker(gate=Gate({"": TOKEN}))
    validate = encode_c10d(Verb.VALIDATE, MAGIC)
    assert closes(talker.connect(1, validate, origin=Origin("10.0.0.1"))) == [(1, CloseReason.AUTHENTICATION_REQUIRED)]
    assert talker.connect(2, validate, origin=Origin(is_local=True)) == []


def test_an_identity_is_refused_what_its_rule_does_not_allow() -> None:
    talker = Talker(gate=Gate(rules={"*": Rule(read=("a/",), write=())}))
    talker.connect(1, OPENING, hello())
    effects = talker.say(1, encode_request(V.SET, 1, 0, b"/a/k", b""), encode_request(V.CHECK, 2, 0, [b"/a/k"]))
    (refused, (code, _)), (answered, _) = frames(effects, verb=V.CHECK)
    assert (refused, code, answered) == (Status.REFUSED, b"forbidden", Status.OK)
    assert talker.engine.statistics().keys == 0
