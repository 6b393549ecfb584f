from __future__ import annotations

import threading

import pytest
from tests.support.stores import making_stores

from rallypoint.rendezvous.board import Board, Holder
from rallypoint.rendezvous.ground import board_opener, linger, tell_progress
from rallypoint.rendezvous.reports import Notice, Report, encode_notice, encode_report
from rallypoint.rendezvous.state import Card

A, B = "a" * 32, "b" * 32
JOIN_S = 20


@pytest.fixture
def store():
    with making_stores() as build:
        yield build(dialect="session")


def post(board, node, lease, **fields):
    board.mark(node)
    card = Card(host="h", address="h")
    report = Report(node=node, number=1, card=card, min_nodes=1, max_nodes=2, **fields)
    board.post_report(node, encode_report(report), lease)


def test_a_coordinator_has_a_connection_of_its_own(store):
    board, close = board_opener(store, "run", 5.0)()
    board.mark(A)
    close()
    assert board.call_s == 5.0
    assert not Board(store, "run").is_marked(A)
    assert store.num_keys() >= 0


def test_who_serves_stays_until_all_have_heard_or_are_gone(store):
    board = Board(store, "run")
    lease, other = board.grant(60), board.grant(60)
    post(board, A, lease)
    post(board, B, other)
    waiting = threading.Thread(target=linger, args=(board, JOIN_S))
    waiting.start()
    post(board, A, lease, has_heard=True)
    waiting.join(0.05)
    assert waiting.is_alive()
    board.revoke(other)
    waiting.join(JOIN_S)
    assert not waiting.is_alive()


@pytest.mark.parametrize("said", [{"has_heard": True}, {"leaving": "told to"}])
def test_nobody_is_waited_for_who_has_heard_or_leaves(store, said):
    board = Board(store, "run")
    post(board, A, board.grant(60), **said)
    linger(board, JOIN_S)


def test_who_serves_does_not_stay_for_ever(store):
    board = Board(store, "run")
    post(board, A, board.grant(60))
    linger(board, 0.05)
    store.close()
    linger(board, JOIN_S)


def test_who_coordinates_and_how_far_it_is_end_a_sentence(store):
    board = Board(store, "run")
    assert tell_progress(board) == "; nobody coordinates"
    lease = board.grant(60)
    board.take_office(Holder(A, "host-a"), lease)
    assert tell_progress(board) == "; host-a coordinates"
    board.tell_progress(encode_notice(Notice(term=1, number=1, text="1 of 2 nodes")), lease)
    assert tell_progress(board) == "; host-a, which coordinates, says: 1 of 2 nodes"
    assert tell_progress(board, "waited: 1 of 2 nodes") == "; host-a coordinates"
    store.close()
    assert tell_progress(board) == ""
