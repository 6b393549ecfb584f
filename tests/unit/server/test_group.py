from __future__ import annotations

from rallypoint.protocol.session.spec import MEMBERS_NAMED_MAX, SessionVerb
from rallypoint.server.group import Group, Seat


def a_group(size: int, *arrived: int) -> Group:
    group = Group(SessionVerb.MEET, b"g", size)
    for rank in arrived:
        seat = group.arrived[rank] = Seat(group, rank, session=rank)
        seat.request, seat.label, seat.since = 1, b"m%d" % rank, float(rank)
        group.fresh += 1
    return group


def test_a_seat_is_found_wherever_it_is() -> None:
    group = a_group(4, 0)
    group.others[1] = Seat(group, 1, 1)
    group.gone[2] = Seat(group, 2, 2)
    assert [seat and seat.rank for seat in map(group.seat, range(4))] == [0, 1, 2, None]


def test_nobody_is_a_mate_before_the_first_generation() -> None:
    group = a_group(2, 0)
    assert not group.is_mate(group.arrived[0])
    group.generation = 3
    group.arrived[0].met = 3
    assert group.is_mate(group.arrived[0])
    group.arrived[0].met = 2
    assert not group.is_mate(group.arrived[0])


def test_those_who_wait_are_named_as_they_came_and_the_missing_by_rank() -> None:
    group = a_group(5, 3, 1)
    group.gone[4] = Seat(group, 4, 4)
    group.gone[4].label = b"gone"
    group.look()
    named = group.named(-1, 10.0)
    assert named.waiting == [(3, b"m3", 7000), (1, b"m1", 9000)]
    assert named.missing == [(0, b"", -1), (2, b"", -1), (4, b"gone", 10000)]
    assert group.named(3, 10.0).waiting == [(1, b"m1", 9000)]
    assert group.named_gone(11.0) == [(4, b"gone", 11000)]


def test_a_clock_that_stands_gives_no_negative_time() -> None:
    group = a_group(2, 1)
    group.look()
    assert group.named(-1, 0.0).waiting == [(1, b"m1", 0)]


def test_a_picture_lasts_until_somebody_arrives() -> None:
    group = a_group(4, 0, 1)
    group.look()
    del group.arrived[0]
    group.look()
    assert [rank for rank, _, _ in group.named(-1, 9).missing] == [2, 3]
    group.fresh += 1
    group.look()
    assert [rank for rank, _, _ in group.named(-1, 9).missing] == [0, 2, 3]


def test_in_a_large_group_a_picture_lasts_for_some_arrivals() -> None:
    size = 3 * MEMBERS_NAMED_MAX
    group = a_group(size, *range(size - 2))
    group.look()
    del group.arrived[0]
    group.fresh = 2
    group.look()
    assert [rank for rank, _, _ in group.named(-1, 999).missing] == [size - 2, size - 1]
    group.fresh = 3
    group.look()
    assert [rank for rank, _, _ in group.named(-1, 999).missing] == [0, size - 2, size - 1]


def test_a_picture_without_anybody_missing_is_taken_anew() -> None:
    size = 3 * MEMBERS_NAMED_MAX
    group = a_group(size, *range(1, size))
    group.look()
    group.arrived[0] = group.arrived.pop(1)
    group.look()
    assert [rank for rank, _, _ in group.named(-1, 999).missing] == [1]
