from __future__ import annotations

import pytest
from tests.support.stores import making_stores

from rallypoint.clock import SYSTEM_CLOCK
from rallypoint.rendezvous.board import Board
from rallypoint.rendezvous.follower_moves import Wanted
from rallypoint.rendezvous.ground import Ground
from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.rendezvous.hands import begin
from rallypoint.rendezvous.reports import Order, OrderKind
from rallypoint.rendezvous.settings import CoordinatedSettings
from rallypoint.rendezvous.state import Card
from rallypoint.types import Endpoint

PATIENCE_S = 20.0


@pytest.fixture
def make():
    with making_stores() as build:
        store = build(dialect="session", session_timeout=0.1)
        params = RendezvousParameters("rallypoint", "", "run", 1, 1, join_timeout=PATIENCE_S, last_call_timeout=0.1)
        settings = CoordinatedSettings.from_parameters(params)
        board = Board(store, "run", call_s=settings.node.rules.answer_s)
        made = []

        def make():
            card = Card(host="node-a", address="node-a")
            made.append(
                begin(board, Ground(store, "the store", False), settings, card, None, serve=serve, clock=SYSTEM_CLOCK)
            )
            return made[-1]

        yield make
        for hands in made:
            hands.coordinator.stop(PATIENCE_S)
            hands.following.stop(PATIENCE_S)


def serve(proposal: int, number: int) -> Endpoint:
    return Endpoint("node-a", 4000 + proposal)


def test_each_node_has_an_id_of_its_own_and_is_named_after_it_and_its_host(make):
    first, second = make(), make()
    assert first.node != second.node
    assert first.label == f"node-a#{first.node[:6]}"


def test_nothing_is_done_before_it_is_started_and_then_the_first_node_coordinates(make):
    hands = make()
    hands.following.tell(Wanted())
    assert not hands.coordinator.is_in_office
    hands.following.start()
    order = hands.following.await_entry()
    assert isinstance(order, Order)
    assert (order.kind, order.endpoint) == (OrderKind.ADMITTED, Endpoint("node-a", 4001))
    assert hands.coordinator.is_in_office
