"""How long a node pauses between looks at the shared state, and after swaps that it has lost."""

from __future__ import annotations

__all__ = ["GAP_MIN_S", "crowd_pause_s", "gap_after_s", "gap_max_s", "loss_pause_max_s"]

GAP_MIN_S = 0.01
"""The first pause between two looks at a backend that does not tell of changes; later ones are longer."""

GAP_GROWTH = 1.5

LOSS_PAUSE_MIN_S, LOSS_PAUSE_MAX_S = 0.002, 0.1
"""After two swaps lost in a row: a random pause up to the first, doubled with every further loss up to the second.
One loss costs no pause: the answer to a lost swap is the winner's state, so the next try is made on that."""

CROWD = 8
"""So many nodes are a crowd: too many to look at every change of each other."""

CROWD_PAUSE_S = 0.0005
"""In a crowd, a node that has nothing to do pauses so long for each node before it waits for the next change."""


def gap_max_s(nodes: int) -> float:
    """Give the longest pause between two looks, in seconds: about 200 looks a second over all nodes, at most one."""
    return min(1.0, max(0.25, nodes / 200))


def gap_after_s(gap_s: float, nodes: int) -> float:
    """Give the pause that follows one of ``gap_s`` seconds in which nothing has changed."""
    return min(gap_s * GAP_GROWTH, gap_max_s(nodes))


def crowd_pause_s(nodes: int) -> float:
    """Give how long a node with nothing to do looks away before it waits for the next change, in seconds."""
    return nodes * CROWD_PAUSE_S if nodes > CROWD else 0.0


def loss_pause_max_s(losses: int) -> float:
    """Give the longest pause after so many swaps lost in a row, from two on, in seconds."""
    return min(LOSS_PAUSE_MAX_S, LOSS_PAUSE_MIN_S * 2.0 ** min(losses - 2, 16))
