"""Which rank each worker has: nodes tell each other how many workers they run, node 0 counts.

Nodes may run different numbers of workers, in different roles. Ranks follow the order of the nodes: the workers of
node 0 first. Each node writes one key into the round's store, node 0 reads all of them and answers each with
another::

    torchelastic/role_info/<node rank>        {"role": "trainer", "rank": 1, "local_world_size": 4}
    torchelastic/assigned_ranks/<node rank>   [first rank, world size, first rank in its role, size of its role]

Source: keys and values as observed in torch 2.13.0, so that a torch agent can be a node of the round.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING

from rallypoint.clock import Deadline
from rallypoint.errors import RendezvousStateError, RendezvousTimeoutError
from rallypoint.rendezvous.numbering import NodeWorkers, Ranks, number_workers

if TYPE_CHECKING:
    from rallypoint.store.base import Store

__all__ = ["NodeWorkers", "Ranks", "agree_on_ranks", "number_workers"]

LOOK_INTERVAL_S = 1.0
"""The longest that a node waits for the others' numbers before it looks whether the round still stands."""


def agree_on_ranks(
    store: Store,
    node_rank: int,
    node_count: int,
    mine: NodeWorkers,
    *,
    is_current: Callable[[], bool],
    timeout_s: float = 300.0,
) -> Ranks | None:
    """Tell the other nodes what this one runs, and learn the ranks of its workers.

    Args:
        store: the round's store.
        node_rank: this node's rank.
        node_count: the nodes of the round.
        mine: what this node runs.
        is_current: tells whether the round still stands; asked every second of waiting.
        timeout_s: seconds to wait for the other nodes.

    Returns:
        The ranks, or ``None`` if the round ended meanwhile.

    Raises:
        RendezvousTimeoutError: if a node said nothing in time.
        RendezvousStateError: if what it said cannot be read.

    Cost: no round trip for a single node; otherwise three for a node, and for node 0 two more that carry one
    small value for each node.
    """
    if node_count == 1:
        return number_workers([mine])[0]
    deadline = Deadline(timeout_s)
    info = {"role": mine.role, "rank": node_rank, "local_world_size": mine.workers}
    store.set(f"torchelastic/role_info/{node_rank}", json.dumps(info))
    if node_rank == 0:
        keys = [f"torchelastic/role_info/{rank}" for rank in range(node_count)]
        if not _appear(store, keys, deadline, is_current):
            return None
        nodes = [_read_node(key, value) for key, value in zip(keys, store.multi_get(keys), strict=True)]
        numbered = number_workers(nodes)
        answers = [f"torchelastic/assigned_ranks/{rank}" for rank in range(node_count)]
        store.multi_set(answers, [json.dumps(ranks) for ranks in numbered])
        return numbered[0]
    answer = f"torchelastic/assigned_ranks/{node_rank}"
    if not _appear(store, [answer], deadline, is_current):
        return None
    return _read_ranks(answer, store.get(answer))


def _appear(store: Store, keys: list[str], deadline: Deadline, is_current: Callable[[], bool]) -> bool:
    """Wait for keys as long as the round stands.

    Returns:
        Whether they are there; ``False`` if the round ended.
    """
    while True:
        try:
            store.wait(keys, timedelta(seconds=min(LOOK_INTERVAL_S, max(0.001, deadline.remaining_s()))))
        except RuntimeError:  # our timeout, or a foreign store's: only the keys themselves tell which failure it was
            if store.check(keys):
                return True
        else:
            return True
        if not is_current():
            return False
        if deadline.has_passed():
            missing = [key for key in keys if not store.check([key])]
            raise RendezvousTimeoutError(
                f"waited {deadline.waited_s():.1f} s for what the other nodes run; missing: {', '.join(missing)}",
                waited_s=deadline.waited_s(),
                arrived=len(keys) - len(missing),
                expected=len(keys),
            )


def _read_node(key: str, value: bytes) -> NodeWorkers:
    try:
        info = json.loads(value)
        return NodeWorkers(str(info["role"]), int(info["local_world_size"]))
    except (ValueError, TypeError, KeyError) as error:
        raise RendezvousStateError(f"{key} holds {value[:100]!r}, which does not say what a node runs") from error


def _read_ranks(key: str, value: bytes) -> Ranks:
    try:
        first_rank, world_size, first_role_rank, role_world_size = (int(number) for number in json.loads(value))
    except (ValueError, TypeError) as error:
        raise RendezvousStateError(f"{key} holds {value[:100]!r}, which is no list of four ranks") from error
    return Ranks(first_rank, world_size, first_role_rank, role_world_size)
