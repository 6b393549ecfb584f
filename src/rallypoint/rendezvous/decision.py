"""The words of the rules: who asks, by which numbers, and what a decision is.

What this file does not know: the rules.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from rallypoint.rendezvous.change import Action
from rallypoint.rendezvous.state import Card

__all__ = ["Decision", "Enter", "Rules", "Seat", "Stop", "StopKind", "Wait"]


@dataclass(frozen=True)
class Rules:
    """The numbers behind the rules; durations in seconds.

    Attributes:
        min_nodes: the fewest nodes in a round.
        max_nodes: the most.
        join_timeout_s: how long a node waits to be admitted.
        last_call_s: how long a world that is large enough waits for more.
        spare_timeout_s: how long a spare stands by; infinity for ever.
        keep_alive_interval_s: how often a node beats.
        keep_alive_max_attempt: after so many intervals without a beat a node is gone.
        answer_s: a backend that takes longer to answer is in trouble.
    """

    min_nodes: int
    max_nodes: int
    join_timeout_s: float = 600.0
    last_call_s: float = 30.0
    spare_timeout_s: float = float("inf")
    keep_alive_interval_s: float = 5.0
    keep_alive_max_attempt: int = 3
    answer_s: float = 5.0

    @property
    def dead_after_s(self) -> float:
        """How long a silent node is waited for."""
        return self.keep_alive_interval_s * self.keep_alive_max_attempt


@dataclass(frozen=True)
class Seat:
    """Who asks.

    Attributes:
        node_id: its id.
        card: how it introduces itself.
        entered: the round that it was last admitted to, which it now wants to leave behind; ``None`` if none.
        joining_since: since when it wants in, on its own clock.
    """

    node_id: str
    card: Card
    entered: int | None = None
    joining_since: float = 0.0


@dataclass(frozen=True)
class Wait:
    """Nothing to do until the state changes or time passes."""


@dataclass(frozen=True)
class Enter:
    """I am in: the round in the state is complete, and I am a member of it."""


class StopKind(Enum):
    """Why a node stops trying."""

    CLOSED = "closed"
    NOT_NEEDED = "not needed"
    TIMED_OUT = "timed out"
    REFUSED = "refused"


@dataclass(frozen=True)
class Stop:
    """I shall not get in."""

    kind: StopKind


class Decision(NamedTuple):
    """What to do and why.

    Attributes:
        action: a change to make, or what the driver is to do instead.
        why: one sentence.
    """

    action: Action | Wait | Enter | Stop
    why: str
