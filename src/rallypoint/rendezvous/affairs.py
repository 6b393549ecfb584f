"""The affairs of a coordinated run: its state, what has been counted in it, and what its changes cost.

Rules
-----
1. Every change goes through ``act`` or ``make``, so that the census, the ledger and what was noticed keep up.
2. A round that ends early is counted under its cause; if that cause has no restart left, the run is closed as failed.
   A node that comes never closes a run.

What this file does not know: who asked for a change, who is told of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rallypoint.rendezvous.actions import Action, Close, Join
from rallypoint.rendezvous.change import change, draft
from rallypoint.rendezvous.gathering import Census, take_census
from rallypoint.rendezvous.policy import Ledger, host_of
from rallypoint.rendezvous.state import Node, Phase, State

__all__ = ["RANKS_KEPT_MAX", "Affairs", "Decided"]

RANKS_KEPT_MAX = 16_384
"""So many nodes' last ranks are remembered."""


class Decided(NamedTuple):
    """What must be written down before anybody is told; compared to see whether the minutes are behind."""

    round: int
    phase: Phase
    proposal: int
    is_closed: bool


class Affairs:
    """A run's state, and what goes with it.

    Args:
        state: as it stands.
        ledger: what the run has cost.
        last_ranks: see there, as written down.
        now: seconds on the coordinator's clock, as in all methods.

    Attributes:
        state: as it stands now.
        ledger: see there.
        last_ranks: node id -> the rank that it had last, the latest last; at most ``RANKS_KEPT_MAX``.
        proposed_since: when the latest proposal was made, or taken over.
        returned_at: when a member last came back to a proposal that was made without it being back.
        has_just_ended: whether a round has ended since somebody set this to false.
        has_moved: whether anything has changed since somebody set this to false.
        is_new_stage: whether ``decided`` has changed since somebody set this to false: that concerns everybody.
    """

    def __init__(self, state: State, ledger: Ledger, last_ranks: Mapping[str, int], now: float) -> None:
        self.state = draft(state)
        self.ledger = ledger
        self.last_ranks = dict(last_ranks)
        self.proposed_since = now
        self.returned_at = float("-inf")
        self.has_just_ended = False
        self.has_moved = self.is_new_stage = True
        self._census: Census | None = None
        self._intruders: set[str] = set()  # their coming ended a round, and they are in none yet

    @property
    def decided(self) -> Decided:
        """What must be written down before anybody is told."""
        return _decided(self.state)

    @property
    def census(self) -> Census:
        """What the rules count.

        Cost: O(n) for n nodes after each new stage, else O(1).
        """
        if self._census is None:
            self._census = take_census(self.state)
        return self._census

    @property
    def other_ranks(self) -> dict[str, int]:
        """The last ranks of the nodes of which the state itself does not tell them."""
        told = self.state.members.keys() | self.state.previous.keys()
        return {node_id: rank for node_id, rank in self.last_ranks.items() if node_id not in told}

    def act(self, action: Action, me: str, now: float, *, about: str = "", cause: str = "") -> None:
        """Change the state, and count what that costs.

        Args:
            action: what to do.
            me: on whose behalf; empty: on the coordinator's own.
            now: see the class.
            about: the node that would have to answer for the end of a round; ``me`` if empty.
            cause: the cause under which that is counted; empty for an action that ends none.
        """
        before, about = self.state, about or me
        node = before.nodes.get(about)  # read now: a draft is edited where it is
        self.make(change(before, action, me), now)
        state = self.state
        if self._census is not None:
            after = state.nodes.get(about)
            self._census.note(about, node.standing if node else None, after.standing if after else None)
        if isinstance(action, Join) and state.phase is Phase.PROPOSED and state.proposal == before.proposal:
            self.returned_at = now
        if not cause or (state.closure is not None and before.closure is None):
            return
        self._note_flapping(before, node, about, cause, now)
        if state.round == before.round:
            return
        if cause != "joined" and not self.ledger.has_left(cause):
            why = f"{state.reason}; {self.ledger.tell_limit(cause)}"
            self.make(change(state, Close("failed", why), ""), now)
            return
        self.has_just_ended = True
        self.ledger.count(cause)

    def make(self, after: State, now: float) -> None:
        """Let this be the state."""
        before = self.state
        if after is before:
            return
        self.state, self.has_moved = after, True
        if _decided(before) == _decided(after):
            return
        self._census, self.is_new_stage = None, True
        if after.phase is Phase.PROPOSED and after.proposal != before.proposal:
            self.proposed_since = now
        elif after.phase is Phase.COMPLETE and before.phase is Phase.PROPOSED:
            self.ledger.note_admitted(after.members, now)
            self._intruders.difference_update(after.members)
            others = {node_id: rank for node_id, rank in self.last_ranks.items() if node_id not in after.members}
            self.last_ranks = dict(list((others | after.members).items())[-RANKS_KEPT_MAX:])

    def _note_flapping(self, before: State, node: Node | None, about: str, cause: str, now: float) -> None:
        has_ended = self.state.round != before.round
        if cause == "joined":
            if has_ended and about not in before.members:
                self._intruders.add(about)
        elif node is None:
            return
        elif cause == "failed":
            if has_ended:
                self.ledger.note_failed(about, host_of(node.card), now)
        elif about not in self.state.nodes:
            has_cost = about in self._intruders or (before.phase is Phase.PROPOSED and about in before.members)
            self.ledger.note_gone(about, host_of(node.card), has_cost, now)
            self._intruders.discard(about)


def _decided(state: State) -> Decided:
    return Decided(state.round, state.phase, state.proposal, state.closure is not None)
