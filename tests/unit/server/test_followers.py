from __future__ import annotations

from rallypoint.server.followers import Followers
from rallypoint.server.ground import Ground
from rallypoint.server.limits import DEFAULT_LIMITS


def test_nobody_is_told_until_somebody_joins() -> None:
    ground = Ground(DEFAULT_LIMITS)
    followers = Followers(ground)
    told: list[object] = []
    followers.join(told.append)
    ground.keyspace.set(b"a", b"1")
    followers.leave(told.append)
    ground.keyspace.set(b"b", b"1")
    assert [change.key for change in told] == [b"a"]
    assert ground.on_change is None


def test_all_are_told_in_the_order_in_which_they_joined() -> None:
    ground = Ground(DEFAULT_LIMITS)
    followers = Followers(ground)
    told: list[tuple[int, bytes]] = []

    def first(change: object) -> None:
        told.append((1, change.key))

    def second(change: object) -> None:
        told.append((2, change.key))

    followers.join(second)
    followers.join(first)
    followers.join(second)
    ground.keyspace.set(b"a", b"1")
    followers.leave(second)
    ground.keyspace.set(b"b", b"1")
    followers.leave(second)
    ground.keyspace.set(b"c", b"1")
    assert told == [(2, b"a"), (1, b"a"), (1, b"b"), (1, b"c")]


def test_the_journal_is_told_too() -> None:
    ground = Ground(DEFAULT_LIMITS, journal=True)
    followers = Followers(ground)
    told: list[object] = []
    followers.join(told.append)
    ground.keyspace.set(b"a", b"1")
    followers.leave(told.append)
    ground.keyspace.set(b"b", b"1")
    assert [change.key for change in ground.take_changes()] == [b"a", b"b"]
    assert [change.key for change in told] == [b"a"]
