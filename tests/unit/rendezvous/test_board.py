from __future__ import annotations

import pytest
from tests.support.stores import making_stores

from rallypoint.errors import LeaseLostError
from rallypoint.rendezvous.board import Board, Holder, is_mark, node_of
from rallypoint.store.prefix import PrefixStore
from rallypoint.store.session_calls import ABSENT, Changed, Deleted

A, B = "a" * 32, "b" * 32


@pytest.fixture
def store():
    with making_stores() as build:
        yield build(dialect="session")


@pytest.fixture
def board(store):
    return Board(store, "run 7")


def test_a_report_stands_as_long_as_its_lease(board):
    lease = board.grant(60)
    with board.watch_reports() as watch:
        board.mark(A)
        revision = board.post_report(A, b"first", lease)
        assert board.reports() == [(A, b"first", revision)]
        board.renew(lease)
        board.revoke(lease)
        board.revoke(lease)
        happened = [watch.next(10) for _ in range(3)]
    assert [type(event) for event in happened] == [Changed, Changed, Deleted]
    assert [is_mark(event.key) for event in happened] == [True, False, False]
    assert {node_of(event.key) for event in happened} == {A}
    assert [posted.data for posted in board.reports()] == [None]
    with pytest.raises(LeaseLostError):
        board.renew(lease)
    with pytest.raises(LeaseLostError):
        board.post_report(A, b"second", lease)


def test_a_node_whose_session_ended_is_not_there(store, board):
    own = store.clone()
    other = Board(own, "run 7")
    lease = other.grant(60)
    other.mark(A)
    other.post_report(A, b"first", lease)
    assert other.is_marked(A)
    assert len(board.reports()) == 1
    own.close()
    assert not board.is_marked(A)
    assert board.reports() == []
    board.mark(A)
    assert [posted.data for posted in board.reports()] == [b"first"]


def test_a_mark_of_an_earlier_session_is_made_anew(store, board):
    board.mark(A)
    (lease,) = [one["lease"] for one in store.status("leases")["leases"]]
    store.lease_revoke(lease)
    assert not board.is_marked(A)
    board.mark(A)
    assert board.is_marked(A)


def test_the_terms_of_an_office_rise_whoever_asked_first(board):
    early, late = board.grant(60), board.grant(60)
    assert board.holder() is None
    with board.watch_office() as watch:
        first = board.take_office(Holder(B, "b"), late)
        assert board.take_office(Holder(A, "a"), early) == 0
        assert board.incumbent() == (Holder(B, "b", late), True)
        board.revoke(late)
        assert [type(watch.next(10)) for _ in range(3)] == [Changed, Changed, Deleted]
    assert board.holder() is None
    assert board.take_office(Holder(A, "a"), early) > first > 0


def test_a_holder_that_cannot_be_read_is_a_holder(store, board):
    PrefixStore("rallypoint.rendezvous.run 7", store).set("coordinator", "?")
    assert board.holder().label == "somebody who does not say its name"


@pytest.mark.parametrize("count", [1, 3])
def test_orders_are_written_only_by_who_is_in_office(board, count):
    lease = board.grant(60)
    with board.watch_order(A) as watch:
        board.send([(A, b"wait"), (B, b"wait"), ("c" * 32, b"wait")][:count], lease)
        assert watch.next(10).value == b"wait"
    assert board.order(A)[0] == b"wait"
    board.revoke(lease)
    assert board.order(A) is None
    with pytest.raises(LeaseLostError):
        board.send([(A, b"stop"), (B, b"stop"), ("c" * 32, b"stop")][:count], lease)
    assert board.order(A) is None


def test_minutes_are_swapped_by_who_has_seen_the_last(board):
    assert board.minutes() == (None, ABSENT)
    first = board.record(b"1", ABSENT)
    assert board.minutes() == (b"1", first)
    assert board.record(b"other", ABSENT) == 0
    assert board.record(b"2", first) > first
    assert board.record(b"3", first) == 0
    assert board.minutes().data == b"2"


def test_progress_goes_with_its_teller(board):
    assert board.progress() == b""
    lease = board.grant(60)
    board.tell_progress(b"1 of 2 nodes", lease)
    assert board.progress() == b"1 of 2 nodes"
    board.revoke(lease)
    assert board.progress() == b""


def test_minutes_that_are_put_away_are_there_until_their_lease_ends(store, board):
    first = board.record(b"first", ABSENT)
    assert board.put_away(b"late", first + 1, 60) == 0
    last = board.put_away(b"last", first, 60)
    assert board.minutes() == (b"last", last)
    (lease,) = [one["lease"] for one in store.status("leases")["leases"] if one["ttl_s"] == 60 and one["keys"]]
    store.lease_revoke(lease)
    assert board.minutes() == (None, ABSENT)
    kept = board.put_away(b"again", board.record(b"next", ABSENT), 60)
    assert board.record(b"a successor's", kept)


def test_runs_do_not_see_each_other(store, board):
    other = Board(store, "run 8")
    other.mark(A)
    other.post_report(A, b"r", other.grant(60))
    assert board.reports() == []


@pytest.mark.parametrize("value", [b"garbage", b'{"node":"x","label":"x"}', b'{"node":"x","label":"x","lease":1e30}'])
def test_an_office_that_was_written_without_a_lease_is_freed(store, board, value):
    board.take_office(Holder(B, "b"), board.grant(60))
    PrefixStore("rallypoint.rendezvous.run 7", store).set("coordinator", value)
    holder, is_here = board.incumbent()
    assert not is_here
    board.evict(holder.lease)
    assert board.holder() is None


def test_whoever_came_after_is_not_evicted(board):
    board.take_office(Holder(A, "a"), early := board.grant(60))
    board.revoke(early)
    board.take_office(Holder(B, "b"), late := board.grant(60))
    board.evict(early)
    assert board.incumbent() == (Holder(B, "b", late), True)


def test_more_nodes_than_the_server_gives_at_once_are_read_all_the_same(store, board):
    count = 16_384 // 2 + 8
    nodes = [f"{number % 16:x}{number:031x}" for number in range(count)]
    keys = [f"rallypoint.rendezvous.run 7/nodes/{node}{end}" for node in nodes for end in ("", "/here")]
    store.multi_set(keys, ["r"] * len(keys))
    assert {posted.node for posted in board.reports()} == set(nodes)


def test_a_place_is_a_lease_a_mark_and_a_report_and_the_first_to_have_one_is_told(store, board):
    own = store.clone()
    other = Board(own, "run 7")
    lease = board.grant_place(60)
    assert board.take_place(A, b"report", lease)
    assert not board.take_place(A, None, lease)
    others = other.grant_place(60)
    assert not other.take_place(B, b"another", others)
    assert {(posted.node, posted.data) for posted in board.reports()} == {(A, b"report"), (B, b"another")}
    assert board.renew_place(A, lease) == (True, False, b"")
    office = other.grant(60)
    other.take_office(Holder(B, "b"), office)
    other.tell_progress(b"far", office)
    assert board.renew_place(A, lease) == (True, True, b"far")
    other.revoke(office)  # as when who is in office is frozen: its mark stays as long as its connection
    assert board.renew_place(A, lease) == (True, False, b"")
    store.lease_revoke(board._marks)
    with pytest.raises(LeaseLostError):
        board.take_place(A, None, lease)
    assert not board.renew_place(A, lease).is_marked
    board.grant_place(60)
    assert board.take_place(A, None, lease)
    board.revoke(lease)
    with pytest.raises(LeaseLostError):
        board.renew_place(A, lease)
    own.close()
