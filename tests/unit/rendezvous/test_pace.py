from __future__ import annotations

from rallypoint.rendezvous.pace import crowd_pause_s, gap_after_s, gap_max_s, loss_pause_max_s


def test_looks_grow_rarer_while_nothing_changes() -> None:
    assert gap_after_s(0.01, 2) == 0.015
    assert gap_after_s(0.25, 2) == 0.25
    assert gap_after_s(0.9, 5000) == 1.0


def test_many_nodes_look_about_as_often_as_few_do_together() -> None:
    assert (gap_max_s(4), gap_max_s(100), gap_max_s(5000)) == (0.25, 0.5, 1.0)


def test_only_a_crowd_looks_away() -> None:
    assert (crowd_pause_s(8), crowd_pause_s(100)) == (0.0, 0.05)


def test_losses_in_a_row_double_the_pause_up_to_a_bound() -> None:
    assert [loss_pause_max_s(losses) for losses in (2, 3, 4, 50)] == [0.002, 0.004, 0.008, 0.1]
