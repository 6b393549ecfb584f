from __future__ import annotations

import pytest

from rallypoint.gateway.waits import CALLED_S, PAUSE_S_MIN, QUEUE_PAUSE_S_MAX, QUEUES_MAX, Spot, Waits

A, B, Q = b"/a", b"/b", b"/q"
MOST_S = 1.0


@pytest.fixture
def waits():
    return Waits(MOST_S)


def look(waits, spot, now=0.0):
    assert spot in waits.due(now)


def test_nobody_waits_at_first(waits):
    assert (len(waits), waits.next_deadline(), waits.due(1e9)) == (0, None, [])


def test_a_wait_is_looked_at_at_once_and_then_after_longer_and_longer_pauses(waits):
    waits.wait(1, (A,), A, 0.0)
    pauses, now = [], 0.0
    for _ in range(14):
        now = waits.next_deadline()
        assert waits.due(now) == [Spot(A)]
        waits.missing(Spot(A), now)
        pauses.append(waits.next_deadline() - now)
    assert pauses[0] == PAUSE_S_MIN
    assert pauses[1] == pytest.approx(2 * PAUSE_S_MIN)
    assert pauses[-1] == pytest.approx(MOST_S)


def test_all_who_wait_for_a_key_are_looked_at_once_and_released_together(waits):
    for call in range(8):
        waits.wait(call, (A,), A, 0.0)
    assert waits.due(0.0) == [Spot(A)]
    assert list(waits.found(A, 0, {}, 0.0)) == list(range(8))
    assert (len(waits), waits.next_deadline()) == (0, None)


def test_nobody_is_looked_at_twice_at_a_time(waits):
    waits.wait(1, (A,), A, 0.0)
    look(waits, Spot(A))
    waits.touch(A, 0.0)
    assert waits.due(0.0) == []
    waits.missing(Spot(A), 0.0)
    look(waits, Spot(A))  # it was touched meanwhile


def test_what_is_touched_is_looked_at_now(waits):
    waits.wait(1, (A,), A, 0.0)
    look(waits, Spot(A))
    waits.missing(Spot(A), 0.0)
    assert waits.due(0.0) == []
    waits.touch(A, 0.0)
    look(waits, Spot(A))


def test_nobody_is_released_by_what_was_seen_before_it_came(waits):
    waits.wait(1, (A,), A, 0.0)
    look(waits, Spot(A))
    waits.wait(2, (A,), A, 0.0)
    assert list(waits.found(A, 0, {}, 0.0)) == [1]
    look(waits, Spot(A))


def test_nobody_is_released_by_what_was_seen_for_one_who_is_gone(waits):
    waits.wait(1, (A,), A, 0.0)
    look(waits, Spot(A))
    assert waits.withdraw(1)
    waits.wait(2, (A,), A, 0.0)
    assert list(waits.found(A, 0, {}, 0.0)) == []
    assert len(waits) == 1


def test_a_wait_for_several_names_goes_from_witness_to_witness(waits):
    waits.wait(1, (A, B), A, 0.0)
    look(waits, Spot(A))
    assert waits.at(Spot(A)) == (False, [(A, B)])
    assert list(waits.found(A, 0, {(A, B): B}, 0.0)) == []
    assert waits.due(0.0) == [Spot(B)]
    assert list(waits.found(B, 0, {(A, B): None}, 0.0)) == [1]
    assert len(waits) == 0


def test_an_item_releases_one_and_is_kept_for_it(waits):
    for call in (1, 2, 3):
        waits.wait(call, (Q,), Q, 0.0)
    look(waits, Spot(Q))
    assert waits.at(Spot(Q))[0]
    assert list(waits.found(Q, 1, {}, 0.0)) == [1]
    waits.touch(Q, 0.0)
    look(waits, Spot(Q))
    assert list(waits.found(Q, 1, {}, 0.0)) == []
    waits.touch(Q, 0.0)
    look(waits, Spot(Q))
    assert list(waits.found(Q, 2, {}, 0.0)) == [2]


def test_a_pop_gives_the_next_item_to_the_next(waits):
    for call in (1, 2):
        waits.wait(call, (Q,), Q, 0.0)
    look(waits, Spot(Q))
    assert list(waits.found(Q, 1, {}, 0.0)) == [1]
    waits.popped(Q, 0.0)
    look(waits, Spot(Q))
    assert list(waits.found(Q, 1, {}, 0.0)) == [2]


def test_an_item_that_is_not_fetched_is_offered_to_the_next(waits):
    for call in (1, 2):
        waits.wait(call, (Q,), Q, 0.0)
    look(waits, Spot(Q))
    assert list(waits.found(Q, 1, {}, 0.0)) == [1]
    assert waits.next_deadline() == pytest.approx(CALLED_S)
    look(waits, Spot(Q), CALLED_S)
    assert list(waits.found(Q, 1, {}, CALLED_S)) == [2]


def test_a_known_queue_is_looked_at_more_often(waits):
    waits.is_queue(Q)
    waits.wait(1, (Q,), Q, 0.0)
    now = 0.0
    for _ in range(20):
        now = waits.next_deadline()
        waits.due(now)
        waits.missing(Spot(Q), now)
    assert waits.next_deadline() - now == pytest.approx(QUEUE_PAUSE_S_MAX)


def test_the_queues_that_are_known_are_bounded(waits):
    for number in range(QUEUES_MAX + 10):
        waits.is_queue(b"%d" % number)
    assert len(waits._queues) == QUEUES_MAX


def test_a_barrier_releases_those_whose_world_has_come(waits):
    waits.meet(1, A, 2, 0.0)
    waits.meet(2, A, 3, 0.0)
    waits.wait(3, (A,), A, 0.0)
    assert waits.due(0.0) == [Spot(A, is_count=True), Spot(A)]
    assert list(waits.counted(A, 2, 0.0)) == [1]
    waits.touch(A, 0.0)
    look(waits, Spot(A, is_count=True))
    assert list(waits.counted(A, 3, 0.0)) == [2]
    assert len(waits) == 1


def test_what_is_withdrawn_leaves_nothing_behind(waits):
    waits.wait(1, (A, B), A, 0.0)
    waits.meet(2, B, 3, 0.0)
    assert waits.withdraw(1)
    assert waits.withdraw(2)
    assert not waits.withdraw(2)
    assert (len(waits), waits.next_deadline(), waits._spots) == (0, None, {})


def test_all_is_looked_at_when_anything_may_have_changed(waits):
    waits.wait(1, (A,), A, 0.0)
    waits.meet(2, B, 3, 0.0)
    for spot in waits.due(0.0):
        waits.missing(spot, 0.0)
    assert waits.due(0.0) == []
    waits.touch_all(0.0)
    assert set(waits.due(0.0)) == {Spot(A), Spot(B, is_count=True)}
