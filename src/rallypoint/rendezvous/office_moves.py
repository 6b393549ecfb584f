"""The words between the coordinator's machine and its driver: what can happen, and what is to be done.

What this file does not know: what follows from what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from rallypoint.rendezvous.reports import Notice, Order, Report

__all__ = [
    "DropKeySpaces",
    "Effect",
    "Event",
    "Gone",
    "Progress",
    "PutAway",
    "Record",
    "Recorded",
    "Reported",
    "Send",
    "Ticked",
    "TookOffice",
]


# --- what can happen -------------------------------------------------------------------------------------


class TookOffice(NamedTuple):
    """This coordinator was elected.

    Attributes:
        term: its fencing token, above all before.
        minutes: what the last coordinator recorded; ``None`` if there was none.
        reports: all reports that are there.
    """

    term: int
    minutes: bytes | None
    reports: tuple[Report, ...]


class Reported(NamedTuple):
    """A node wrote a report; an older or repeated one changes nothing."""

    report: Report


class Gone(NamedTuple):
    """A node's report was removed: its lease has ended, or its session.

    Attributes:
        node: its id.
        why: the end of a sentence, such as ``"its connection was lost"``.
    """

    node: str
    why: str


class Recorded(NamedTuple):
    """The minutes of a ``Record`` are stored; only now does the machine act on them."""

    number: int


class Ticked(NamedTuple):
    """``next_deadline`` has come."""


Event: TypeAlias = TookOffice | Reported | Gone | Recorded | Ticked


# --- what is to be done ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """Store these minutes, then say ``Recorded(number)``; a coordinator that cannot is deposed.

    Attributes:
        number: which; never more than one is under way.
        minutes: a few bytes, and about 100 for each node.
    """

    number: int
    minutes: bytes


@dataclass(frozen=True)
class Send:
    """Tell a node."""

    node: str
    order: Order


@dataclass(frozen=True)
class Progress:
    """Let those who read it know how far the round is; at most once a second."""

    notice: Notice


@dataclass(frozen=True)
class DropKeySpaces:
    """What rounds shared is not needed any more.

    Attributes:
        below: that of all rounds below this one; ``None``: whatever there is, of an earlier run of the same name.
    """

    below: int | None


@dataclass(frozen=True)
class PutAway:
    """The run has ended and everybody has heard: keep these minutes for some time, and nothing of its workers.

    Attributes:
        minutes: as in ``Record``.
        round: the last one.
    """

    minutes: bytes
    round: int


Effect: TypeAlias = Record | Send | Progress | DropKeySpaces | PutAway
