"""Barriers and exchanges on etcd: generations, the missing by name, the gone, and lost answers."""

from __future__ import annotations

from time import monotonic

import pytest

from rallypoint.errors import BarrierBrokenError, BarrierTimeoutError, RefusedError
from rallypoint.primitives.barrier import Barrier, barrier
from rallypoint.primitives.exchange import Exchange
from rallypoint.store import etcd_wire as wire

LONG_S = 60.0
SOON_S = 0.2


def all_of(pool, calls):
    futures = [pool.submit(call) for call in calls]
    outcomes = []
    for future in futures:
        error = future.exception(LONG_S)
        outcomes.append(error if error is not None else future.result())
    return outcomes


def await_arrival(store, count):
    """Wait until so many members of the barrier b have arrived."""
    start = store._names.group(b"m", b"b") + b"a/"
    until = monotonic() + LONG_S
    while store._range(wire.range_of(start, wire.end_of_prefix(start), is_count=True)).total < count:
        assert monotonic() < until


@pytest.fixture
def members(etcd_stores):
    return [etcd_stores(session_ttl=2) for _ in range(4)]


def meet(members, **options):
    return [
        lambda store=store, rank=rank: store.meet("b", rank, len(members), label=f"node{rank}", **options)
        for rank, store in enumerate(members)
    ]


def test_members_meet_again_and_again(members, pool):
    for generation in (1, 2, 3):
        assert all_of(pool, meet(members)) == [generation] * 4


def test_everybody_gets_every_value_by_rank(members, pool):
    for turn in range(3):
        gives = [
            lambda store=store, rank=rank, turn=turn: store.exchange("e", rank, 4, f"{rank}.{turn}\n")
            for rank, store in enumerate(members)
        ]
        assert all_of(pool, gives) == [[b"%d.%d\n" % (rank, turn) for rank in range(4)]] * 4


def test_one_member_alone_meets_itself(members):
    assert [members[0].meet("alone", 0, 1) for _ in range(3)] == [1, 2, 3]
    assert members[0].exchange("alone", 0, 1, b"v") == [b"v"]


def test_all_are_told_the_same_who_is_missing_and_can_come_again(members, pool):
    all_of(pool, meet(members))
    errors = all_of(pool, meet(members, timeout=1.0)[:3])
    for error in errors:
        assert isinstance(error, BarrierTimeoutError)
        assert (error.missing, error.arrived, error.expected) == (("rank 3 (node3)",), 3, 4)
        assert "name: b (3 of 4 came, missing: rank 3 (node3);" in str(error)
    assert all_of(pool, meet(members)) == [2] * 4


def test_who_has_never_been_there_is_missing_by_rank(members):
    with pytest.raises(BarrierTimeoutError, match="missing: rank 0, rank 2;"):
        members[1].meet("new", 1, 3, timeout=SOON_S)


def test_a_member_that_goes_is_told_to_those_that_wait_and_its_successor_meets(members, pool, etcd_stores):
    all_of(pool, meet(members))
    waiting = [pool.submit(call) for call in meet(members)[:3]]
    members[3].close()
    for one in waiting:
        with pytest.raises(BarrierBrokenError, match=r"rank 3 \(node3\) of 4 members is gone") as caught:
            one.result(LONG_S)
        assert caught.value.gone == ("rank 3 (node3)",)
    members[3] = etcd_stores()
    assert all_of(pool, meet(members)) == [2] * 4


def test_members_that_do_not_agree_how_many_they_are_are_refused(members, pool):
    waiting = pool.submit(members[0].meet, "b", 0, 2)
    await_arrival(members[0], 1)
    with pytest.raises(RefusedError, match="is of 2 members, and rank 1 takes it to be of 3") as caught:
        members[1].meet("b", 1, 3)
    assert caught.value.reason == "group_mismatch"
    members[1].meet("b", 1, 2)
    waiting.result(LONG_S)


def test_another_size_is_another_company_when_nobody_waits(members, pool):
    all_of(pool, meet(members))
    assert all_of(pool, meet(members[:2])) == [2] * 2


def test_a_second_member_of_one_rank_takes_its_place(members, pool):
    first = pool.submit(members[0].meet, "b", 0, 2)
    await_arrival(members[0], 1)
    second = pool.submit(members[1].meet, "b", 0, 2)
    with pytest.raises(RefusedError, match="rank 0 of meet 'b' was taken by another member") as caught:
        first.result(LONG_S)
    assert caught.value.reason == "taken_over"
    members[2].meet("b", 1, 2)
    assert second.result(LONG_S) == 1


@pytest.mark.parametrize(("rank", "size"), [(2, 2), (-1, 2), (0, 0)])
def test_ranks_that_cannot_be_are_refused(members, rank, size):
    with pytest.raises(RefusedError, match="a rank is from 0"):
        members[0].meet("b", rank, size)


def test_the_primitives_go_by_it(members, pool):
    def meet_twice(store, rank):
        with Barrier(store, "all", rank, 4) as together, Exchange(store, "gifts", rank, 4) as gifts:
            together.wait()
            return gifts.give(str(rank))

    calls = [lambda store=store, rank=rank: meet_twice(store, rank) for rank, store in enumerate(members)]
    assert all_of(pool, calls) == [[b"0", b"1", b"2", b"3"]] * 4
    calls = [
        lambda store=store, rank=rank: barrier(store, 4, "torch's", rank=rank) for rank, store in enumerate(members)
    ]
    assert all_of(pool, calls) == [None] * 4
