"""Who gets in under a coordinator: the rules of ``gathering`` on behalf of all nodes, one after the other.

Rules
-----
1. A node that wants in gets what ``find_place`` gives it, unless its host cools down, it was told other bounds or
   another kind of workers' store than the run has, or newcomers may not end rounds any more.
2. A member that does not acknowledge a proposal in time is dropped, and counts again once it reports anew.
3. When a round ends with all its members alive and nobody new, the same world is proposed at once, without a
   gathering: members acknowledge as they come back. Whoever takes too long is waited for in a gathering then.
4. A newcomer reopens a proposal while there is room, but is not proposed at once: others may be on its heels.
5. Everybody who lives is known here, by its report: so once those of the last round are back, no last call is needed.

What this file does not know: what is written down and told, and when.
"""

from __future__ import annotations

from collections.abc import Mapping

from rallypoint.rendezvous.actions import Drop, Join, Leave, Propose, StandBy, Withdraw
from rallypoint.rendezvous.affairs import Affairs
from rallypoint.rendezvous.decision import Rules
from rallypoint.rendezvous.gathering import (
    Bid,
    choose_world,
    find_place,
    refuse_other_bounds,
    refuse_other_store,
    tell_wait,
)
from rallypoint.rendezvous.orders import Clerk
from rallypoint.rendezvous.placement import Placement
from rallypoint.rendezvous.policy import host_of
from rallypoint.rendezvous.ranks import place_ranks
from rallypoint.rendezvous.reports import Report
from rallypoint.rendezvous.state import NODE_COUNT_MAX, Phase, Standing

__all__ = ["REOPEN_PAUSE_S", "Admission"]

REOPEN_PAUSE_S = 0.05
"""A proposal that a newcomer reopened is made anew after this time, so that those who come one by one cost the others
one proposal in so many seconds, not one each."""


class Admission:
    """Lets nodes in, for one coordinator.

    Args:
        affairs: the run.
        clerk: is told why nodes are kept out.
        rules: the numbers.
        place: gives ranks.
        heard: node -> the number of its last report that counts no more.
        worker_store: the kind of store that the workers of the run's nodes get; empty if it has no nodes.

    Attributes:
        heard: see there, as it is now.
        reports: the last report of each node; the office keeps it.
        held_until: no acknowledgement counts before that; the office keeps it.
    """

    def __init__(  # noqa: PLR0917 - what it stands between
        self,
        affairs: Affairs,
        clerk: Clerk,
        rules: Rules,
        place: Placement,
        heard: Mapping[str, int],
        worker_store: str = "",
    ) -> None:
        self.heard = dict(heard)
        self.reports: dict[str, Report] = {}
        self._affairs = affairs
        self._clerk = clerk
        self._rules = rules
        self._place = place
        self._worker_store = worker_store
        self._cooling: dict[str, float] = {}
        self._enough_since: float | None = None
        self._enough_round = -1
        self._paused_until = float("-inf")
        self._is_pausing = False
        self.held_until = float("-inf")

    def forget(self, node_id: str) -> None:
        """A node is gone."""
        self.reports.pop(node_id, None)
        self.heard.pop(node_id, None)
        self._cooling.pop(node_id, None)

    def next_deadline(self) -> float | None:
        """Give when ``pass_time`` and ``gather`` have something to do, ``None`` if never."""
        state = self._affairs.state
        if state.closure is not None:
            return None
        times = list(self._cooling.values())
        if state.phase is Phase.PROPOSED:
            times.append(self._patience_ends())
        elif state.phase is Phase.GATHERING and self._enough_since is not None:
            times.append(max(self._enough_since + self._rules.last_call_s, self._paused_until))
            if self._is_pausing:
                times.append(self._paused_until)
        return min(times, default=None)

    def tell_wait(self, now: float) -> str:
        """Say what the round waits for; empty if it does not gather."""
        state = self._affairs.state
        if state.phase is not Phase.GATHERING or state.closure is not None:
            return ""
        enough_s = None if self._enough_since is None else now - self._enough_since
        return tell_wait(state, self._affairs.census, enough_s, self._rules.last_call_s)

    # --- one node --------------------------------------------------------------------------------------------

    def let_in(self, report: Report, now: float) -> None:
        """Give a node that wants in its place, if it has none and may have one.

        Cost: O(1), but for the sentence of a node that has to stand by.
        """
        state, me = self._affairs.state, report.node
        if report.number <= self.heard.get(me, -1) or state.closure is not None:
            return
        node = state.nodes.get(me)
        if node is None:
            if len(state.nodes) >= NODE_COUNT_MAX:
                self._clerk.refuse(me, f"the run has {len(state.nodes)} nodes already, the most that one may have")
                return
            if self._is_cooling(report, now):
                return
        elif me in state.members and report.acknowledged == state.proposal and report.entered != state.round:
            if state.phase is Phase.PROPOSED and node.standing is Standing.RUNNING:
                self._join(report, now)
            return  # otherwise it has yet to read that it is in, or the others have yet to acknowledge
        bid = Bid(me, report.card, report.min_nodes, report.max_nodes)
        if not self._worker_store or len(state.nodes) == (me in state.nodes):
            self._worker_store = report.worker_store
        refusal = refuse_other_bounds(state, bid) or refuse_other_store(state, report.worker_store, self._worker_store)
        if refusal is not None:
            self._clerk.refuse(me, refusal.why)
            return
        decision = find_place(state, bid, self._affairs.census)
        if decision is None:
            return
        self._clerk.clear(me)
        if isinstance(decision.action, StandBy):
            self._clerk.stand_by(me, decision.why)
            self._affairs.act(decision.action, me, now)
        elif isinstance(decision.action, Join):
            self._join(report, now)

    def look_at_idle(self, report: Report, now: float) -> None:
        """A node that does not want in either runs in the present round, has yet to stop, or is on its way out."""
        state = self._affairs.state
        node = state.nodes.get(report.node)
        if node is None or state.closure is not None:
            return
        is_member = state.phase is Phase.COMPLETE and report.node in state.members
        if node.standing is not Standing.RUNNING or (is_member and report.entered != state.round):
            self._affairs.act(Leave("it does not want in any more"), report.node, now, cause="left")

    def _join(self, report: Report, now: float) -> None:
        state, me, ledger = self._affairs.state, report.node, self._affairs.ledger
        if state.phase is Phase.COMPLETE and me not in state.members and not ledger.has_left("joined"):
            self._clerk.stand_by(me, ledger.tell_limit("joined"))
            self._affairs.act(StandBy(report.card), me, now)
            return
        self._affairs.act(Join(report.card, report.min_nodes, report.max_nodes), me, now, cause="joined")
        has_reopened = state.phase is Phase.PROPOSED and self._affairs.state.phase is Phase.GATHERING
        if has_reopened and now >= self._paused_until:
            self._paused_until = now + REOPEN_PAUSE_S

    def _is_cooling(self, report: Report, now: float) -> bool:
        ledger = self._affairs.ledger
        left_s = ledger.cooling_s(host_of(report.card), now)
        if left_s <= 0.0:
            self._cooling.pop(report.node, None)
            return False
        self._cooling[report.node] = now + left_s
        self._clerk.keep_out(report.node, ledger.tell_cooling(host_of(report.card), now))
        return True

    # --- all of them -----------------------------------------------------------------------------------------

    def pass_time(self, now: float) -> list[str]:
        """Do what only time asks for; give the nodes whose cool-down is over."""
        ready = [node_id for node_id, until in self._cooling.items() if until <= now]
        for node_id in ready:
            del self._cooling[node_id]
            self.let_in(self.reports[node_id], now)
        state = self._affairs.state
        if state.phase is Phase.PROPOSED and state.closure is None and now >= self._patience_ends():
            self._end_patience(now)
        return ready

    def _is_in_place(self) -> bool:
        """Tell whether the world was proposed while its members had yet to come back, and some still have."""
        return not self._affairs.census.returning.isdisjoint(self._affairs.state.members)

    def _patience_ends(self) -> float:
        affairs, rules = self._affairs, self._rules
        if self._is_in_place():
            return affairs.proposed_since + rules.last_call_s
        return max(max(affairs.proposed_since, affairs.returned_at) + rules.dead_after_s, self.held_until)

    def _end_patience(self, now: float) -> None:
        state, limit_s = self._affairs.state, self._rules.dead_after_s
        if self._is_in_place():
            self._affairs.act(Withdraw(), "", now)
            return
        why = f"it did not acknowledge the proposal for round {state.round} within {limit_s:g} s"
        for node_id in state.unacknowledged:
            self.heard[node_id] = self.reports[node_id].number
            self._affairs.act(Drop({node_id: why}), "", now, about=node_id, cause="dropped")

    def take_back(self, now: float) -> None:
        """Let those in whose round ended before they could read that they were in it: they still want in.

        Cost: O(n) after a new stage of n nodes, else O(1).
        """
        affairs = self._affairs
        if not affairs.is_new_stage or affairs.state.phase is Phase.COMPLETE:
            return
        for node_id in sorted(affairs.census.returning):
            report = self.reports.get(node_id)
            if report is not None and report.wants_in:
                self.let_in(report, now)

    def seat_spares(self, now: float) -> None:
        """Let those who stand by in, as soon as there is room."""
        affairs = self._affairs
        is_open = affairs.state.closure is None and affairs.state.phase is not Phase.PROPOSED
        if not is_open or not affairs.has_moved or affairs.census.spares == 0:
            return
        for node_id in affairs.state.standing(Standing.SPARE):
            self.let_in(self.reports[node_id], now)
            node = affairs.state.nodes.get(node_id)
            if node is not None and node.standing is Standing.SPARE:
                return

    def gather(self, now: float) -> None:
        """Propose a world, if it is time.

        Cost: O(1) if it is not, else O(n log n) for n nodes.
        """
        affairs = self._affairs
        state, census = affairs.state, affairs.census
        if state.closure is not None:
            return
        if self._propose_again(now):
            return
        if not census.has_enough(state):
            self._enough_since = None
            return
        if self._enough_since is None or self._enough_round != state.round:
            self._enough_since, self._enough_round = now, state.round
        enough_s, last_call_s = now - self._enough_since, self._rules.last_call_s
        is_full = census.ready + census.spares >= state.max_nodes
        may_be_whole = bool(state.previous) and not census.returning
        self._is_pausing = now < self._paused_until and not is_full
        if self._is_pausing:
            return
        if state.phase is Phase.GATHERING and (enough_s >= last_call_s or is_full or may_be_whole):
            choice = choose_world(state, enough_s, last_call_s, knows_everybody=True)
            if choice is not None:
                affairs.act(Propose(self._rank(choice.node_ids)), "", now)

    def _propose_again(self, now: float) -> bool:
        """Propose the world of the round that has just ended, if it is still there and nobody new wants in."""
        affairs, state = self._affairs, self._affairs.state
        if not affairs.has_just_ended or state.phase is not Phase.GATHERING:
            affairs.has_just_ended = False
            return False
        affairs.has_just_ended = False
        members = state.previous
        news = sum(
            node.standing is not Standing.RUNNING
            and (node.standing is Standing.READY or len(members) < state.max_nodes)
            for node_id, node in state.nodes.items()
            if node_id not in members
        )
        if news or not members.keys() <= state.nodes.keys() or len(members) < state.min_nodes:
            return False
        affairs.act(Propose(members, is_in_place=True), "", now)
        return affairs.state.phase is Phase.PROPOSED

    def _rank(self, chosen: list[str]) -> dict[str, int]:
        """Rank the chosen; a placement of somebody else's that gives no ranks is not asked again."""
        state, before = self._affairs.state, self._affairs.last_ranks
        ranks = self._place(state, chosen, before)
        is_whole = set(ranks) == set(chosen) and sorted(ranks.values()) == list(range(len(chosen)))
        return ranks if is_whole else place_ranks(state, chosen, before)
