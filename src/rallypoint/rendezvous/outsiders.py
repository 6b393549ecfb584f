"""Nodes that a proposed world leaves out although workers of an earlier round may still run there.

Rules
-----
1. A node that is connected, and whose last report does not say that its workers are gone, may run them: it was slow to
   stop them, or has read of its admission to a round that was over by then.
2. Such a node is fenced as soon as a world without it is proposed, and that world is not complete before the node has
   reported anew, or is gone: else two worlds would run at once.
3. One that does not answer for ``patience_s`` holds nobody up any longer: it renews its lease, and does nothing else.
4. A node that is going has said that it stops its workers, and that it leaves when they have ended. It is not fenced,
   because its workers have their time, and it is waited for until it has left or is gone, however long that takes.

What this file does not know: how it is told, who decides on worlds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rallypoint.rendezvous.gathering import name_nodes
from rallypoint.rendezvous.reports import Report
from rallypoint.rendezvous.state import Phase, State

__all__ = ["Outsiders"]


class Outsiders:
    """Those of the present proposal.

    Args:
        patience_s: for how long a proposal is held up for them, in seconds.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._nodes: set[str] = set()
        self._going: set[str] = set()
        self._proposal = -1
        self._completed: int | None = None  # the proposal that the last complete world was
        self._until = float("-inf")

    def look(self, state: State, reports: Mapping[str, Report], affected: Iterable[str], now: float) -> None:
        """Take note of what has changed.

        Args:
            state: as decided.
            reports: of all nodes that are connected.
            affected: those that have reported since the last look.
            now: seconds on the coordinator's clock.

        Cost: O(n) for n nodes after each proposal, else O(1) for each node that is affected.
        """
        if state.phase is not Phase.PROPOSED:
            if state.phase is Phase.COMPLETE:
                self._completed = state.proposal
            self._clear()
            self._proposal = -1
            return
        if state.proposal != self._proposal:
            self._clear()
            self._proposal, self._until = state.proposal, now + self._patience_s
            affected = reports
        for node_id in affected:
            report = reports.get(node_id)
            self.forget(node_id)
            if report is not None and node_id not in state.members and self._may_run(report):
                (self._going if report.going else self._nodes).add(node_id)

    def _clear(self) -> None:
        self._nodes.clear()
        self._going.clear()

    def _may_run(self, report: Report) -> bool:
        if report.leaving:
            return False
        if report.wants_in:  # it may read of its admission only now, if what it acknowledged became a world
            completed = report.acknowledged if self._completed is None else self._completed
            return report.acknowledged not in {0, self._proposal} and report.acknowledged == completed
        return report.entered is not None and report.done != report.entered

    def __contains__(self, node_id: str) -> bool:
        """Tell whether a node is one of them, and is to be fenced."""
        return node_id in self._nodes

    def forget(self, node_id: str) -> None:
        """A node is gone."""
        self._nodes.discard(node_id)
        self._going.discard(node_id)

    def held_until(self) -> float:
        """Give until when the proposal must not be complete, unless all report before.

        Returns:
            Seconds on the coordinator's clock; minus infinity: it may be now; infinity: only once they have reported.
        """
        if self._going:
            return float("inf")
        return self._until if self._nodes else float("-inf")

    def tell_wait(self, state: State) -> str:
        """Say who that is going is waited for; empty if nobody is.

        Args:
            state: as decided.
        """
        if not self._going:
            return ""
        verb = "is" if len(self._going) == 1 else "are"
        who = name_nodes(state, self._going)
        return f"round {state.round} is proposed, and waits for the workers of {who} to end, which {verb} going"
