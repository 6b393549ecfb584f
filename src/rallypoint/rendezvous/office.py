"""What the coordinator of a run decides: the rules of ``gathering`` and ``change``, applied in one place for all nodes.

Rules
-----
1. Each node says in its report where it stands; the coordinator does on its behalf what ``decide`` would have it do.
   Dead nodes are those whose report is gone: the store's leases judge that, nobody's clock here.
2. What must outlive the coordinator goes into minutes, and no order that follows from it is sent before they are
   stored. At most one record is under way; what happens meanwhile waits, and is then dealt with in one go.
3. Orders are a projection of the state: a node is sent one only when where it stands has changed, or when it wants in
   anew. An arrival makes one order, for who arrived; how far the round is, everybody reads in ``Progress``.
4. A node that is not in the state but says that it is in a round is fenced. A successor takes up the minutes and the
   reports: a complete round whose members still report it goes on, nobody restarts because a coordinator died.

Theory of operation
-------------------
::

    Reported, Gone --> queue --> apply to the state --> decided something? --yes--> Record ... Recorded --+
                                     ^                        | no                                        |
                                     |                        v                                           v
                                     +---- queue, again <-- Send to those for whom something has changed

What this file does not know: the store, leases, threads, the clock; how an election is won.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from msgspec.structs import replace

from rallypoint.rendezvous.actions import Action, Close, Drop, Fail, Hear, Join, Leave, Propose, StandBy, Succeed
from rallypoint.rendezvous.change import acknowledge, change, draft
from rallypoint.rendezvous.decision import Rules, Stop
from rallypoint.rendezvous.gathering import (
    Bid,
    Census,
    choose_world,
    find_place,
    refuse_other_bounds,
    take_census,
    tell_wait,
)
from rallypoint.rendezvous.minutes import Minutes, decode_minutes, encode_minutes
from rallypoint.rendezvous.office_moves import (
    DropKeySpaces,
    Effect,
    Event,
    Gone,
    Progress,
    Record,
    Recorded,
    Reported,
    Send,
    Ticked,
    TookOffice,
)
from rallypoint.rendezvous.orders import Clerk
from rallypoint.rendezvous.policy import Books, Ledger, Policy
from rallypoint.rendezvous.ranks import place_ranks
from rallypoint.rendezvous.reports import Report
from rallypoint.rendezvous.state import Node, Phase, Standing, State, new_state
from rallypoint.types import Endpoint

__all__ = [
    "DropKeySpaces",
    "Effect",
    "Event",
    "Gone",
    "Office",
    "Progress",
    "Record",
    "Recorded",
    "Reported",
    "Send",
    "Ticked",
    "TookOffice",
]

PROGRESS_INTERVAL_S = 1.0
"""Progress is told, and who is done is recorded, at most this often."""


class _Decided(NamedTuple):
    """What must be in the minutes before anybody is told; compared to see whether they are behind."""

    round: int
    phase: Phase
    proposal: int
    is_closed: bool


class Office:
    """The coordinator's machine; it has no office before ``TookOffice``.

    Args:
        rules: the numbers; the bounds count if nobody has joined yet.
        policy: what the run may cost; counts if there are no minutes yet.

    Attributes:
        state: the run as it stands, for looking at.

    Threads: one at a time.
    """

    def __init__(self, rules: Rules, policy: Policy = Policy()) -> None:  # noqa: B008 - frozen
        self._rules = rules
        self._policy = policy
        self._term: int | None = None
        self._recording: int | None = None
        self._queue: deque[Reported | Gone] = deque()
        self._now = 0.0

    # --- the one door --------------------------------------------------------------------------------------

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take one event; ``step_all`` says the rest."""
        return self.step_all((event,), now)

    def step_all(self, events: Iterable[Event], now: float) -> list[Effect]:
        """Take events in the order in which they happened, and give all that follows.

        Args:
            events: as many as there are; one call with n of them costs far less than n calls.
            now: seconds on the driver's monotonic clock.

        Raises:
            RendezvousStateError: if the minutes that ``TookOffice`` brought cannot be read.

        Cost: O(n log n) for n nodes and events.
        """
        self._now = now
        for event in events:
            if isinstance(event, TookOffice):
                self._take_office(event)
            elif isinstance(event, Recorded):
                if self._term is not None and event.number == self._recording:
                    self._recording = None
            elif not isinstance(event, Ticked):
                self._queue.append(event)
        return self._work() if self._term is not None else []

    def next_deadline(self) -> float | None:
        """Give when ``Ticked`` is due, on the driver's clock; ``None`` if nothing waits for time to pass."""
        if self._term is None or self._recording is not None:
            return None
        times: list[float | None] = [self._progress_due, self._done_due]
        if self.state.closure is None:
            if self.state.phase is Phase.PROPOSED:
                times.append(self._proposed_since + self._rules.dead_after_s)
            if self._enough_since is not None and self.state.phase is Phase.GATHERING:
                times.append(self._enough_since + self._rules.last_call_s)
            times += self._cooling.values()
        return min((at for at in times if at is not None), default=None)

    # --- taking office -------------------------------------------------------------------------------------

    def _take_office(self, event: TookOffice) -> None:
        self._term = event.term
        minutes = self._first_minutes(event) if event.minutes is None else decode_minutes(event.minutes)
        self.state: State = draft(minutes.state)
        self._ledger = Ledger(minutes.books, self._now)
        self._heard = dict(minutes.heard)
        self._clerk = Clerk(event.term)
        self._reports: dict[str, Report] = {}
        self._recording = None
        self._records = 0
        self._census: Census | None = None
        self._enough_since: float | None = None
        self._enough_round = -1
        self._intruders: set[str] = set()
        self._has_moved = True
        self._proposed_since = self._now
        self._cooling: dict[str, float] = {}
        self._progress = ""
        self._progress_due: float | None = None
        self._told_at = float("-inf")
        self._done_due: float | None = None
        self._dropped_below = -1
        self._affected: dict[str, None] = {}
        self._is_everybody_affected = True
        self._recorded: _Decided | None = None
        there = {report.node for report in event.reports}
        gone = [
            Gone(node_id, "its report was not there any more") for node_id in self.state.nodes if node_id not in there
        ]
        self._queue = deque([*gone, *(Reported(report) for report in event.reports), *self._queue])

    def _first_minutes(self, event: TookOffice) -> Minutes:
        """Nothing was written down; rounds and proposals that nodes speak of nevertheless are not used again."""
        state = new_state(f"{event.term:032x}"[-32:], self._rules.min_nodes, self._rules.max_nodes)
        entered = [report.entered for report in event.reports if report.entered is not None]
        proposal = max((report.acknowledged for report in event.reports), default=0)
        state = replace(state, round=max(entered, default=-1) + 1, proposal=proposal)
        return Minutes(term=event.term, state=state, books=Books(policy=self._policy))

    # --- working -------------------------------------------------------------------------------------------

    def _work(self) -> list[Effect]:
        if self._recording is not None:
            return []
        effects: list[Effect] = []
        if self._is_recorded():
            effects += self._tell()
        self._apply_queue()
        self._acknowledge()
        self._pass_time()
        self._seat_spares()
        self._gather()
        if not self._is_recorded() or (self._done_due is not None and self._now >= self._done_due):
            effects.append(self._record())
        else:
            effects += self._tell()
        return effects

    def _apply_queue(self) -> None:
        while self._queue:
            event = self._queue.popleft()
            if isinstance(event, Gone):
                self._lose(event)
            else:
                self._take(event.report)

    def _lose(self, event: Gone) -> None:
        node_id = event.node
        self._reports.pop(node_id, None)
        self._clerk.forget(node_id)
        self._cooling.pop(node_id, None)
        self._affected.pop(node_id, None)
        self._heard.pop(node_id, None)
        if self.state.closure is not None:
            self._act(Leave(event.why), node_id)
            return
        self._act(Drop({node_id: event.why}), "", about=node_id, cause="dropped")

    def _take(self, report: Report) -> None:
        """Do on behalf of a node what its report asks for."""
        node_id, known = report.node, self._reports.get(report.node)
        if known is not None and (report.number <= known.number or report.card.pid != known.card.pid):
            if report.card.pid != known.card.pid:
                who = f"process {known.card.pid} on {known.card.host}"
                self._clerk.refuse(node_id, f"{who} has the id of this node, too: each process needs one of its own")
                self._affected[node_id] = None
            return
        self._reports[node_id] = report
        self._affected[node_id] = None
        if self.state.closure is not None:
            if report.has_heard:
                self._act(Hear(), node_id)
            if report.leaving:
                self._act(Leave(report.leaving), node_id)
            return
        if report.closing:
            self._act(Close("closed", report.closing), node_id)
            return
        if (failure := report.failure) is not None:
            action = Fail(failure.round, failure.message, failure.exit_code, failure.final)
            self._act(action, node_id, about=node_id, cause="failed")
        if report.done is not None:
            self._succeed(report.done, node_id)
        if report.leaving:
            self._act(Leave(report.leaving), node_id, about=node_id, cause="left")
        elif report.wants_in:
            self._let_in(report)
        else:
            self._look_at_idle(report)

    def _look_at_idle(self, report: Report) -> None:
        """A node that does not want in either runs in the present round, has yet to stop, or is on its way out."""
        node = self.state.nodes.get(report.node)
        if node is None or self.state.closure is not None:
            return
        is_member = self.state.phase is Phase.COMPLETE and report.node in self.state.members
        if node.standing is not Standing.RUNNING or (is_member and report.entered != self.state.round):
            self._act(Leave("it does not want in any more"), report.node, about=report.node, cause="left")

    def _succeed(self, round_: int, node_id: str) -> None:
        count = len(self.state.done)
        self._act(Succeed(round_), node_id)
        if len(self.state.done) != count and self._done_due is None:
            self._done_due = self._now + PROGRESS_INTERVAL_S

    def _let_in(self, report: Report) -> None:
        state, me = self.state, report.node
        if report.number <= self._heard.get(me, -1) or state.closure is not None:
            return
        is_awaited = me in state.members and me in state.nodes and report.acknowledged == state.proposal
        if is_awaited and report.entered != state.round:
            return  # it has yet to read that it is in, or the others have yet to acknowledge
        if me not in state.nodes and self._is_cooling(report):
            return
        bid = Bid(me, report.card, report.min_nodes, report.max_nodes)
        refusal = refuse_other_bounds(state, bid)
        if refusal is not None:
            self._clerk.refuse(me, refusal.why)
            return
        decision = find_place(state, bid, self._count())
        if decision is None or isinstance(decision.action, Stop):
            return
        self._clerk.clear(me)
        action = decision.action
        if isinstance(action, StandBy):
            self._clerk.stand_by(me, decision.why)
            self._act(action, me)
        elif isinstance(action, Join):
            is_member = me in state.members
            if state.phase is Phase.COMPLETE and not is_member and not self._ledger.has_left("joined"):
                self._clerk.stand_by(me, self._ledger.tell_limit("joined"))
                self._act(StandBy(report.card), me)
                return
            self._act(action, me, about=me, cause="joined")

    def _is_cooling(self, report: Report) -> bool:
        left_s = self._ledger.cooling_s(report.card.host, self._now)
        if left_s <= 0.0:
            self._cooling.pop(report.node, None)
            return False
        self._cooling[report.node] = self._now + left_s
        self._clerk.keep_out(report.node, self._ledger.tell_cooling(report.card.host, self._now))
        return True

    def _pass_time(self) -> None:
        """Do what only time asks for."""
        for node_id in [node_id for node_id, until in self._cooling.items() if until <= self._now]:
            del self._cooling[node_id]
            self._affected[node_id] = None
            self._let_in(self._reports[node_id])
        state, limit_s = self.state, self._rules.dead_after_s
        is_open = state.phase is Phase.PROPOSED and state.closure is None
        if not is_open or self._now - self._proposed_since < limit_s:
            return
        why = f"it did not acknowledge the proposal for round {state.round} within {limit_s:g} s"
        for node_id in state.unacknowledged:
            self._heard[node_id] = self._reports[node_id].number
            self._act(Drop({node_id: why}), "", about=node_id, cause="dropped")

    def _acknowledge(self) -> None:
        state = self.state
        if state.phase is not Phase.PROPOSED or state.closure is not None:
            return
        said: dict[str, Endpoint | None] = {}
        for node_id in self._affected:
            report = self._reports.get(node_id)
            if report is not None and report.wants_in and report.acknowledged == state.proposal:
                said[node_id] = report.endpoint
        self._change(acknowledge(state, state.proposal, said))

    def _seat_spares(self) -> None:
        """Who stands by is in as soon as there is room."""
        if (
            not self._has_moved
            or self._count().spares == 0
            or self.state.closure is not None
            or self.state.phase is Phase.PROPOSED
        ):
            return
        for node_id in self.state.standing(Standing.SPARE):
            self._let_in(self._reports[node_id])
            node = self.state.nodes.get(node_id)
            if node is not None and node.standing is Standing.SPARE:
                return

    def _gather(self) -> None:
        state, census = self.state, self._count()
        if state.closure is not None or not census.has_enough(state):
            self._enough_since = None
            return
        if self._enough_since is None or self._enough_round != state.round:
            self._enough_since, self._enough_round = self._now, state.round
        enough_s, last_call_s = self._now - self._enough_since, self._rules.last_call_s
        is_full = census.ready + census.spares >= state.max_nodes
        may_be_whole = bool(state.previous) and not census.returning
        if state.phase is Phase.GATHERING and (enough_s >= last_call_s or is_full or may_be_whole):
            choice = choose_world(state, enough_s, last_call_s, knows_everybody=True)
            if choice is not None:
                self._act(Propose(place_ranks(state, choice.node_ids)), "")

    # --- changing the state --------------------------------------------------------------------------------

    def _act(self, action: Action, me: str, *, about: str = "", cause: str = "") -> None:
        """Change the state, and count what that costs.

        Args:
            action: what to do.
            me: on whose behalf; empty: on the coordinator's own.
            about: the node that would have to answer for the end of a round.
            cause: the cause under which that is counted.
        """
        before = self.state
        node = before.nodes.get(about or me)  # read now: a draft is edited where it is
        self._change(change(before, action, me))
        state = self.state
        if self._census is not None:
            after = state.nodes.get(about or me)
            self._census.note(about or me, node.standing if node else None, after.standing if after else None)
        if not cause or (state.closure is not None and before.closure is None):
            return
        self._note_flapping(before, node, about, cause)
        if state.round == before.round:
            return
        if not self._ledger.has_left(cause) and cause != "joined":
            self._change(change(state, Close("failed", f"{state.reason}; {self._ledger.tell_limit(cause)}"), ""))
            return
        self._ledger.count(cause)

    def _note_flapping(self, before: State, node: Node | None, about: str, cause: str) -> None:
        has_ended = self.state.round != before.round
        if cause == "joined" and has_ended and about not in before.members:
            self._intruders.add(about)
        elif cause == "failed" and has_ended and node is not None:
            self._ledger.note_failed(about, node.card.host, self._now)
        elif cause in {"dropped", "left"} and node is not None and about not in self.state.nodes:
            has_cost = about in self._intruders or (before.phase is Phase.PROPOSED and about in before.members)
            self._ledger.note_gone(about, node.card.host, has_cost, self._now)
            self._intruders.discard(about)

    def _change(self, after: State) -> None:
        before = self.state
        if after is before:
            return
        self.state, self._has_moved = after, True
        if self._decided(before) == self._decided(after):
            return
        self._census, self._is_everybody_affected = None, True
        if after.phase is Phase.PROPOSED and after.proposal != before.proposal:
            self._proposed_since = self._now
        elif after.phase is Phase.COMPLETE and before.phase is Phase.PROPOSED:
            self._ledger.note_admitted(after.members, self._now)
            self._intruders.difference_update(after.members)

    def _count(self) -> Census:
        if self._census is None:
            self._census = take_census(self.state)
        return self._census

    # --- writing down and telling --------------------------------------------------------------------------

    def _is_recorded(self) -> bool:
        return self._recorded == self._decided(self.state)

    @staticmethod
    def _decided(state: State) -> _Decided:
        return _Decided(state.round, state.phase, state.proposal, state.closure is not None)

    def _record(self) -> Record:
        assert self._term is not None, "only who is in office records"
        self._records += 1
        self._recording, self._recorded, self._done_due = self._records, self._decided(self.state), None
        minutes = Minutes(term=self._term, state=self.state, books=self._ledger.write(self._now), heard=self._heard)
        return Record(self._records, encode_minutes(minutes))

    def _tell(self) -> list[Effect]:
        """Tell all those for whom something has changed, and everybody how far the round is."""
        effects: list[Effect] = []
        state, wait = self.state, ""
        if state.phase is Phase.GATHERING and state.closure is None:
            wait = tell_wait(state, self._count(), self._enough_s(), self._rules.last_call_s)
        for node_id in list(self._reports if self._is_everybody_affected else self._affected):
            report = self._reports.get(node_id)
            order = self._clerk.order_for(state, report, wait, self._reports) if report is not None else None
            if order is not None:
                effects.append(Send(node_id, order))
        if state.phase is Phase.COMPLETE and state.round > self._dropped_below:
            self._dropped_below = state.round
            effects.append(DropKeySpaces(state.round))
        effects += self._tell_progress(wait)
        self._affected, self._is_everybody_affected, self._has_moved = {}, False, False
        return effects

    def _tell_progress(self, wait: str) -> list[Effect]:
        if not self._has_moved and self._progress_due is None:
            return []
        due = self._told_at + PROGRESS_INTERVAL_S
        if self._now < due:
            self._progress_due = due
            return []
        self._progress_due = None
        text = wait or self._clerk.tell_progress(self.state)
        if text == self._progress:
            return []
        self._progress, self._told_at = text, self._now
        return [Progress(text)]

    def _enough_s(self) -> float | None:
        return None if self._enough_since is None else self._now - self._enough_since
