"""Who sits in the office when nobody can decide: it tells every node that the run is over, and why.

Minutes that no node can read, because somebody else wrote that key or they are of another version, leave a run without
a coordinator for good. Its nodes would wait for each other without end; so each is told instead. The minutes stay as
they are.

``Faults`` remembers when it has come to that.

What this file does not know: what was wrong, the store, the clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from rallypoint.errors import RendezvousStateError
from rallypoint.rendezvous.office_moves import Event, Reported, Send, TookOffice
from rallypoint.rendezvous.reports import Order, OrderKind, Report
from rallypoint.rendezvous.state import MESSAGE_SIZE_MAX

__all__ = ["UNDECIDED_MAX", "Faults", "Liquidator"]

UNDECIDED_MAX: Final = 6
"""Who has taken office so often, and could decide nothing on the same minutes, tells everybody that the run is over.

Between two of these the office was free for whoever reads them."""


class Faults:
    """How often a candidate could decide nothing on the same minutes."""

    def __init__(self) -> None:
        self._revision = -1
        self._count = 0
        self._fault = ""

    def note(self, revision: int, error: Exception) -> None:
        """Note that nothing could be decided on the minutes with this revision."""
        if revision != self._revision:
            self._revision, self._count = revision, 0
        self._count += 1
        self._fault = str(error) if isinstance(error, RendezvousStateError) else repr(error)

    def verdict(self, revision: int) -> str:
        """Say why it is of no use to try again on these minutes; empty if it may be."""
        if revision != self._revision or self._count < UNDECIDED_MAX:
            return ""
        return f"nobody can coordinate it any more: {self._fault}"


class Liquidator:
    """A machine in place of ``office.Office``.

    Args:
        why: one sentence.

    Threads: one at a time.
    """

    def __init__(self, why: str) -> None:
        self._why = why if len(why) <= MESSAGE_SIZE_MAX else why[: MESSAGE_SIZE_MAX - 1] + "…"
        self._term = 0
        self._number = 0

    def step_all(self, events: Iterable[Event], now: float) -> list[Send]:  # noqa: ARG002 - as every officer's
        """Take events, and give an order for each node that has yet to hear. Cost: O(1) for each event."""
        told: list[Send] = []
        for event in events:
            if isinstance(event, TookOffice):
                self._term = event.term
                told += [self._tell(report) for report in event.reports if not _has_heard(report)]
            elif isinstance(event, Reported) and not _has_heard(event.report):
                told.append(self._tell(event.report))
        return told

    def next_deadline(self) -> float | None:
        """Nothing waits for time to pass."""
        return None

    @property
    def is_awaited(self) -> bool:
        """Whoever reads these minutes does the same."""
        return False

    def _tell(self, report: Report) -> Send:
        self._number += 1
        order = Order(
            term=self._term,
            number=self._number,
            kind=OrderKind.CLOSED,
            why=self._why,
            report=report.number,
            outcome="failed",
        )
        return Send(report.node, order)


def _has_heard(report: Report) -> bool:
    return report.has_heard or bool(report.leaving)
