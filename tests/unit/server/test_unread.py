from __future__ import annotations

from collections import deque

from rallypoint.server.unread import SHARED_SIZE_MIN, UnreadOutput

BIG = 10 * SHARED_SIZE_MIN


class Blocked:
    def __init__(self, fd: int, *output: bytes | memoryview) -> None:
        self.fd = fd
        self.output = deque(output)
        self.output_size = sum(map(len, output))
        self.is_blocked = True


def unread(limit: int, *connections: Blocked) -> UnreadOutput:
    made = UnreadOutput(limit)
    for connection in connections:
        made.note(connection)
    return made


def test_a_large_value_counts_once_however_many_it_is_owed_to() -> None:
    value = bytes(BIG)
    shared = unread(2 * BIG, *(Blocked(fd, b"head", value) for fd in range(10)))
    assert shared.size() == BIG + 10 * len(b"head")
    assert list(shared.excesses()) == []


def test_a_small_one_counts_for_each() -> None:
    small = bytes(SHARED_SIZE_MIN)
    assert unread(1, Blocked(1, small), Blocked(2, small)).size() == 2 * SHARED_SIZE_MIN


def test_what_is_sent_in_part_is_in_memory_whole() -> None:
    value = bytes(BIG)
    assert unread(1, Blocked(1, memoryview(value)[BIG - 1 :]), Blocked(2, value)).size() == BIG


def test_who_holds_the_most_is_found_by_shares() -> None:
    value, own = bytes(3 * BIG), bytes(2 * BIG)
    sharing = [Blocked(fd, value) for fd in (1, 2, 3)]
    (excess,) = unread(4 * BIG, *sharing, Blocked(4, own)).excesses()
    assert excess == (4, 2 * BIG, 5 * BIG)


def test_the_largest_go_one_after_the_other_until_it_is_not_too_much() -> None:
    small, large = bytes(SHARED_SIZE_MIN), bytes(BIG)
    held = [Blocked(1, small, small), Blocked(2, large), Blocked(3, large, small), Blocked(4, small, b"rest")]
    bounded = unread(2 * len(small), *held)
    given = []
    for excess in bounded.excesses():
        given.append(excess.fd)
        bounded.discard(held[excess.fd - 1])
    assert given == [3, 2, 1]
    assert bounded.size() == len(small) + len(b"rest")
    assert list(bounded.excesses()) == []


def test_who_has_read_meanwhile_is_not_given() -> None:
    one, other = Blocked(1, bytes(2 * BIG)), Blocked(2, bytes(BIG))
    both = unread(1, one, other)
    given = []
    for excess in both.excesses():
        given.append(excess.fd)
        for connection in (one, other):
            connection.is_blocked = False
            both.note(connection)
    assert given == [1]


def test_who_is_not_blocked_any_more_or_gone_does_not_count() -> None:
    one, other = Blocked(1, bytes(BIG)), Blocked(2, bytes(BIG))
    both = unread(1, one, other)
    assert both
    one.is_blocked = False
    both.note(one)
    both.discard(other)
    both.discard(other)
    assert (bool(both), both.size(), list(both.excesses())) == (False, 0, [])
