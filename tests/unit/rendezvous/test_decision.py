from __future__ import annotations

from rallypoint.rendezvous.decision import Decision, Rules, Wait


def test_a_node_is_dead_after_so_many_intervals_without_a_sign() -> None:
    assert Rules(1, 2, keep_alive_interval_s=2.0, keep_alive_max_attempt=4).dead_after_s == 8.0


def test_equal_decisions_are_equal() -> None:
    assert Decision(Wait(), "1 of 2 nodes") == Decision(Wait(), "1 of 2 nodes")
