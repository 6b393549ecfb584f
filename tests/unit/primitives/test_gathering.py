"""Meeting with keys alone."""

from __future__ import annotations

import threading

import pytest
from tests.support.session_store import PlainStore
from tests.support.threads import together

from rallypoint.clock import Deadline
from rallypoint.errors import BarrierBrokenError, BarrierTimeoutError, ConnectionLostError
from rallypoint.primitives.gathering import Gathering
from rallypoint.testing import ManualClock
from rallypoint.types import Member

LONG_S = 30.0


@pytest.fixture
def store():
    return PlainStore()


@pytest.fixture
def clock():
    return ManualClock(jumps=False)


def gathering(store, rank, size, clock=None, ttl_s=None):
    return Gathering(store, "g", Member(rank, f"host{rank}"), size, ttl_s=ttl_s, clock=clock or ManualClock())


def come(member, timeout_s=LONG_S, value=b"", with_values=False):
    return member.gather(value, Deadline(timeout_s), with_values=with_values)


def test_generations_follow_each_other_and_leave_few_keys(store):
    members = [gathering(store, rank, 3) for rank in range(3)]

    def work(member):
        return [come(member)[0] for _ in range(20)]

    assert together(*(lambda m=member: work(m) for member in members)) == [list(range(1, 21))] * 3
    assert sorted(store.list_keys()) == [
        "g/20/0",
        "g/20/1",
        "g/20/2",
        "g/20/bell",
        *[f"g/about/{r}" for r in range(3)],
        "g/gate",
    ]


def test_everybody_gets_every_value_of_the_generation(store):
    members = [gathering(store, rank, 3) for rank in range(3)]

    def work(rank):
        return [come(members[rank], value=f"{rank} {turn}".encode(), with_values=True) for turn in range(3)]

    expected = [(turn + 1, [f"{rank} {turn}".encode() for rank in range(3)]) for turn in range(3)]
    assert together(*(lambda rank=rank: work(rank) for rank in range(3))) == [expected] * 3


def test_one_member_alone_meets_itself(store):
    member = gathering(store, 0, 1)
    assert [come(member, 0)[0] for _ in range(3)] == [1, 2, 3]


def test_the_missing_are_named_by_rank_and_label_and_those_who_gave_up_are_not(store):
    together(*(lambda rank=rank: come(gathering(store, rank, 5)) for rank in range(5)))
    outcomes = together(*(lambda rank=rank: come(gathering(store, rank, 5), 0.1) for rank in (0, 2, 3)))
    for rank, error in zip((0, 2, 3), outcomes, strict=True):
        assert isinstance(error, BarrierTimeoutError)
        assert error.missing_members == (Member(1, "host1"), Member(4, "host4"))
        assert error.missing == ("rank 1 (host1)", "rank 4 (host4)")
        assert (error.arrived, error.expected, error.waited_s >= 0.1) == (3, 5, True)
        assert f"as rank {rank} (host{rank}) after 0." in str(error)
        assert "3 of 5 came, missing: rank 1 (host1), rank 4 (host4)" in str(error)


def test_members_that_were_never_seen_are_named_by_rank(store):
    with pytest.raises(BarrierTimeoutError, match=r"1 of 3 came, missing: rank 0, rank 2"):
        come(gathering(store, 1, 3), 0)


def test_who_alone_gave_up_is_missing_to_the_next(store):
    with pytest.raises(BarrierTimeoutError):
        come(gathering(store, 0, 2), 0)
    with pytest.raises(BarrierTimeoutError, match=r"missing: rank 0 \(host0\)"):
        come(gathering(store, 1, 2), 0)


def test_who_timed_out_may_come_again(store):
    members = [gathering(store, rank, 3) for rank in range(3)]
    for member in members[:2]:
        with pytest.raises(BarrierTimeoutError):
            come(member, 0)
    assert together(*(lambda m=member: come(m)[0] for member in members)) == [1, 1, 1]
    assert store.check(["g/1/bell"])  # for those who have not looked yet


def test_a_successor_takes_the_place_of_one_that_died_there(store):
    store.set("g/1/1", b"of the dead")
    first, successor = gathering(store, 0, 2), gathering(store, 1, 2)
    successor._tell()
    wait, came = store.wait, threading.Event()

    def told(keys, timeout):
        came.set()
        wait(keys, timeout)

    store.wait = told
    calls = [
        lambda: came.wait(LONG_S) and come(first, with_values=True),
        lambda: come(successor, value=b"of the living"),
    ]
    assert together(*calls)[0] == (1, [b"", b"of the living"])


def test_the_gate_does_not_open_for_one_who_has_just_left(store):
    """Rank 0 has seen all, and somebody leaves before it swaps the gate."""
    leaver, first = gathering(store, 1, 2), gathering(store, 0, 2)
    seen = first._gate()
    store.set("g/1/1", b"")
    assert leaver._leave(1) is None
    first._decide(seen, 1, "open")
    assert first._gate().generation == 0
    assert not store.check(["g/1/bell"])


def test_who_leaves_after_the_gate_has_opened_has_passed(store):
    leaver, first = gathering(store, 1, 2), gathering(store, 0, 2)
    first._decide(first._gate(), 1, "open")
    assert leaver._leave(1) == "open"


def test_members_that_are_quiet_for_too_long_are_named_to_everybody(store, clock):
    together(*(lambda rank=rank: come(gathering(store, rank, 3, clock, 10.0)) for rank in range(3)))
    first, second = (gathering(store, rank, 3, clock, 0.06) for rank in (0, 1))

    def pass_time():
        while not store.check(["g/2/0", "g/2/1"]):
            pass
        for _ in range(200):
            if store.check(["g/2/bell"]):
                return
            clock.advance(1)
            for member in (first, second):
                member._lease._renewed_at = clock.now()
                member._lease.renew()
            threading.Event().wait(0.01)

    *outcomes, _ = together(lambda: come(first), lambda: come(second), pass_time)
    for error in outcomes:
        assert isinstance(error, BarrierBrokenError)
        assert error.gone_members == (Member(2, "host2"),)
        assert "of 3 members rank 2 (host2) are gone" in str(error)


def test_a_member_that_has_closed_is_gone_and_one_that_comes_anew_is_not(store, clock):
    members = [gathering(store, rank, 3, clock, 0.06) for rank in range(3)]
    together(*(lambda m=member: come(m) for member in members))
    members[0].close()
    outcomes = together(*(lambda m=member: come(m) for member in members[1:]))
    assert [error.gone for error in outcomes] == [("rank 0 (host0)",)] * 2
    members[0] = gathering(store, 0, 3, clock, 0.06)
    assert together(*(lambda m=member: come(m)[0] for member in members)) == [3, 3, 3]


def test_who_slept_while_its_generation_failed_is_told(store):
    member = gathering(store, 1, 3)
    member._decide(member._gate(), 1, "gone:2")
    member._decide(member._gate(), 2, "gone:2")
    assert member._verdict(1, member._gate()) == "gone:2"
    store.delete_key("g/1/bell")
    assert isinstance(member._broken(member._verdict(1, member._gate()), Deadline(0)), BarrierBrokenError)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ConnectionLostError("gone")])
def test_who_is_interrupted_does_not_count(store, error):
    def fail(keys, timeout):
        raise error

    store.wait = fail
    with pytest.raises(type(error)):
        come(gathering(store, 1, 3))
    assert not store.check(["g/1/1"])
