from __future__ import annotations

from rallypoint.rendezvous.numbering import NodeWorkers, Ranks, number_workers


def test_workers_are_numbered_in_the_order_of_the_nodes_and_within_their_role() -> None:
    nodes = [NodeWorkers("trainer", 4), NodeWorkers("reader", 2), NodeWorkers("trainer", 3)]
    assert number_workers(nodes) == [Ranks(0, 9, 0, 7), Ranks(4, 9, 0, 2), Ranks(6, 9, 4, 7)]


def test_nobody_is_numbered_as_nobody() -> None:
    assert number_workers([]) == []
