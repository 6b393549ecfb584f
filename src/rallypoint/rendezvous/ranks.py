"""Who makes up the next world, and with which rank.

Rules
-----
1. A place in the world goes first to the nodes of the latest complete round, in the order of their ranks; then to
   those that came since, in the order of arrival; then to spares, in the order of arrival.
2. A rank goes first to the node that wishes it; then to the node that had it before, so that who stays keeps its
   rank; then to one that had it earlier, if that is known; the ranks left over go to the rest, those of the latest
   round first, then by natural order of host names.
3. Host names compare as people read them: ``node2`` before ``node10``.

An example of three nodes of which the first is replaced::

    round 4      node1 -> 0    node2 -> 1    node10 -> 2
    round 5      node3 -> 0    node2 -> 1    node10 -> 2        node3 took the rank that was free, nobody else moved

What this file does not know: time, phases, who asks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rallypoint.rendezvous.state import Standing, State

__all__ = ["choose_members", "natural_key", "place_ranks"]

_DIGITS = re.compile(r"([0-9]+)")


def natural_key(text: str) -> tuple[tuple[str, int], ...]:
    """Give a key that sorts text with numbers in it by the size of the numbers."""
    parts = _DIGITS.split(text)
    return tuple((parts[at], int(parts[at + 1]) if at + 1 < len(parts) else -1) for at in range(0, len(parts), 2))


def choose_members(state: State, reserved: int) -> list[str]:
    """Choose the nodes of the next world.

    Args:
        state: the state; its largest world is the limit.
        reserved: places that spares may not take, because somebody is expected to come back.

    Returns:
        Node ids: none if nobody is ready.
    """
    ready = sorted(state.standing(Standing.READY), key=lambda node_id: state.previous.get(node_id, len(state.previous)))
    chosen = ready[: state.max_nodes]
    room = state.max_nodes - len(chosen) - reserved
    return chosen + state.standing(Standing.SPARE)[: max(0, room)] if chosen else []


def place_ranks(state: State, chosen: Sequence[str], before: Mapping[str, int] | None = None) -> dict[str, int]:
    """Give each chosen node a rank, 0 to n-1.

    Args:
        state: the round that gathers.
        chosen: the ids of the nodes.
        before: node id -> the rank that it had in an earlier round than the latest complete one; taken if it is free.

    Cost: O(n log n) for n nodes.
    """
    size = len(chosen)

    def order(node_id: str) -> tuple[int, tuple[tuple[str, int], ...], str]:
        return state.previous.get(node_id, size), natural_key(state.nodes[node_id].card.host), node_id

    ranks: dict[str, int] = {}
    taken: set[int] = set()
    in_order = sorted(chosen, key=order)
    wishes = {node_id: state.nodes[node_id].card.rank_wish for node_id in in_order}
    for wanted in (wishes, state.previous, before or {}):
        for node_id in in_order:
            rank = wanted.get(node_id)
            if node_id not in ranks and rank is not None and rank < size and rank not in taken:
                ranks[node_id] = rank
                taken.add(rank)
    free = iter([rank for rank in range(size) if rank not in taken])
    return ranks | {node_id: next(free) for node_id in in_order if node_id not in ranks}
