"""What the coordinator of a run decides: the rules of ``gathering`` and ``change``, applied in one place for all nodes.

Rules
-----
1. Each node says in its report where it stands; the coordinator does on its behalf what ``decide`` would have it do.
   Dead nodes are those whose report is gone: the store's leases judge that, nobody's clock here.
2. What must outlive the coordinator goes into minutes, and no order that follows from it is sent before they are
   stored. At most one record is under way; what happens meanwhile waits, and is then dealt with in one go.
3. Orders are a projection of the state: a node is sent one only when where it stands has changed, or when it wants in
   anew, and not to wait before ``WAIT_S`` have passed, within which most rounds are complete. An arrival makes one
   order at most, for who arrived; how far the round is, everybody reads in ``Progress``.
4. A node that is not in the state but says that it is in a round is fenced. A successor takes up the minutes and the
   reports: a complete round whose members still report it goes on, nobody restarts because a coordinator died.
5. No world is complete within ``hold_s`` after a node was lost: one whose connection broke may live, and has until then
   to stop by its own clock (``lifeline.RESUME_S``). Nor within ``hold_s`` after taking over: who was lost with the last
   coordinator may be in no minutes. Nor is one complete that leaves out a node which may still run workers of an
   earlier round (``outsiders``).
6. A node that is going is in no round any more: the present one is over for everybody at once, and the next begins to
   form, so that the others stop their workers while that node stops its own. What it has done before counts.
7. A run that has ended is remembered for some time after all have heard of it, for those who come late; then its name
   can be used again.

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

from msgspec.structs import replace

from rallypoint.errors import RendezvousStateError
from rallypoint.rendezvous.actions import Action, Close, Drop, Fail, Hear, Leave, Succeed
from rallypoint.rendezvous.admission import Admission
from rallypoint.rendezvous.affairs import Affairs, Decided
from rallypoint.rendezvous.change import acknowledge
from rallypoint.rendezvous.decision import Rules
from rallypoint.rendezvous.minutes import Minutes, decode_minutes, encode_minutes
from rallypoint.rendezvous.office_moves import (
    DropKeySpaces,
    Effect,
    Event,
    Gone,
    Progress,
    PutAway,
    Record,
    Recorded,
    Reported,
    Send,
    Ticked,
    TookOffice,
)
from rallypoint.rendezvous.orders import Clerk
from rallypoint.rendezvous.outsiders import Outsiders
from rallypoint.rendezvous.placement import Placement, find_placement
from rallypoint.rendezvous.policy import Books, Ledger, Policy
from rallypoint.rendezvous.reports import Notice, Report
from rallypoint.rendezvous.state import Phase, State, new_state
from rallypoint.types import Endpoint

__all__ = ["HOLD_S", "WAIT_S", "Office"]

HOLD_S = 0.1
"""For so long after a loss the next world is held back where a connection's end is taken for a node's, in seconds."""

PROGRESS_INTERVAL_S = 1.0
"""Progress is told, and who is done is recorded, at most this often."""

WAIT_S = 1.0
"""A node is told to wait after so many seconds, if it still has to then."""


class Office:
    """The coordinator's machine; it has no office before ``TookOffice``.

    Args:
        rules: the numbers; the bounds count if nobody has joined yet.
        policy: what the run may cost; counts if there are no minutes yet.
        hold_s: for how long after a loss no world is complete, in seconds.

    Threads: one at a time.
    """

    def __init__(self, rules: Rules, policy: Policy = Policy(), hold_s: float = 0.0) -> None:  # noqa: B008 - frozen
        self._rules = rules
        self._hold_s = hold_s
        self._policy = policy
        self._term: int | None = None
        self._recording: int | None = None
        self._queue: deque[Reported | Gone] = deque()
        self._now = 0.0

    @property
    def state(self) -> State:
        """The run as it stands, for looking at; not before ``TookOffice``."""
        return self._affairs.state

    @property
    def is_awaited(self) -> bool:
        """Whether the run has ended and somebody who is there has yet to hear of it."""
        return self._term is not None and self.state.closure is not None and not self._is_put_away

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
            RendezvousStateError: if the minutes that ``TookOffice`` brought cannot be read, or name a placement that is
                not known here.

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
        held_until = max(self._held_until, self._outsiders.held_until()) if self._is_held else None
        times = (self._progress_due, self._done_due, self._wait_due, held_until, self._admission.next_deadline())
        return min((at for at in times if at is not None and at < float("inf")), default=None)

    # --- taking office -------------------------------------------------------------------------------------

    def _take_office(self, event: TookOffice) -> None:
        self._term = event.term
        minutes = self._first_minutes(event) if event.minutes is None else decode_minutes(event.minutes)
        self._affairs = Affairs(minutes.state, Ledger(minutes.books, self._now), minutes.ranks, self._now)
        self._clerk = Clerk(event.term)
        place = _placement_of(minutes)
        worker_store = next((report.worker_store for report in event.reports if report.node in self.state.nodes), "")
        self._admission = Admission(self._affairs, self._clerk, self._rules, place, minutes.heard, worker_store)
        self._outsiders = Outsiders(self._rules.dead_after_s)
        self._recording = None
        self._records = 0
        self._progress: Notice | None = None
        self._progress_due: float | None = None
        self._wait_due: float | None = None
        self._told_at = float("-inf")
        self._done_due: float | None = None
        # Who was lost with the last coordinator, or just before, may be in no minutes: it was going.
        self._held_until = float("-inf") if event.minutes is None else self._now + self._hold_s
        self._is_held = False  # something was not acknowledged because of that
        self._dropped_below = -1
        self._is_first = event.minutes is None and all(report.entered is None for report in event.reports)
        self._is_put_away = minutes.is_put_away
        self._affected: dict[str, None] = {}
        # What was put away is not written anew: who comes again and again would keep the name from being used.
        self._recorded: Decided | None = self._affairs.decided if minutes.is_put_away else None
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
        if self._is_first:
            self._is_first = False
            effects.append(DropKeySpaces(None))
        if self._is_recorded():
            effects += self._tell()
        self._apply_queue()
        self._acknowledge()
        for node_id in self._admission.pass_time(self._now):
            self._affected[node_id] = None
        self._admission.take_back(self._now)
        self._admission.seat_spares(self._now)
        self._admission.take_back(self._now)  # a spare that was seated may have ended a round that nobody had read of
        self._admission.gather(self._now)
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
        self._held_until = self._now + self._hold_s
        self._admission.forget(node_id)
        self._outsiders.forget(node_id)
        self._clerk.forget(node_id)
        self._affected.pop(node_id, None)
        if self.state.closure is not None:
            self._do(Leave(event.why), node_id)
            return
        self._do(Drop({node_id: event.why}), "", about=node_id, cause="dropped")

    def _take(self, report: Report) -> None:
        """Do on behalf of a node what its report asks for."""
        node_id, known = report.node, self._admission.reports.get(report.node)
        if known is not None and (report.number <= known.number or report.card.pid != known.card.pid):
            if report.card.pid != known.card.pid:
                who = f"process {known.card.pid} on {known.card.host}"
                why = f"{who} has the id of this node, too: each process needs one of its own"
                self._clerk.refuse_twin(node_id, why, report.number)
                self._affected[node_id] = None
            return
        self._admission.reports[node_id] = report
        self._affected[node_id] = None
        if self.state.closure is not None:
            if report.has_heard:
                self._do(Hear(), node_id)
            if report.leaving:
                self._do(Leave(report.leaving), node_id)
            return
        if report.closing:
            self._do(Close("closed", report.closing), node_id)
            return
        if (failure := report.failure) is not None:
            action = Fail(failure.round, failure.message, failure.exit_code, failure.final)
            self._do(action, node_id, cause="failed")
        if report.done is not None:
            self._succeed(report.done, node_id)
        if report.leaving:
            self._do(Leave(report.leaving), node_id, cause="left")
        elif report.going:
            self._do(Leave(report.going, is_stopping=True), node_id, cause="left")
        elif report.wants_in:
            self._admission.let_in(report, self._now)
        else:
            self._admission.look_at_idle(report, self._now)

    def _succeed(self, round_: int, node_id: str) -> None:
        count = len(self.state.done)
        self._do(Succeed(round_), node_id)
        if len(self.state.done) != count and self._done_due is None:
            self._done_due = self._now + PROGRESS_INTERVAL_S

    def _acknowledge(self) -> None:
        state = self.state
        was_held, self._is_held = self._is_held, False
        self._outsiders.look(state, self._admission.reports, self._affected, self._now)
        if state.phase is not Phase.PROPOSED or state.closure is not None:
            return
        held_until = self._admission.held_until = max(self._held_until, self._outsiders.held_until())
        if self._now < held_until:
            self._is_held = True
            return
        who = state.members if was_held else self._affected
        said: dict[str, Endpoint | None] = {}
        for node_id in who:
            report = self._admission.reports.get(node_id)
            if report is not None and report.wants_in and report.acknowledged == state.proposal:
                said[node_id] = report.endpoint
        self._affairs.make(acknowledge(state, state.proposal, said), self._now)

    def _do(self, action: Action, me: str, *, about: str = "", cause: str = "") -> None:
        self._affairs.act(action, me, self._now, about=about, cause=cause)

    # --- writing down and telling --------------------------------------------------------------------------

    def _is_recorded(self) -> bool:
        return self._recorded == self._affairs.decided

    def _record(self) -> Record:
        assert self._term is not None, "only who is in office records"
        self._records += 1
        self._is_put_away = False
        self._recording, self._recorded, self._done_due = self._records, self._affairs.decided, None
        return Record(self._records, self._write_minutes(self._term))

    def _write_minutes(self, term: int) -> bytes:
        minutes = Minutes(
            term=term,
            state=self.state,
            books=self._affairs.ledger.write(self._now),
            heard=self._admission.heard,
            ranks=self._affairs.other_ranks,
            is_put_away=self._is_put_away,
        )
        return encode_minutes(minutes)

    def _put_away(self) -> list[Effect]:
        """Have the run be forgotten, once all who are there have heard of its end."""
        assert self._term is not None, "only who is in office puts away"
        reports = self._admission.reports.values()
        if self._is_put_away or self.state.closure is None:
            return []
        if not all(report.has_heard or report.leaving for report in reports):
            return []
        self._is_put_away = True
        return [PutAway(self._write_minutes(self._term), self.state.round)]

    def _tell(self) -> list[Effect]:
        """Tell all those for whom something has changed, and everybody how far the round is."""
        effects: list[Effect] = []
        state, reports = self.state, self._admission.reports
        self._outsiders.look(state, reports, self._affected, self._now)
        wait = self._admission.tell_wait(self._now) or self._outsiders.tell_wait(state)
        holds_waits = self._wait_due is None or self._now < self._wait_due
        concerned = self._affected if holds_waits else self._affected | self._clerk.held
        for node_id in reports if self._affairs.is_new_stage else concerned:
            report = reports.get(node_id)
            if report is None:
                continue
            is_outsider = node_id in self._outsiders
            order = self._clerk.order_for(
                state, report, wait, reports, holds_waits=holds_waits, is_outsider=is_outsider
            )
            if order is not None:
                effects.append(Send(node_id, order))
        if not self._clerk.held:
            self._wait_due = None
        elif self._wait_due is None:
            self._wait_due = self._now + WAIT_S
        if state.phase is Phase.COMPLETE and state.round > self._dropped_below:
            self._dropped_below = state.round
            effects.append(DropKeySpaces(state.round))
        effects += self._tell_progress(wait)
        effects += self._put_away()
        self._affected = {}
        self._affairs.is_new_stage = self._affairs.has_moved = False
        return effects

    def _tell_progress(self, wait: str) -> list[Effect]:
        if not self._affairs.has_moved and self._progress_due is None:
            return []
        due = self._told_at + PROGRESS_INTERVAL_S
        if self._now < due:
            self._progress_due = due
            return []
        self._progress_due = None
        notice = self._clerk.notice(self.state, wait)
        if notice == self._progress or not self.state.nodes:
            return []  # there is nobody to tell, or those who are there were not heard yet
        self._progress, self._told_at = notice, self._now
        return [Progress(notice)]


def _placement_of(minutes: Minutes) -> Placement:
    try:
        return find_placement(minutes.books.policy.placement)
    except ValueError as error:
        raise RendezvousStateError(
            f"the run ranks its nodes by the placement {minutes.books.policy.placement!r}, and here {error}: "
            "each node has to be told the same, and to have it registered"
        ) from error
