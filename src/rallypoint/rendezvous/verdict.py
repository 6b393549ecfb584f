"""What has become of the round that a node runs its workers in: read off the state, never guessed.

Rules
-----
1. A closed run is closed for everybody, whatever else is true.
2. A node that has done its part waits for the rest of its round, and cannot be fenced from work that is finished.
3. A node that the state does not name was dropped, and has to stop its workers: a world without it may be running.
4. A round goes on for its members exactly as long as it is the present one.

What this file does not know: why the state is as it is, beyond the sentences in it; what the node will do about it.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from rallypoint.rendezvous.state import News, State

__all__ = ["Verdict", "VerdictKind", "judge"]


class VerdictKind(Enum):
    """What has become of the round that a node was admitted to."""

    CURRENT = "current"
    OVER = "over"
    CLOSED = "closed"
    FENCED = "fenced"
    CUT_OFF = "cut_off"  # never judged from a state: it means that there is none to be had

    def is_worse_than(self, other: VerdictKind) -> bool:
        """Tell whether this may be told after ``other`` of the same round; the other way round it is no news."""
        return _GRAVITY.index(self) > _GRAVITY.index(other)


_GRAVITY = (
    VerdictKind.CURRENT,
    VerdictKind.OVER,
    VerdictKind.CUT_OFF,
    VerdictKind.FENCED,
    VerdictKind.CLOSED,
)


class Verdict(NamedTuple):
    """What has become of a round, and why.

    Attributes:
        kind: what.
        why: one sentence.
        outcome: for ``CLOSED``: how the run ended.
        news: what went wrong last, the latest last, if that is known with the verdict.
    """

    kind: VerdictKind
    why: str
    outcome: str | None = None
    news: tuple[News, ...] = ()


def judge(state: State, node_id: str, entered: int) -> Verdict:
    """Say what has become of a round.

    Args:
        state: as just loaded.
        node_id: who asks.
        entered: the round that it was admitted to.
    """
    if state.closure is not None:
        return Verdict(VerdictKind.CLOSED, state.closure.why, state.closure.outcome)
    if node_id in state.done and state.round == entered:
        return Verdict(VerdictKind.CURRENT, f"{len(state.done)} of {len(state.members)} nodes are done")
    if node_id not in state.nodes:
        told = [news.message for news in state.news if news.node == node_id]
        why = told[-1] if told else "the state does not name it any more"
        return Verdict(VerdictKind.FENCED, f"this node is no longer in round {entered}: {why}")
    if state.round != entered or node_id not in state.members:
        return Verdict(VerdictKind.OVER, state.reason or f"the present round is {state.round}, not {entered}")
    return Verdict(VerdictKind.CURRENT, f"round {state.round} goes on, its world size is {len(state.members)}")
