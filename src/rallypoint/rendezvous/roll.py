"""Which nodes of a run are there: what a coordinator makes of the reports and marks that it reads and hears of.

A node is there while both its mark and its report are. What was read at once and what a watch says overlap: of two
tellings the one with the older revision is no news. Reports that cannot be read are left out, and told of.

What this file does not know: how the keys are read or watched, what follows from the news.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rallypoint.clock import Clock
from rallypoint.errors import RendezvousStateError
from rallypoint.events import emit
from rallypoint.rendezvous.board import Posted, is_mark, node_of
from rallypoint.rendezvous.office_moves import Event, Gone, Reported
from rallypoint.rendezvous.reports import Report, decode_report
from rallypoint.store.session_calls import Changed, Deleted

__all__ = ["Roll"]

LEFT_OUT_TOLD_MAX, LEFT_OUT_S = 8, 1.0
"""That reports were left out is told for so many of them in so many seconds."""


class Roll:
    """The nodes that one coordinator has heard of.

    Args:
        ttl_s: how long their leases last, for what is said of those that are gone, in seconds.
        clock: what the pauses between sentences are measured on.

    Threads: one.
    """

    def __init__(self, ttl_s: float, clock: Clock) -> None:
        self._ttl_s = ttl_s
        self._clock = clock
        self._known: dict[str, int] = {}  # the revision up to which its keys were heard of, by node
        self._here: set[str] = set()  # the nodes that are connected
        self._there: set[str] = set()  # those of them that have a report up
        self._left_out, self._left_out_until = 0, -math.inf  # how many were left out up to then

    def take(self, happened: Changed | Deleted) -> list[Event]:
        """Give what is new in what a watch says."""
        node = node_of(happened.key)
        if happened.revision <= self._known.get(node, 0):
            return []  # it was read already, or something newer
        self._known[node] = happened.revision
        if not isinstance(happened, Changed):
            del self._known[node]  # all that comes later is newer
            if is_mark(happened.key):
                self._here.discard(node)
            is_lost = is_mark(happened.key)  # else its lease has ended; who leaves has said so in its last report
            return self._gone(node, "its connection was lost" if is_lost else f"it was silent for {self._ttl_s:g} s")
        if is_mark(happened.key):
            self._here.add(node)
            return []  # its report follows
        return self._reported(node, happened.value) if node in self._here else []

    def read_all(self, found: Iterable[Posted]) -> list[Event]:
        """Give what is new in all that is there; who was there before and is not is gone."""
        posted_now = list(found)
        events: list[Event] = []
        for node in self._there - {posted.node for posted in posted_now if posted.data is not None}:
            events += self._gone(node, "its report was not there any more")
        for posted in posted_now:
            if posted.data is not None and posted.revision > self._known.get(posted.node, 0):
                events += self._reported(posted.node, posted.data)
        self._known = {posted.node: posted.revision for posted in posted_now}
        self._here = set(self._known)
        return events

    def _reported(self, node: str, data: bytes) -> list[Event]:
        report = self._decoded(node, data)
        if report is None:
            return []
        self._there.add(node)
        return [Reported(report)]

    def _decoded(self, node: str, data: bytes) -> Report | None:
        try:
            report = decode_report(data)
        except RendezvousStateError as error:
            trouble = str(error)
        else:
            if report.node == node:
                return report
            trouble = f"it is signed by {report.node[:6]}"
        self._tell_left_out(f"the report of node {node[:6]} is left out: {trouble}", node)
        return None

    def _tell_left_out(self, sentence: str, node: str) -> None:
        """Tell it, unless that was done often enough just now: whoever writes such reports may do so without end."""
        now = self._clock.now()
        if now >= self._left_out_until:
            hidden, self._left_out = max(0, self._left_out - LEFT_OUT_TOLD_MAX), 0
            self._left_out_until = now + LEFT_OUT_S
            sentence += f" (and {hidden} before, which were not told)" if hidden else ""
        self._left_out += 1
        if self._left_out <= LEFT_OUT_TOLD_MAX:
            emit("coordinator.trouble", sentence, node=node[:32])

    def _gone(self, node: str, why: str) -> list[Event]:
        if node not in self._there:
            return []
        self._there.discard(node)
        return [Gone(node, why)]
