from __future__ import annotations

import pytest

from rallypoint.protocol.codec import RequestError
from rallypoint.protocol.session.auth import Hello
from rallypoint.protocol.session.spec import SESSION_ID_SIZE
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.changes import (
    Answer,
    AnswerKept,
    AnswersForgotten,
    Change,
    SessionEnded,
    SessionMade,
    State,
    apply,
)
from rallypoint.server.ids import Ids
from rallypoint.server.limits import SESSION_RESTART_GRACE_S, Limits
from rallypoint.server.sessions import ANSWER_SIZE, Meaning, Pending, Session, Sessions

DONE = Answer(b"head", b"body")


class Fixture:
    def __init__(self, **limits: float) -> None:
        self.changes: list[Change] = []
        self.sessions = Sessions(Limits(**limits), Ids(bytes(32)), self.changes.append)

    def make(self, timeout_ms: int = 5000, now: float = 0.0, identity: bytes = b"") -> Session:
        session = self.sessions.make(Hello(b"", identity, b"label", b"", timeout_ms), identity, now)
        self.sessions.attach(session, 1, b"label")
        return session

    def take(self, session: Session, request_id: int, done: int = 0, *, is_write: bool = True) -> Meaning:
        return self.sessions.take(session, request_id, done, is_write=is_write)


def test_a_session_belongs_to_its_id_and_its_identity() -> None:
    fixture = Fixture()
    session = fixture.make(identity=b"me")
    assert len(session.session_id) == SESSION_ID_SIZE
    assert fixture.sessions.find(session.session_id, b"me") is session
    assert fixture.sessions.find(session.session_id, b"you") is None
    assert fixture.sessions.find(b"", b"me") is None
    assert fixture.sessions.numbered(session.number) is session
    assert list(fixture.sessions) == [session]


def test_numbers_rise_and_ids_differ() -> None:
    fixture = Fixture()
    made = [fixture.make() for _ in range(5)]
    assert [session.number for session in made] == [1, 2, 3, 4, 5]
    assert len({session.session_id for session in made}) == 5
    fixture.sessions.end(made[-1])
    assert fixture.sessions.newest == 5
    assert fixture.make().number == 6


def test_there_is_an_end_to_sessions() -> None:
    fixture = Fixture(sessions_max=2)
    first = fixture.make()
    fixture.make()
    with pytest.raises(RequestError, match="there are 2 sessions, the limit is 2") as refusal:
        fixture.make()
    assert refusal.value.reason is CloseReason.TOO_MANY_SESSIONS
    fixture.sessions.end(first)
    fixture.make()


def test_the_time_to_outlive_a_connection_is_bounded() -> None:
    assert Fixture(session_timeout_s_max=3.0).make(timeout_ms=5000).timeout_s == 3.0
    assert Fixture().make(timeout_ms=0).timeout_s == 0.0


def test_a_session_ends_only_without_a_connection() -> None:
    fixture = Fixture()
    session = fixture.make(5000)
    assert fixture.sessions.next_end() is None
    fixture.sessions.detach(session, 10.0)
    assert fixture.sessions.next_end() == 15.0
    fixture.sessions.attach(session, 2, b"label")
    assert fixture.sessions.next_end() is None
    fixture.sessions.detach(session, 12.0)
    fixture.sessions.detach(session, 12.0)
    assert list(fixture.sessions.ended(16.9)) == []
    for ended in fixture.sessions.ended(17.0):
        fixture.sessions.end(ended)
    assert len(fixture.sessions) == 0
    assert fixture.sessions.next_end() is None


def test_sessions_end_in_the_order_of_their_times() -> None:
    fixture = Fixture()
    made = [fixture.make(timeout_ms) for timeout_ms in (3000, 1000, 2000)]
    for session in made:
        fixture.sessions.detach(session, 0.0)
    ended = []
    for session in fixture.sessions.ended(2.5):
        ended.append(session)
        fixture.sessions.end(session)
    assert ended == [made[1], made[2]]


def test_a_flapping_connection_leaves_nothing_behind() -> None:
    fixture = Fixture()
    session = fixture.make()
    for moment in range(1000):
        fixture.sessions.detach(session, float(moment))
        fixture.sessions.attach(session, 1, b"label")
    assert len(fixture.sessions._ends) < 200


# --- requests --------------------------------------------------------------------------------------------


def test_a_write_means_what_is_known_of_it() -> None:
    fixture = Fixture()
    session = fixture.make()
    assert fixture.take(session, 1) is Meaning.NEW
    fixture.sessions.keep(session, 1, DONE)
    assert fixture.take(session, 1) is Meaning.ANSWERED
    fixture.sessions.keep(session, 2, None)
    assert fixture.take(session, 2) is Meaning.COUNTED
    session.pending[2] = Pending((), 0.0)
    assert fixture.take(session, 2) is Meaning.PENDING
    del session.pending[2]
    fixture.sessions.keep(session, 2, DONE)
    assert fixture.take(session, 2) is Meaning.ANSWERED
    assert fixture.take(session, 3, done=3) is Meaning.NEW
    assert fixture.take(session, 2) is Meaning.SETTLED
    assert session.answers == {}


def test_a_read_is_always_new_unless_it_waits() -> None:
    fixture = Fixture()
    session = fixture.make()
    assert fixture.take(session, 5, done=9, is_write=False) is Meaning.NEW
    session.pending[5] = Pending((), 0.0)
    assert fixture.take(session, 5, is_write=False) is Meaning.PENDING


def test_settled_answers_are_forgotten_also_those_that_came_late() -> None:
    fixture = Fixture()
    session = fixture.make()
    for request_id in (1, 2, 4, 3, 6):
        fixture.sessions.keep(session, request_id, DONE)
    fixture.take(session, 7, done=4)
    assert fixture.take(session, 3) is Meaning.SETTLED
    fixture.take(session, 8, done=6)
    assert list(session.answers) == [6]
    assert session.answers_size == fixture.sessions.answers_size == ANSWER_SIZE + 8
    fixture.take(session, 9, done=5)
    assert session.done == 6


def test_a_bound_on_waits_and_answers_is_a_refusal() -> None:
    fixture = Fixture(session_waits_max=1, session_answers_max=2)
    session = fixture.make()
    refusal = fixture.sessions.refusal
    assert refusal(session, is_write=True, is_deferred=True) is None
    session.pending[1] = Pending((), 0.0)
    assert "1 requests of the session wait, the limit is 1" in (
        refusal(session, is_write=False, is_deferred=True) or ""
    )
    assert refusal(session, is_write=True, is_deferred=False) is None
    for request_id in (1, 2):
        fixture.sessions.keep(session, request_id, DONE)
    assert "2 answers of the session are kept" in (refusal(session, is_write=True, is_deferred=False) or "")
    assert refusal(session, is_write=False, is_deferred=False) is None


def test_bytes_of_answers_are_bounded_for_one_and_for_all() -> None:
    fixture = Fixture(session_answers_size_max=1000, answers_size_max=1500)
    first, second = fixture.make(), fixture.make()
    fixture.sessions.keep(first, 1, Answer(b"", bytes(900)))
    assert "bytes of the session's answers" in (fixture.sessions.refusal(first, is_write=True, is_deferred=False) or "")
    assert fixture.sessions.refusal(second, is_write=True, is_deferred=False) is None
    fixture.sessions.keep(second, 1, Answer(b"", bytes(600)))
    assert "bytes of all sessions' answers" in (
        fixture.sessions.refusal(second, is_write=True, is_deferred=False) or ""
    )
    fixture.sessions.end(first)
    assert fixture.sessions.refusal(second, is_write=True, is_deferred=False) is None


def test_who_hoards_answers_does_not_have_others_refused() -> None:
    fixture = Fixture(session_answers_size_max=2000, answers_size_max=1500)
    hoarder, honest = fixture.make(), fixture.make()
    fixture.sessions.keep(hoarder, 1, Answer(b"", bytes(1500)))
    assert fixture.sessions.refusal(hoarder, is_write=True, is_deferred=False) is not None
    assert fixture.sessions.refusal(honest, is_write=True, is_deferred=False) is None
    fixture.sessions.keep(honest, 1, Answer(b"", bytes(750 - ANSWER_SIZE)))
    assert fixture.sessions.refusal(honest, is_write=True, is_deferred=False) is not None


def test_a_body_that_many_share_is_charged_in_parts() -> None:
    fixture = Fixture()
    session = fixture.make()
    fixture.sessions.keep(session, 1, Answer(b"", bytes(1000)), sharers=10)
    assert session.answers_size == ANSWER_SIZE + 100


# --- over a restart --------------------------------------------------------------------------------------


def test_the_changes_give_back_the_sessions() -> None:
    fixture = Fixture()
    session, gone = fixture.make(5000, identity=b"me"), fixture.make()
    fixture.sessions.keep(session, 1, DONE)
    fixture.sessions.keep(session, 2, None)
    fixture.sessions.keep(session, 3, DONE)
    fixture.take(session, 4, done=2)
    fixture.sessions.end(gone)
    assert fixture.changes == [
        SessionMade(session.session_id, b"label", b"me", 5000),
        SessionMade(gone.session_id, b"label", b"", 5000),
        AnswerKept(session.session_id, 1, DONE),
        AnswerKept(session.session_id, 2, None),
        AnswerKept(session.session_id, 3, DONE),
        AnswersForgotten(session.session_id, 2),
        SessionEnded(gone.session_id),
    ]
    state = State()
    apply(state, fixture.changes)
    later = Fixture()
    later.sessions.restore(state, 100.0)
    again = later.sessions.find(session.session_id, b"me")
    assert again is not None
    assert (again.label, again.timeout_s, again.done, again.peer) == (b"label", 5.0, 2, None)
    assert again.answers == session.answers
    assert later.sessions.answers_size == fixture.sessions.answers_size
    assert later.sessions.next_end() == 100.0 + SESSION_RESTART_GRACE_S
    assert later.changes == []
