"""Where the nodes of a world stand: the ways to rank them, by name.

A placement is a function of the state, the nodes that were chosen, and the rank that each node had last, in whatever
round; it gives each chosen node a rank, 0 to n-1. Names with a colon carry keys, split by plus signs or commas:
``labels:rack+host``.

========== =====================================================================================================
``sticky`` a node keeps its rank, also over a round that it missed if the rank is still free; wishes are honoured
``labels`` nodes with equal labels are neighbours: grouped by the first key, within that by the second, and so on;
           groups stand in the order of the ranks that their nodes had, then naturally by name; so do the nodes in
           them. A node without the label ``host`` is grouped by its host.
========== =====================================================================================================

What this file does not know: who is chosen, and when.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from rallypoint.rendezvous.ranks import natural_key, place_ranks
from rallypoint.rendezvous.state import Card, State

__all__ = ["DEFAULT_LABEL_KEYS", "Placement", "find_placement", "knows", "place_by_labels", "register_placement"]

DEFAULT_LABEL_KEYS = ("rack", "host")
"""The keys of ``labels`` if none are given."""


class Placement(Protocol):
    """Gives ranks; pure, and the same for the same arguments."""

    def __call__(self, state: State, chosen: Sequence[str], before: Mapping[str, int]) -> dict[str, int]:
        """Give each chosen node a rank, 0 to n-1.

        Args:
            state: the round that gathers; ``state.nodes`` has the nodes' cards.
            chosen: the ids of the nodes.
            before: node id -> the rank that it had last, for nodes that had one.
        """
        ...


_makers: dict[str, Callable[[tuple[str, ...]], Placement]] = {}


def register_placement(name: str, make: Callable[[tuple[str, ...]], Placement]) -> None:
    """Make a placement known, on every node that may coordinate.

    Args:
        name: what users write, without a colon.
        make: gets the keys behind the colon, none if there are none, and gives the placement.

    Raises:
        ValueError: if the name is taken, empty, or has a colon in it.
    """
    if not name or ":" in name:
        raise ValueError(f"a placement's name is a word without a colon, not {name!r}")
    if name in _makers:
        raise ValueError(f"there is a placement {name!r} already")
    _makers[name] = make


def knows(name: str) -> bool:
    """Tell whether there is a placement of this name."""
    return name in _makers


def find_placement(spec: str) -> Placement:
    """Give a placement by its name and keys.

    Raises:
        ValueError: if there is none, naming those that there are.
    """
    name, _, keys = spec.partition(":")
    make = _makers.get(name)
    if make is None:
        raise ValueError(f"there is no placement {name!r}; known are {', '.join(sorted(_makers))}")
    return make(tuple(key.strip() for key in keys.replace("+", ",").split(",") if key.strip()))


def place_by_labels(
    keys: Sequence[str], state: State, chosen: Sequence[str], before: Mapping[str, int]
) -> dict[str, int]:
    """Rank nodes so that those with equal labels are neighbours; ``Placement`` has the other arguments.

    Cost: O(k n log n) for n nodes and k keys.
    """
    size = len(chosen)

    def own(node_id: str) -> tuple[object, ...]:
        card = state.nodes[node_id].card
        wish = card.rank_wish if card.rank_wish is not None else size
        return before.get(node_id, size), wish, natural_key(card.host), node_id

    def order(group: Sequence[str], depth: int) -> list[str]:
        if depth == len(keys):
            return sorted(group, key=own)
        parts: dict[str, list[str]] = {}
        for node_id in group:
            parts.setdefault(_label(state.nodes[node_id].card, keys[depth]), []).append(node_id)

        def of_part(label: str) -> tuple[object, ...]:
            first = min(before.get(node_id, size) for node_id in parts[label])
            wishes = [state.nodes[node_id].card.rank_wish for node_id in parts[label]]
            return first, min((wish for wish in wishes if wish is not None), default=size), natural_key(label)

        return [node_id for label in sorted(parts, key=of_part) for node_id in order(parts[label], depth + 1)]

    return {node_id: rank for rank, node_id in enumerate(order(chosen, 0))}


def _label(card: Card, key: str) -> str:
    return card.labels.get(key, card.host if key == "host" else "")


def _make_sticky(_keys: tuple[str, ...]) -> Placement:
    return place_ranks


def _make_labels(keys: tuple[str, ...]) -> Placement:
    def place(state: State, chosen: Sequence[str], before: Mapping[str, int]) -> dict[str, int]:
        return place_by_labels(keys or DEFAULT_LABEL_KEYS, state, chosen, before)

    return place


register_placement("sticky", _make_sticky)
register_placement("labels", _make_labels)
