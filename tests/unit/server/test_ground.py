from __future__ import annotations

from rallypoint.protocol.codec import I64, U64
from rallypoint.protocol.spec import GO_ON
from rallypoint.server.changes import Change, KeySet, KeyState, Popped, Pushed, SessionEnded, State
from rallypoint.server.ground import Ground
from rallypoint.server.limits import Limits
from rallypoint.server.vocabulary import Reply


def make_ground(*, journal: bool = False) -> tuple[Ground, list[int]]:
    ground = Ground(Limits(), journal=journal)
    released: list[int] = []
    ground.on_release = released.append
    return ground, released


def put(ground: Ground, key: bytes) -> None:
    if ground.keyspace.set(key, b"v"):
        ground.created(key)


def test_a_new_key_releases_peers_by_a_byte_and_requests_by_a_call() -> None:
    ground, released = make_ground()
    ground.waiters.wait(7, {b"/k": None}, 1)
    ground.waiters.wait(-3, {b"/k": None}, 1)
    ground.readers.wait(-5, {b"/k": None}, 1)
    put(ground, b"/k")
    assert ground.effects == [Reply(7, GO_ON)]
    assert released == [-3, -5]
    assert (ground.waiting, ground.names_held) == (0, 0)


def test_an_item_is_nothing_to_those_who_wait_for_a_key() -> None:
    ground, released = make_ground()
    ground.readers.wait(-5, {b"/n": None}, 1)
    ground.push(b"/n", b"item")
    assert released == []
    put(ground, b"/n")
    assert released == [-5]


def test_a_deleted_key_is_missing_again() -> None:
    ground, released = make_ground()
    put(ground, b"/a")
    ground.readers.wait(-5, {b"/a": None, b"/b": None}, 1)
    ground.waiters.wait(-6, {b"/a": None, b"/b": None}, 1)
    assert ground.delete(b"/a")
    assert not ground.delete(b"/a")
    put(ground, b"/b")
    assert released == []
    put(ground, b"/a")
    assert released == [-6, -5]


def test_an_item_goes_to_the_longest_waiting_pop_before_it_wakes_anybody() -> None:
    ground, released = make_ground()
    taken = []

    def take(waiter: int) -> None:
        released.append(waiter)
        taken.append(ground.keyspace.pop(b"/q")[1])

    ground.on_release = take
    ground.waiters.wait(7, {b"/q": None}, 1)
    ground.wait_for_item(-1, b"/q")
    ground.wait_for_item(-2, b"/q")
    assert ground.waiting == 3
    assert [ground.push(b"/q", item) for item in (b"1", b"2")] == [1, 1]
    assert (released, taken, ground.effects) == ([-1, -2], [b"1", b"2"], [])
    assert ground.push(b"/q", b"3") == 1
    assert ground.effects == [Reply(7, GO_ON)]
    assert ground.pop(b"/q") == (1, b"3")


def test_a_pop_that_left_gets_nothing() -> None:
    ground, released = make_ground()
    ground.wait_for_item(-1, b"/q")
    ground.leave_queue(-1, b"/q")
    assert ground.push(b"/q", b"1") == 1
    assert (released, ground.waiting) == ([], 0)
    assert ground.push(b"/q", b"2") == 2


def test_the_last_to_arrive_releases_peers_and_requests() -> None:
    ground, released = make_ground()
    assert ground.arrive(b"/b") == 1
    ground.waiters.wait_barrier(7, b"/b", 3)
    assert ground.arrive(b"/b") == 2
    ground.waiters.wait_barrier(-1, b"/b", 3)
    assert ground.arrive(b"/b") == 3
    assert (ground.effects, released) == ([Reply(7, GO_ON)], [-1])


def test_a_call_that_is_not_followed_goes_to_the_next() -> None:
    ground, released = make_ground()
    for waiter in (-1, -2):
        ground.waiters.wait(waiter, {b"/q": None}, 1)
    ground.push(b"/q", b"1")
    assert released == [-1]
    assert ground.waiters.called_to(-1) == b"/q"
    ground.abandon(-1)
    assert released == [-1, -2]


def test_the_listing_is_one_object_until_a_key_comes_or_goes() -> None:
    ground, _ = make_ground()
    put(ground, b"/a")
    one = ground.listing()
    assert one == I64.pack(1) + U64.pack(2) + b"/a"
    put(ground, b"/a")
    assert ground.listing() is one
    ground.delete(b"/a")
    assert ground.listing() == I64.pack(0)


def test_the_journal_and_whoever_wants_to_know_are_told_of_changes() -> None:
    ground, _ = make_ground(journal=True)
    told: list[Change] = []
    put(ground, b"/a")
    ground.on_change = told.append
    put(ground, b"/b")
    ground.note(SessionEnded(b"s"))
    ground.on_change = None
    put(ground, b"/c")
    assert told == [KeySet(b"/b", b"v", 2)]
    first = ground.take_changes()
    assert first == [KeySet(b"/a", b"v", 1), KeySet(b"/b", b"v", 2), SessionEnded(b"s"), KeySet(b"/c", b"v", 3)]
    assert ground.take_changes() == []
    ground.push(b"/q", b"1")
    ground.pop(b"/q")
    assert ground.take_changes() == [Pushed(b"/q", b"1"), Popped(b"/q")]
    assert len(first) == 4


def test_without_a_journal_nothing_is_noted() -> None:
    ground, _ = make_ground()
    put(ground, b"/a")
    ground.note(SessionEnded(b"s"))
    assert ground.take_changes() == []


def test_what_was_put_back_is_no_news() -> None:
    ground, _ = make_ground(journal=True)
    ground.restore(State(revision=9, keys={b"/a": KeyState(b"1", 4)}, queues={b"/q": [b"x", b"y"]}))
    assert ground.take_changes() == []
    assert (ground.keyspace.get(b"/a"), ground.keyspace.revision) == (b"1", 9)
    assert ground.pop(b"/q") == (2, b"x")
    assert ground.take_changes() == [Popped(b"/q")]
