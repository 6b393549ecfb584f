"""What can be done to the state of a run, as values; ``change`` does it.

What this file does not know: what follows from an action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from rallypoint.rendezvous.state import Card
from rallypoint.types import Endpoint

__all__ = [
    "Acknowledge",
    "Action",
    "Beat",
    "Close",
    "Drop",
    "Fail",
    "Hear",
    "Join",
    "Leave",
    "Propose",
    "StandBy",
    "Succeed",
    "Withdraw",
]


@dataclass(frozen=True)
class Join:
    """I want in. Ends a complete round, and reopens a proposal that I am not in.

    Attributes:
        card: who I am.
        min_nodes: the bounds I was told; they become the run's if nobody else is there.
        max_nodes: see ``min_nodes``.
    """

    card: Card
    min_nodes: int
    max_nodes: int


@dataclass(frozen=True)
class StandBy:
    """There is no room; I wait for some.

    Attributes:
        card: who I am.
    """

    card: Card


@dataclass(frozen=True)
class Beat:
    """I live."""


@dataclass(frozen=True)
class Drop:
    """Others are gone.

    Attributes:
        nodes: node id -> what is said about it, as the end of a sentence.
    """

    nodes: Mapping[str, str]


@dataclass(frozen=True)
class Propose:
    """This is to be the world.

    Attributes:
        ranks: node id -> rank, 0 to n-1.
        is_in_place: whether the members of the round before may have yet to come back; they acknowledge when they do.
    """

    ranks: Mapping[str, int]
    is_in_place: bool = False


@dataclass(frozen=True)
class Withdraw:
    """The proposal is given up; the round gathers again."""


@dataclass(frozen=True)
class Acknowledge:
    """I am here and agree to a proposal.

    Attributes:
        proposal: its number.
        endpoint: where I serve the workers' store; given by rank 0, ignored from others.
    """

    proposal: int
    endpoint: Endpoint | None = None


@dataclass(frozen=True)
class Succeed:
    """All my workers have ended well.

    Attributes:
        round: the round in which they ran.
    """

    round: int


@dataclass(frozen=True)
class Fail:
    """A worker of mine failed.

    Attributes:
        round: the round in which it ran.
        message: one sentence, or the first lines of the error.
        exit_code: its exit code; negative: the number of the signal that ended it.
        final: whether no restart is left, so that the run closes.
    """

    round: int
    message: str
    exit_code: int
    final: bool


@dataclass(frozen=True)
class Leave:
    """I go away on purpose.

    Attributes:
        why: one sentence.
        is_stopping: whether my workers have yet to end: I take no part any more, but am there until they have.
    """

    why: str
    is_stopping: bool = False


@dataclass(frozen=True)
class Close:
    """The run ends, with an outcome (``"succeeded"``, ``"failed"`` or ``"closed"``) and a sentence that says why."""

    outcome: str
    why: str


@dataclass(frozen=True)
class Hear:
    """I know that the run is closed; whoever holds the store need not stay for me."""


Action: TypeAlias = (
    Join | StandBy | Beat | Drop | Propose | Acknowledge | Succeed | Fail | Leave | Close | Hear | Withdraw
)
