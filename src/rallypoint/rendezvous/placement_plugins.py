"""Placements that installed packages announce, under their names.

A plug-in is an entry point of group ``rallypoint.placements``: what ``register_placement`` takes. It is looked for when
a name is asked for that nobody registered, on every node, because any of them may coordinate.
"""

from __future__ import annotations

import importlib.metadata

from rallypoint.rendezvous.placement import Placement, find_placement, knows, register_placement

__all__ = ["ENTRY_POINT_GROUP", "load_placement"]

ENTRY_POINT_GROUP = "rallypoint.placements"
"""Where installed packages announce placements."""


def load_placement(spec: str) -> Placement:
    """Give a placement by its name and keys; an installed package's is registered for that.

    Raises:
        ValueError: if there is none, naming those that there are, or if a plug-in cannot be loaded.
    """
    name = spec.partition(":")[0]
    if not knows(name):
        for point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name=name):
            try:
                register_placement(name, point.load())
            except Exception as error:  # whatever a plug-in does wrong, the user is told which one it was
                raise ValueError(f"the placement {point.value!r} cannot be used: {error!r}") from error
            break
    return find_placement(spec)
