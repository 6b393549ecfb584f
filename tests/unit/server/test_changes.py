from __future__ import annotations

from rallypoint.server.changes import (
    Answer,
    AnswerKept,
    AnswersForgotten,
    Appended,
    GroupForgotten,
    GroupMet,
    GroupState,
    KeyDeleted,
    KeySet,
    KeyState,
    LeaseEnded,
    LeaseGranted,
    LeaseState,
    Member,
    Popped,
    Pushed,
    SessionEnded,
    SessionMade,
    State,
    apply,
)

S = bytes(16)


def applied(*changes):
    state = State()
    apply(state, changes)
    return state


def test_keys_have_their_last_value_and_keep_their_age():
    state = applied(KeySet(b"a", b"1", 1), KeySet(b"b", b"2", 2, 7), Appended(b"b", b"3", 3), KeySet(b"a", b"4", 4))
    assert list(state.keys.items()) == [(b"a", KeyState(b"4", 4, 0)), (b"b", KeyState(b"23", 3, 7))]
    assert state.revision == 4


def test_a_deletion_counts_as_a_revision():
    state = applied(KeySet(b"a", b"1", 1), KeyDeleted(b"a", 2))
    assert (state.keys, state.revision) == ({}, 2)


def test_queues_give_their_oldest_and_are_gone_when_empty():
    assert applied(Pushed(b"q", b"1"), Pushed(b"q", b"2"), Popped(b"q")).queues == {b"q": [b"2"]}
    assert applied(Pushed(b"q", b"1"), Popped(b"q")).queues == {}


def test_the_last_lease_is_remembered_when_it_has_ended():
    assert applied(LeaseGranted(5, 100, S)).leases == {5: LeaseState(100, S)}
    state = applied(LeaseGranted(5, 100, S), LeaseEnded(5))
    assert (state.leases, state.lease_last) == ({}, 5)


def test_answers_are_kept_until_they_are_settled_or_the_session_ends():
    kept = (SessionMade(S, b"w", b"", 9), AnswerKept(S, 1, None), AnswerKept(S, 2, Answer(b"x")))
    assert applied(*kept).sessions[S].answers == {1: None, 2: Answer(b"x")}
    session = applied(*kept, AnswersForgotten(S, 2)).sessions[S]
    assert (session.done, session.answers) == (2, {2: Answer(b"x")})
    assert applied(*kept, SessionEnded(S)).sessions == {}


def test_groups_have_their_last_generation():
    members = (Member(0, S, b"w"),)
    state = applied(GroupMet(46, b"g", 1, ()), GroupMet(46, b"g", 2, members), GroupMet(47, b"g", 1, ()))
    assert state.groups == {(46, b"g"): GroupState(2, members), (47, b"g"): GroupState(1, ())}
    assert applied(GroupMet(46, b"g", 1, ()), GroupForgotten(46, b"g")).groups == {}
