"""The quick way through torch's utilities."""

from __future__ import annotations

import pytest
from tests.support.session_store import FakeServer
from tests.support.threads import together

from rallypoint.clock import Deadline
from rallypoint.errors import BarrierBrokenError, BarrierTimeoutError, DuplicateMemberError, RefusedError
from rallypoint.primitives.barrier import barrier
from rallypoint.primitives.exchange import synchronize
from rallypoint.primitives.shortcut import FIRST_SLICE_S, SLICE_MAX_S, meet_unless_plain
from rallypoint.testing import ManualClock

LONG_S = 30.0


def timed_out():
    return BarrierTimeoutError("timeout", arrived=1, expected=2, waited_s=1.0)


def name(rank):
    return f"node{rank}"


def test_slices_grow_with_what_was_waited_and_end_with_the_deadline():
    clock, slices = ManualClock(), []

    def meet(timeout_s):
        slices.append(timeout_s)
        clock.advance(timeout_s)
        raise timed_out()

    with pytest.raises(BarrierTimeoutError):
        meet_unless_plain(meet, lambda: False, Deadline(20, clock))
    assert slices[:4] == [FIRST_SLICE_S, FIRST_SLICE_S, 2 * FIRST_SLICE_S, 4 * FIRST_SLICE_S]
    assert max(slices) == SLICE_MAX_S
    assert sum(slices) == pytest.approx(20)


def test_looking_once_looks_once():
    asked = []

    def meet(timeout_s):
        asked.append(timeout_s)
        raise timed_out()

    with pytest.raises(BarrierTimeoutError):
        meet_unless_plain(meet, lambda: False, Deadline(0))
    assert asked == [0]


def test_a_complete_group_is_one_call_each():
    server = FakeServer()
    sessions = [server.connect() for _ in range(3)]
    assert together(*(lambda r=r: barrier(sessions[r], 3, "p", LONG_S, r, name) for r in range(3))) == [None] * 3
    assert [session.calls for session in sessions] == [["meet"]] * 3
    assert server.entries == {}


@pytest.mark.parametrize("plain", [{0}, {2}, {1, 2}])
def test_members_of_both_kinds_pass_one_barrier_again_and_again(plain):
    server = FakeServer()
    stores = [server.connect_plain() if rank in plain else server.connect() for rank in range(3)]
    for _ in range(3):
        assert together(*(lambda r=r: barrier(stores[r], 3, "p", LONG_S, r, name) for r in range(3))) == [None] * 3


@pytest.mark.parametrize("plain", [set(), {1}])
def test_every_rank_is_told_who_is_missing(plain):
    server = FakeServer()
    stores = [server.connect_plain() if rank in plain else server.connect() for rank in range(3)]
    with pytest.raises(BarrierTimeoutError) as caught:
        barrier(stores[0], 3, "p", 0.1, 0, name)
    assert caught.value.missing == ("node1", "node2")
    assert "on rank 0, for key prefix: p (world_size=3, missing_ranks=[node1, node2], timeout=0.1)" in str(caught.value)
    if plain:
        errors = together(*(lambda r=r: barrier(stores[r], 3, "p", 0.5, r, name) for r in (0, 1)))
        assert [error.missing for error in errors] == [("node2",)] * 2


def test_a_member_that_is_gone_fails_the_barrier_at_once():
    server = FakeServer()
    sessions = [server.connect() for _ in range(2)]
    together(*(lambda r=r: barrier(sessions[r], 2, "p", LONG_S, r, name) for r in range(2)))
    sessions[1].die()
    with pytest.raises(BarrierBrokenError) as caught:
        barrier(sessions[0], 2, "p", LONG_S, 0, name)
    assert caught.value.gone == ("node1",)


@pytest.mark.parametrize(("reason", "kind"), [("taken_over", DuplicateMemberError), ("group_mismatch", RefusedError)])
def test_refusals_are_told_as_the_plain_way_tells_them(reason, kind):
    session = FakeServer().connect()

    def refuse(*_, **__):
        raise RefusedError("refused", reason=reason)

    session.meet = refuse
    with pytest.raises(kind):
        barrier(session, 2, "p", LONG_S, 0, name)


@pytest.mark.parametrize("plain", [set(), {0}, {2}, {1, 2}])
def test_members_of_both_kinds_exchange(plain):
    server = FakeServer()
    stores = [server.connect_plain() if rank in plain else server.connect() for rank in range(3)]
    outcomes = together(*(lambda r=r: synchronize(stores[r], f"from {r}", r, 3, "x/", LONG_S) for r in range(3)))
    assert outcomes == [[b"from 0", b"from 1", b"from 2"]] * 3
    if not plain:
        assert stores[1].calls[:2] == ["exchange", "add"]


def test_other_keys_that_begin_alike_are_no_members():
    server = FakeServer()
    sessions = [server.connect() for _ in range(2)]
    sessions[0].set("x/unrelated", "v")
    sessions[0].set("x/10", "v")
    synced = together(*(lambda r=r: synchronize(sessions[r], str(r), r, 2, "x/", LONG_S) for r in range(2)))
    assert synced == [[b"0", b"1"]] * 2
    assert "multi_get" not in sessions[0].calls
    with pytest.raises(BarrierTimeoutError):
        synchronize(sessions[0], "0", 0, 2, "x/", 0.1)
