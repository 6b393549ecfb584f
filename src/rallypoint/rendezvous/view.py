"""What one node remembers of its earlier looks at the state, timed on its own clock.

Rules
-----
1. A node is judged by one thing: for how long its beat has not moved *while I was watching*. No time of another host
   is ever read.
2. A gap between two looks counts for at most one keep-alive interval. So an observer that was itself frozen or cut
   off, and a store that did not answer for a while, make nobody look dead.
3. How long a world has been large enough, a proposal open, a node standing by: measured the same way, from the look
   at which I first saw it.
4. Looks may arrive out of order (two threads of one driver); one that is older than the last changes nothing.

::

    my clock   0     5     10    15    20
    beat of B  7     8     8     8     8
    silence    0     0     5     10    15        B is gone once this is more than interval x attempts

What this file does not know: what follows from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rallypoint.rendezvous.state import Phase, Standing, State

__all__ = ["Silence", "View"]


class Silence(NamedTuple):
    """How long one beat has been watched without moving.

    Attributes:
        beat: the beat.
        watched_s: seconds of watching.
    """

    beat: int
    watched_s: float


@dataclass(frozen=True)
class View:
    """One observer's memory; a new one has seen nothing.

    Attributes:
        born: which life of the run was seen.
        version: the latest version seen; -1 before the first look.
        seen_at: when that was, in seconds on the observer's clock.
        silences: how long each node has been silent.
        enough_since: since when there are enough nodes for the round ``enough_round``, spares counted; ``None`` while
            there are not.
        enough_round: see there.
        proposed_since: since when the proposal with the number ``proposal`` is known.
        proposal: see there.
        spare_since: since when this node stands by; ``None`` while it does not.
        spare_until: when this node was last seen to stand by; minus infinity if never.
    """

    born: str = ""
    version: int = -1
    seen_at: float = 0.0
    silences: Mapping[str, Silence] = field(default_factory=dict)
    enough_since: float | None = None
    enough_round: int = -1
    proposed_since: float = 0.0
    proposal: int = -1
    spare_since: float | None = None
    spare_until: float = float("-inf")

    def observe(self, state: State, node_id: str, interval_s: float, now: float) -> View:
        """Give the memory after one more look.

        Args:
            state: what was seen.
            node_id: the observer itself.
            interval_s: the keep-alive interval, in seconds.
            now: seconds on the observer's monotonic clock, the same as in earlier calls.

        Cost: O(n) for n nodes.
        """
        before = self if self.born == state.born else View()
        if state.version < before.version:
            return self
        gap_s = min(max(0.0, now - before.seen_at), interval_s) if before.version >= 0 else 0.0
        silences: dict[str, Silence] = {}
        for other, node in state.nodes.items():
            known = before.silences.get(other)
            watched_s = known.watched_s + gap_s if known is not None and known.beat == node.beat else 0.0
            silences[other] = Silence(node.beat, watched_s)
        enough_since = None
        if _has_enough(state):
            same = before.enough_since is not None and before.enough_round == state.round
            enough_since = before.enough_since if same else now
        is_spare = node_id in state.standing(Standing.SPARE)
        return View(
            born=state.born,
            version=state.version,
            seen_at=now,
            silences=silences,
            enough_since=enough_since,
            enough_round=state.round,
            proposed_since=before.proposed_since if before.proposal == state.proposal else now,
            proposal=state.proposal,
            spare_since=(now if before.spare_since is None else before.spare_since) if is_spare else None,
            spare_until=now if is_spare else before.spare_until,
        )

    def silent_s(self, node_id: str) -> float:
        """Give for how long a node's beat was watched without moving, in seconds; 0 for a node never seen."""
        known = self.silences.get(node_id)
        return known.watched_s if known is not None else 0.0


def _has_enough(state: State) -> bool:
    """Tell whether the nodes that are there could make up the round that is not complete yet."""
    ready = len(state.standing(Standing.READY))
    spares = len(state.standing(Standing.SPARE))
    return state.phase is not Phase.COMPLETE and ready > 0 and ready + spares >= state.min_nodes
