from __future__ import annotations

from rallypoint.server.batch import Batch
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
    Popped,
    Pushed,
    SessionEnded,
    SessionMade,
)

S = bytes(16)


def batch_of(changes):
    batch = Batch()
    for change in changes:
        batch.add([change])
    assert batch.count == len(changes)
    return batch


def test_a_key_that_changed_often_is_written_once():
    batch = batch_of([KeySet(b"a", b"%d" % number, number) for number in range(1, 100)])
    assert batch.keys == {b"a": KeyState(b"99", 99)}
    assert batch.revision == 99


def test_a_key_that_was_deleted_and_came_back_is_younger_than_one_that_came_before():
    batch = batch_of([KeySet(b"a", b"", 1), KeySet(b"b", b"", 2), KeyDeleted(b"a", 3), KeySet(b"a", b"", 4)])
    assert list(batch.keys) == [b"b", b"a"]
    assert batch.keys_gone == {b"a"}


def test_tails_go_behind_what_this_batch_has_set_or_what_was_there():
    batch = batch_of(
        [Appended(b"a", b"1", 1), Appended(b"a", b"2", 2), KeySet(b"b", b"3", 3, 7), Appended(b"b", b"4", 4)]
    )
    assert batch.tails == {b"a": ([b"1", b"2"], 2), b"b": ([b"4"], 4)}
    assert batch.keys == {b"b": KeyState(b"3", 3, 7)}


def test_a_tail_is_void_when_its_key_is_set_or_deleted():
    assert batch_of([Appended(b"a", b"1", 1), KeySet(b"a", b"2", 2)]).tails == {}
    assert batch_of([Appended(b"a", b"1", 1), KeyDeleted(b"a", 2)]).tails == {}


def test_pops_are_counted():
    batch = batch_of([Popped(b"q"), Pushed(b"q", b"1"), Popped(b"q"), Popped(b"r")])
    assert (batch.pushed, batch.popped) == ([(b"q", b"1")], {b"q": 2, b"r": 1})


def test_what_came_and_went_is_not_written():
    batch = batch_of(
        [
            LeaseGranted(3, 9, S),
            LeaseEnded(3),
            SessionMade(S, b"", b"", 9),
            AnswerKept(S, 1, None),
            AnswersForgotten(S, 1),
            SessionEnded(S),
        ]
    )
    assert not any((batch.leases, batch.leases_gone, batch.sessions, batch.sessions_gone, batch.answers, batch.done))
    assert batch.lease_last == 3


def test_what_was_there_before_is_removed():
    batch = batch_of([LeaseEnded(3), SessionEnded(S), GroupForgotten(46, b"g"), GroupMet(46, b"g", 1, ())])
    assert (batch.leases_gone, batch.sessions_gone, batch.groups_gone) == ({3}, {S}, {(46, b"g")})
    assert batch.groups == {(46, b"g"): GroupState(1, ())}


def test_settled_answers_are_not_written():
    batch = batch_of(
        [AnswerKept(S, 1, None), AnswerKept(S, 1, Answer(b"x")), AnswerKept(S, 2, None), AnswersForgotten(S, 2)]
    )
    assert batch.answers == [(S, 2, None)]
    assert batch.done == {S: 2}
