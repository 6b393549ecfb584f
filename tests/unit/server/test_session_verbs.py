from __future__ import annotations

from typing import Any

import pytest

from rallypoint.protocol.codec import Request, RequestError
from rallypoint.protocol.session.auth import Hello
from rallypoint.protocol.session.codec import decode_reply_head, encode_empty, encode_refusal
from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.ground import Ground
from rallypoint.server.ids import Ids
from rallypoint.server.limits import Limits
from rallypoint.server.session_verbs import SessionVerbs, VerbHandler
from rallypoint.server.sessions import Pending, Session, Sessions
from rallypoint.server.vocabulary import Reply


class Fixture:
    """The machine with verbs of the test's own: SET counts, QUEUE_POP waits, BARRIER counts and waits."""

    def __init__(self, forbids: Any = None, **limits: int) -> None:
        self.ground = Ground(Limits(**limits))
        self.sessions = Sessions(self.ground.limits, Ids(bytes(32)), self.ground.note)
        self.verbs = SessionVerbs(self.ground, self.sessions, forbids)
        self.applied: list[int] = []
        self.dropped: list[int] = []
        self.verbs.register(SessionVerb.SET, VerbHandler(self.set))
        self.verbs.register(SessionVerb.QUEUE_POP, VerbHandler(self.wait, self.cancel, self.drop))
        self.verbs.register(SessionVerb.MEET, VerbHandler(self.wait, self.cancel, self.drop, stays=True))
        self.session = self.make(1)

    def make(self, peer: int) -> Session:
        session = self.sessions.make(Hello(b"", b"", b"", b"", 5000), b"", 0.0)
        self.sessions.attach(session, peer, b"")
        return session

    def take(self, verb: SessionVerb, request_id: int, *fields: object, done: int = 0) -> list[tuple[int, int]]:
        self.ground.effects = []
        self.verbs.take(self.session, (request_id, done, (verb, *fields)))
        return self.answered()

    def answered(self) -> list[tuple[int, int]]:
        return [decode_reply_head(effect.data, 0) for effect in self.ground.effects if isinstance(effect, Reply)]

    def set(self, session: Session, request_id: int, request: Request) -> None:
        if request[1:] == (b"refused",):
            raise RequestError(CloseReason.STORE_FULL, "full")
        self.applied.append(request_id)
        self.verbs.answer_empty(session, request_id, request)

    def wait(self, session: Session, request_id: int, request: Request) -> None:
        self.applied.append(request_id)
        session.pending[request_id] = Pending(request, 0.0)

    def cancel(self, session: Session, request_id: int, pending: Pending) -> None:
        assert request_id not in session.pending
        self.verbs.refuse(session, request_id, pending.request[0], CloseReason.ENDED, "cancelled")

    def drop(self, session: Session, request_id: int, pending: Pending) -> None:
        assert request_id not in session.pending
        self.dropped.append(request_id)


def test_a_write_is_applied_once_and_answered_as_often_as_asked() -> None:
    fixture = Fixture()
    for _ in range(3):
        assert fixture.take(SessionVerb.SET, 1) == [(Status.OK, 1)]
    assert fixture.applied == [1]
    assert fixture.take(SessionVerb.SET, 2, done=2) == [(Status.OK, 2)]
    assert fixture.take(SessionVerb.SET, 1) == []
    assert fixture.applied == [1, 2]


def test_a_refusal_is_an_answer_too() -> None:
    fixture = Fixture()
    assert fixture.take(SessionVerb.SET, 1, b"refused") == [(Status.REFUSED, 1)]
    assert fixture.take(SessionVerb.SET, 1, b"now it would do") == [(Status.REFUSED, 1)]
    assert fixture.ground.effects == [Reply(1, encode_refusal(1, CloseReason.STORE_FULL, "full"))]


def test_what_is_refused_for_lack_of_room_may_be_asked_again() -> None:
    fixture = Fixture(session_answers_max=1)
    fixture.take(SessionVerb.SET, 1)
    assert fixture.take(SessionVerb.SET, 2) == [(Status.REFUSED, 2)]
    assert fixture.take(SessionVerb.SET, 2, done=2) == [(Status.OK, 2)]


def test_what_may_not_be_done_is_refused() -> None:
    fixture = Fixture(lambda identity, request: f"{identity!r} may not {request[0]}")
    assert fixture.take(SessionVerb.SET, 1) == [(Status.REFUSED, 1)]
    sentence = f"b'' may not {SessionVerb.SET}"
    assert fixture.ground.effects == [Reply(1, encode_refusal(1, CloseReason.FORBIDDEN, sentence))]
    assert fixture.applied == []


def test_a_verb_that_nobody_serves_is_refused() -> None:
    fixture = Fixture()
    assert fixture.take(SessionVerb.STATUS, 1, b"") == [(Status.REFUSED, 1)]
    sentence = "this server does not know STATUS"
    assert fixture.ground.effects == [Reply(1, encode_refusal(1, CloseReason.UNKNOWN_VERB, sentence))]


def test_a_request_that_waits_is_neither_applied_nor_answered_again() -> None:
    fixture = Fixture()
    assert fixture.take(SessionVerb.QUEUE_POP, 1) == []
    assert fixture.take(SessionVerb.QUEUE_POP, 1) == []
    assert fixture.applied == [1]


def test_a_cancelled_request_is_answered_once() -> None:
    fixture = Fixture()
    fixture.take(SessionVerb.QUEUE_POP, 1)
    assert fixture.take(SessionVerb.CANCEL, 0, 1) == [(Status.REFUSED, 1)]
    assert fixture.take(SessionVerb.CANCEL, 0, 1) == []
    assert fixture.take(SessionVerb.QUEUE_POP, 1) == [(Status.REFUSED, 1)]


def test_what_has_counted_outlives_the_connection_but_not_the_session() -> None:
    fixture = Fixture()
    told: list[str] = []
    fixture.verbs.on_detach.append(lambda session: told.append("detached"))
    fixture.verbs.on_resume.append(lambda session: told.append("resumed"))
    fixture.verbs.on_end.append(lambda session: told.append(f"ended {len(session.pending)}"))
    fixture.take(SessionVerb.QUEUE_POP, 1)
    fixture.take(SessionVerb.MEET, 2)
    fixture.verbs.resume(fixture.session)
    fixture.verbs.detach(fixture.session)
    assert (fixture.dropped, list(fixture.session.pending)) == ([1], [2])
    assert fixture.sessions.next_end() == 5.0
    fixture.verbs.end(fixture.session)
    assert fixture.dropped == [1, 2]
    assert told == ["resumed", "detached", "ended 0"]
    assert len(fixture.sessions) == 0


def test_an_answer_without_a_connection_is_kept() -> None:
    fixture = Fixture()
    fixture.take(SessionVerb.MEET, 2)
    fixture.verbs.detach(fixture.session)
    fixture.ground.effects = []
    del fixture.session.pending[2]
    fixture.verbs.answer_empty(fixture.session, 2, (SessionVerb.MEET,))
    assert fixture.ground.effects == []
    fixture.sessions.attach(fixture.session, 9, b"")
    assert fixture.take(SessionVerb.MEET, 2) == [(Status.OK, 2)]
    assert fixture.ground.effects == [Reply(9, encode_empty(2))]


def test_what_is_sent_is_counted_and_large_bodies_are_not_copied() -> None:
    fixture = Fixture()
    body = bytes(5000)
    fixture.verbs.produced = 0
    fixture.verbs.answer(fixture.session, 1, SessionVerb.GET, b"head", body)
    fixture.verbs.answer(fixture.session, 2, SessionVerb.GET, b"head", b"body")
    assert fixture.verbs.produced == 5012
    assert fixture.ground.effects == [Reply(1, b"head"), Reply(1, body), Reply(1, b"headbody")]
    assert fixture.ground.effects[1].data is body


def test_a_reply_in_pieces_is_one_frame() -> None:
    fixture = Fixture()
    fixture.verbs.answer_pieces(fixture.session, 7, [b"ab", bytes(2000), b"c", b"d"])
    data = b"".join(effect.data for effect in fixture.ground.effects if isinstance(effect, Reply))
    assert data[13:] == b"ab" + bytes(2000) + b"cd"
    assert int.from_bytes(data[:4], "little") == len(data) - 4


def test_a_reply_over_its_limit_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rallypoint.server.session_verbs.REPLY_FRAME_SIZE_MAX", 10)
    fixture = Fixture()
    with pytest.raises(RequestError, match="11 bytes long, the limit is 10") as refusal:
        fixture.verbs.answer_pieces(fixture.session, 7, [b"", bytes(11)])
    assert refusal.value.reason is CloseReason.REPLY_TOO_LARGE
