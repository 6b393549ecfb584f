from __future__ import annotations

import pytest

from rallypoint.server.waiters import AT_ONCE_MAX, Waiters


@pytest.fixture
def waiters() -> Waiters:
    return Waiters()


def names(*each: bytes) -> dict[bytes, None]:
    return dict.fromkeys(each)


def left(waiters: Waiters) -> tuple[int, list[bytes]]:
    return len(waiters), list(waiters.names_waited_for())


def test_a_waiter_is_released_by_the_last_of_its_names(waiters: Waiters) -> None:
    waiters.wait(7, names(b"a", b"b"), 2)
    assert waiters.appeared(b"a", True) == []
    assert waiters.appeared(b"b", True) == [7]
    assert left(waiters) == (0, [])


def test_a_name_that_vanishes_is_waited_for_again(waiters: Waiters) -> None:
    waiters.wait(7, names(b"a", b"b"), 1)
    waiters.vanished(b"b")
    assert waiters.appeared(b"a", True) == []
    assert waiters.appeared(b"b", True) == [7]


def test_names_that_nobody_waits_for_release_nobody(waiters: Waiters) -> None:
    waiters.vanished(b"a")
    assert waiters.appeared(b"a", True) == []
    assert waiters.pushed(b"a", True) is None
    assert waiters.arrived(b"a", 5) == []
    waiters.popped(7, b"a")
    assert waiters.forget(7) is None


def test_a_key_releases_all_that_it_completes_in_the_order_they_came(waiters: Waiters) -> None:
    waiters.wait(9, names(b"a"), 1)
    waiters.wait(3, names(b"a", b"b"), 2)
    waiters.wait(7, names(b"a"), 1)
    assert waiters.appeared(b"a", True) == [9, 7]
    assert waiters.appeared(b"b", True) == [3]


def test_an_item_releases_the_first_that_it_completes(waiters: Waiters) -> None:
    waiters.wait(3, names(b"q", b"b"), 2)
    waiters.wait(9, names(b"q"), 1)
    waiters.wait(7, names(b"q"), 1)
    assert waiters.pushed(b"q", True) == 9
    assert waiters.pushed(b"q", False) == 7
    assert waiters.pushed(b"q", False) is None
    assert waiters.appeared(b"b", True) == [3]


def test_a_key_releases_those_that_an_item_of_its_name_left_waiting(waiters: Waiters) -> None:
    waiters.wait(9, names(b"q"), 1)
    waiters.wait(7, names(b"q"), 1)
    assert waiters.pushed(b"q", True) == 9
    assert waiters.appeared(b"q", False) == [7]


def test_a_call_that_was_not_answered_is_given_back_once(waiters: Waiters) -> None:
    waiters.wait(9, names(b"q"), 1)
    waiters.pushed(b"q", True)
    assert waiters.forget(9) == b"q"
    assert waiters.forget(9) is None


def test_a_pop_of_the_queue_answers_the_call(waiters: Waiters) -> None:
    waiters.wait(9, names(b"q"), 1)
    waiters.pushed(b"q", True)
    waiters.popped(9, b"other")
    waiters.popped(8, b"q")
    waiters.popped(9, b"q")
    assert waiters.forget(9) is None


def test_a_forgotten_waiter_leaves_nothing_behind(waiters: Waiters) -> None:
    waiters.wait(7, names(b"a", b"b"), 2)
    waiters.wait(8, names(b"b"), 1)
    waiters.wait_barrier(9, b"a", 2)
    assert waiters.forget(7) is None
    assert left(waiters) == (2, [b"b"])
    waiters.forget(8)
    waiters.forget(9)
    assert left(waiters) == (0, [])
    assert waiters.appeared(b"b", True) == []
    assert waiters.arrived(b"a", 2) == []


def test_a_barrier_releases_those_whose_world_is_complete(waiters: Waiters) -> None:
    waiters.wait_barrier(5, b"b", 3)
    waiters.wait_barrier(6, b"b", 4)
    waiters.wait_barrier(7, b"b", 3)
    assert waiters.arrived(b"b", 2) == []
    assert waiters.arrived(b"b", 3) == [5, 7]
    assert waiters.arrived(b"b", 4) == [6]


def test_names_and_barriers_do_not_meet(waiters: Waiters) -> None:
    waiters.wait_barrier(5, b"b", 2)
    waiters.wait(6, names(b"b"), 1)
    assert waiters.appeared(b"b", True) == [6]
    assert waiters.pushed(b"b", False) is None
    assert waiters.arrived(b"b", 2) == [5]


def test_names_are_counted_for_each_peer_until_it_waits_no_longer() -> None:
    waiters = Waiters()
    waiters.wait(1, dict.fromkeys([b"/a", b"/b"]), 2)
    waiters.wait(2, dict.fromkeys([b"/a"]), 1)
    waiters.wait_barrier(3, b"/c", 2)
    assert waiters.names_held == 3
    assert waiters.appeared(b"/a", True) == [2]
    assert waiters.names_held == 2
    waiters.forget(1)
    waiters.forget(3)
    assert waiters.names_held == 0


def test_what_a_peer_waits_for_is_told_to_people():
    waiters = Waiters()
    waiters.wait(7, names(b"a", b"b"), 1, 3.5)
    waiters.wait_barrier(8, b"c", 2, 4.5)
    assert [(list(wait.names), wait.is_barrier, wait.since) for wait in map(waiters.wait_of, (7, 8))] == [
        ([b"a", b"b"], False, 3.5),
        ([b"c"], True, 4.5),
    ]
    assert waiters.wait_of(9) is None
    assert dict(waiters.barriers()) == {b"c": {8: 2}}


def test_a_waiter_with_many_names_is_gone_at_once_and_leaves_their_lists_in_portions(waiters: Waiters) -> None:
    many = [b"%d" % number for number in range(AT_ONCE_MAX + 1)]
    waiters.wait(7, names(*many), len(many))
    waiters.wait(8, names(b"0"), 1)
    assert waiters.forget(7) is None
    assert (len(waiters), waiters.names_held, waiters.wait_of(7)) == (1, 1, None)
    assert waiters.names_waited_for() == [b"0"]
    waiters.wait(7, names(b"0"), 1)  # as if anew: behind the other
    assert waiters.appeared(b"0", True) == [8, 7]
    for name in many[1:]:
        assert waiters.appeared(name, True) == []
    waiters.tidy()
    waiters.tidy()
    assert not waiters.left
    assert not waiters._names


def test_a_released_waiter_with_many_names_holds_no_call_up(waiters: Waiters) -> None:
    many = [b"%d" % number for number in range(AT_ONCE_MAX + 1)]
    waiters.wait(7, names(*many), 1)
    assert waiters.appeared(b"0", True) == [7]
    waiters.wait(9, names(b"1"), 1)
    assert waiters.pushed(b"1", True) == 9
    assert waiters.called_to(9) == b"1"


def test_new_names_take_away_as_many_that_are_left(waiters: Waiters) -> None:
    many = [b"%d" % number for number in range(2 * AT_ONCE_MAX)]
    for peer in range(100):
        waiters.wait(peer, names(*many), len(many))
        waiters.forget(peer)
    assert len(waiters.left) <= 2
