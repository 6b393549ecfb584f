"""Which rank each worker has, once the nodes are ranked.

Rules
-----
1. Ranks follow the order of the nodes: the workers of node 0 first.
2. Nodes may run different numbers of workers, in different roles; workers of one role are numbered on their own, too.

What this file does not know: how the nodes learn what each of them runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["NodeWorkers", "Ranks", "number_workers"]


class NodeWorkers(NamedTuple):
    """What one node runs."""

    role: str
    workers: int


class Ranks(NamedTuple):
    """The ranks of one node's workers: its worker ``i`` has ``first_rank + i`` and ``first_role_rank + i``."""

    first_rank: int
    world_size: int
    first_role_rank: int
    role_world_size: int


def number_workers(nodes: Sequence[NodeWorkers]) -> list[Ranks]:
    """Give the ranks of all nodes' workers.

    Args:
        nodes: what each node runs, in the order of node ranks.

    Shape: as many as ``nodes``, in the same order.
    """
    world_size = sum(node.workers for node in nodes)
    role_sizes: dict[str, int] = {}
    for node in nodes:
        role_sizes[node.role] = role_sizes.get(node.role, 0) + node.workers
    numbered: list[Ranks] = []
    first_rank, first_of_role = 0, dict.fromkeys(role_sizes, 0)
    for node in nodes:
        numbered.append(Ranks(first_rank, world_size, first_of_role[node.role], role_sizes[node.role]))
        first_rank += node.workers
        first_of_role[node.role] += node.workers
    return numbered
