"""Who is told of each change of a key: nobody, as long as nobody needs it.

Rules:

- A follower is told after the change, in the order in which followers joined.
- Without followers a change costs nothing more than without this file.

Theory of operation::

    join(leases)                ground.on_change = leases
    join(watches)               ground.on_change = both
    leave(leases)               ground.on_change = watches

What this file does not know: what changes mean, who follows and why.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from rallypoint.server.changes import Change
from rallypoint.server.ground import Ground

__all__ = ["Followers"]

_Follower: TypeAlias = Callable[[Change], None]


class Followers:
    """Those who are told of the changes of one server's keys.

    Args:
        ground: where the changes happen.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._followers: dict[_Follower, None] = {}

    def join(self, follower: _Follower) -> None:
        """Tell ``follower`` of each change from now on; joining twice is joining once."""
        if follower not in self._followers:
            self._followers[follower] = None
            self._appoint()

    def leave(self, follower: _Follower) -> None:
        """Tell ``follower`` no more."""
        if follower in self._followers:
            del self._followers[follower]
            self._appoint()

    def _appoint(self) -> None:
        followers = tuple(self._followers)
        if len(followers) < 2:
            self._ground.on_change = followers[0] if followers else None
            return

        def tell_all(change: Change) -> None:
            for follower in followers:
                follower(change)

        self._ground.on_change = tell_all
