from __future__ import annotations

import pytest
from tests.support.stores import making_stores

from rallypoint.rendezvous.board import ABSENT, Board, Holder
from rallypoint.rendezvous.decision import Rules
from rallypoint.rendezvous.liquidator import Faults
from rallypoint.rendezvous.office import Office
from rallypoint.rendezvous.reports import OrderKind, Report, decode_order, encode_report
from rallypoint.rendezvous.state import Card
from rallypoint.rendezvous.term import DeposedError, Term
from rallypoint.testing import ManualClock

ME, OTHER = "a" * 32, "b" * 32
NEVER_S = 3600.0
FAR_S = 20


class Stage:
    """A term of node ME in a real store, on a clock of the test's."""

    def __init__(self, store):
        self.board = Board(store, "run")
        self.clock = ManualClock()
        self.nodes = self.board.grant(NEVER_S)
        lease = self.board.grant(NEVER_S)
        number = self.board.take_office(Holder(ME, "me"), lease)
        self.term = Term(self.board, lease, number, 0.0, NEVER_S, "run", ME, Faults(), self.clock)

    def post(self, node, number=1, **more):
        card = Card(host="h", address="h")
        found = Report(node=node, number=number, card=card, min_nodes=2, max_nodes=2, **more)
        self.board.mark(node)
        self.board.post_report(node, encode_report(found), self.nodes)

    def begin(self):
        self.term.prepare(lambda _revision: Office(Rules(2, 2)))
        self.term.begin()


@pytest.fixture
def stage():
    with making_stores() as make:
        yield Stage(make(dialect="session"))


def test_what_was_reported_before_and_what_is_reported_later_is_decided_on(stage):
    stage.post(ME, wants_in=True, joining=1)
    with stage.term.watch() as watch, stage.board.watch_order(OTHER) as orders:
        stage.begin()
        assert stage.board.minutes().data is not None
        stage.post(OTHER, wants_in=True, joining=1)
        stage.term.go_on(watch)
        told = decode_order(orders.next(FAR_S).value)
    assert (told.kind, told.size) == (OrderKind.PROPOSED, 2)


def test_a_term_may_end_once_its_own_node_has_said_goodbye(stage):
    with stage.term.watch() as watch:
        stage.begin()
        stage.post(OTHER, leaving="told to")
        stage.term.go_on(watch)
        assert not stage.term.may_end
        stage.post(ME, leaving="told to")
        stage.term.go_on(watch)
        assert stage.term.may_end


def test_who_finds_that_another_has_recorded_is_deposed(stage):
    with stage.term.watch():
        stage.term.prepare(lambda _revision: Office(Rules(2, 2)))
        stage.board.record(b"another's", ABSENT)
        with pytest.raises(DeposedError, match="another node has taken over since"):
            stage.term.begin()
