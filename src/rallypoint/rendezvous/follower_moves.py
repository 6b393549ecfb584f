"""The words between a node's machine and its driver: what can happen to a node, and what it does about it.

What this file does not know: what follows from what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from rallypoint.rendezvous.decision import StopKind
from rallypoint.rendezvous.reports import Notice, Order, Report
from rallypoint.rendezvous.verdict import Verdict
from rallypoint.types import Endpoint

__all__ = [
    "AllSucceeded",
    "Closing",
    "Doubted",
    "Effect",
    "Enter",
    "Event",
    "Going",
    "Granted",
    "LeaseLost",
    "Leaving",
    "Ordered",
    "Progressed",
    "Publish",
    "Renewed",
    "Say",
    "Serve",
    "Served",
    "Stop",
    "Tell",
    "Ticked",
    "Wanted",
    "WorkerFailed",
]


# --- what can happen -------------------------------------------------------------------------------------


class Wanted(NamedTuple):
    """The node wants in; whatever round it was in is behind it, and its workers are stopped."""


class Ordered(NamedTuple):
    """The coordinator's order for this node was read; an older or repeated one changes nothing."""

    order: Order


class Progressed(NamedTuple):
    """What everybody may read of how far the round is."""

    notice: Notice


class Renewed(NamedTuple):
    """A renewal of the node's lease was acknowledged.

    Attributes:
        sent_at: when it was sent, on the driver's clock.
    """

    sent_at: float


class LeaseLost(NamedTuple):
    """The store has ended the node's lease, and with it the report is gone."""

    why: str


class Doubted(NamedTuple):
    """What is known of the node's session has changed: its connection was lost, or made again.

    Attributes:
        ends_at: when the store may end the session, on the driver's clock; infinity: there is no doubt that it lasts.
    """

    ends_at: float


class Granted(NamedTuple):
    """The node has a new lease: its report has to be written again."""


class Served(NamedTuple):
    """The workers' store for a proposal is open."""

    proposal: int
    endpoint: Endpoint


class WorkerFailed(NamedTuple):
    """A worker of the node failed; the attributes are those of a ``Failure`` in a report."""

    message: str
    exit_code: int
    final: bool


class AllSucceeded(NamedTuple):
    """All workers of the node have ended well."""


class Going(NamedTuple):
    """The node was asked to go, and will leave as soon as its workers, which are being stopped, have ended."""

    why: str


class Leaving(NamedTuple):
    """The node goes away for good."""

    why: str


class Closing(NamedTuple):
    """The node wants the run to end for everybody."""

    why: str


class Ticked(NamedTuple):
    """``next_deadline`` has come."""


Event: TypeAlias = (
    Wanted
    | Ordered
    | Progressed
    | Renewed
    | LeaseLost
    | Doubted
    | Granted
    | Served
    | WorkerFailed
    | AllSucceeded
    | Going
    | Leaving
    | Closing
    | Ticked
)


# --- what is to be done ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Publish:
    """Write this report under the node's lease; it replaces all that were not written yet."""

    report: Report


@dataclass(frozen=True)
class Serve:
    """Open the workers' store for a proposal, then say ``Served``.

    Attributes:
        proposal: its number.
        round: the round that it is for.
    """

    proposal: int
    round: int


@dataclass(frozen=True)
class Enter:
    """The node is in; the order says where."""

    order: Order


@dataclass(frozen=True)
class Stop:
    """The node will not get in.

    Attributes:
        kind: why, as a word.
        why: why, as a sentence.
        outcome: if the run has ended: how.
    """

    kind: StopKind
    why: str
    outcome: str | None = None


@dataclass(frozen=True)
class Tell:
    """What has become of the round that the node is in."""

    verdict: Verdict


@dataclass(frozen=True)
class Say:
    """What the node waits for, for the log; said when it changes."""

    why: str


Effect: TypeAlias = Publish | Serve | Enter | Stop | Tell | Say
