"""What one node does under a coordinator: it reports where it stands, and follows the orders that count.

Rules
-----
1. Only an order above the last one seen counts; by term first, so that a coordinator that was deposed is not heard.
   While a node wants in, an order must answer the report in which it said so, or a later one.
2. Nobody is in a round but by an ADMITTED order for the very proposal that it has acknowledged.
3. Patience is the node's own: how long it waits to get in, and how long it stands by, on its own clock.
4. A node for which no renewal that was *sent* within the last 0.8 of its lease's time was acknowledged, or whose
   connection was lost for longer than its session lasts, takes itself for cut off before a world without it can be
   running (``lifeline``). That no coordinator says anything means nothing.
5. After FENCED or CUT_OFF it never acts on that round again; a node that has done its part cannot be fenced from work
   that is finished.
6. A node that is asked to go says so at once, while its workers are being stopped, and that it leaves when they have
   ended. One that runs none just leaves.

::

      Wanted ------> WANTING --- ADMITTED ---> IN A ROUND --- OVER, FENCED, CLOSED; cut off ---> TOLD --- Wanted ...
                     |     ^
       STAND_BY, ... +-----+--- time is up, REFUSED, CLOSED ---> stopped

What this file does not know: how reports and orders travel, what workers are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from rallypoint.rendezvous.decision import Rules, StopKind
from rallypoint.rendezvous.follower_moves import (
    AllSucceeded,
    Closing,
    Doubted,
    Effect,
    Enter,
    Event,
    Going,
    Granted,
    LeaseLost,
    Leaving,
    Ordered,
    Progressed,
    Publish,
    Renewed,
    Say,
    Serve,
    Served,
    Stop,
    Tell,
    Ticked,
    Wanted,
    WorkerFailed,
)
from rallypoint.rendezvous.gathering import ENDED, name_size
from rallypoint.rendezvous.lifeline import Lifeline
from rallypoint.rendezvous.reports import Failure, Order, OrderKind, Report, Workers
from rallypoint.rendezvous.state import MESSAGE_SIZE_MAX, Card
from rallypoint.rendezvous.verdict import Verdict, VerdictKind
from rallypoint.types import Endpoint

__all__ = ["Follower"]


class Follower:
    """One node's machine.

    Args:
        node_id: 128 random bits in hexadecimal, the node's own.
        card: how it introduces itself.
        rules: the numbers; ``dead_after_s`` is the time to live of its lease.
        workers: what it runs; ``None`` if the coordinator need not number the workers.
        worker_store: what kind of store they get.

    Attributes:
        node_id: see there.

    Threads: one at a time.
    """

    def __init__(
        self, node_id: str, card: Card, rules: Rules, workers: Workers | None = None, worker_store: str = "embedded"
    ) -> None:
        self.node_id = node_id
        self._rules = rules
        report = Report(node=node_id, number=0, card=card, min_nodes=rules.min_nodes, max_nodes=rules.max_nodes)
        self._report = replace(report, workers=workers, worker_store=worker_store)
        self._seen = (-1, -1)
        self._wish = 0  # the number of the report that said so, while the node wants in
        self._since = 0.0
        self._spare_since: float | None = None
        self._is_in_line = False  # whether the last answer to its wish was to wait for the others
        self._serving = 0
        self._next: Order | None = None  # says what the round after the present one was proposed as
        self._closed: Order | None = None
        self._verdict: Verdict | None = None  # of the round that the node is in; None while it is in none
        self._lifeline = Lifeline(rules.dead_after_s)
        self._has_lost_lease = False
        self._admission: Order | None = None  # one that came when the lease may have ended already
        self._why = ""
        self._effects: list[Effect] = []
        self._doers: dict[type[Event], Callable[[Any, float], None]] = {
            Wanted: self._want,
            Ordered: self._obey,
            Progressed: self._progress,
            Renewed: self._renew,
            LeaseLost: self._lose_lease,
            Doubted: self._doubt,
            Granted: self._grant,
            Served: self._serve,
            WorkerFailed: self._fail,
            AllSucceeded: self._succeed,
            Going: self._go,
            Leaving: self._leave,
            Closing: self._close,
            Ticked: lambda _event, _now: None,
        }

    # --- what the node is ----------------------------------------------------------------------------------

    @property
    def report(self) -> Report:
        """All that the node wants and has done."""
        return self._report

    @property
    def verdict(self) -> Verdict | None:
        """What has become of the round that the node is in; ``None`` while it is in none."""
        return self._verdict

    @property
    def is_wanting(self) -> bool:
        """Whether it wants in and is not."""
        return self._report.wants_in

    # --- the one door --------------------------------------------------------------------------------------

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take one event, and give all that follows.

        Args:
            event: what happened.
            now: seconds on the driver's monotonic clock.

        Cost: O(1).
        """
        self._effects = []
        self._doers[type(event)](event, now)
        self._look_at_clock(now)
        effects, self._effects = self._effects, []
        published = [effect for effect in effects if isinstance(effect, Publish)]
        return [effect for effect in effects if not isinstance(effect, Publish)] + published[-1:]

    def next_deadline(self) -> float | None:
        """Give when ``Ticked`` is due, on the driver's clock; ``None`` if nothing waits for time to pass."""
        if self._report.wants_in:
            is_spare = self._spare_since is not None
            limit_s = self._rules.spare_timeout_s if is_spare else self._rules.join_timeout_s
            return (self._spare_since if self._spare_since is not None else self._since) + limit_s
        return self._lifeline.ends_at() if self._is_at_risk() else None

    # --- time ----------------------------------------------------------------------------------------------

    def _is_at_risk(self) -> bool:
        """Tell whether workers of a round may run here: also when it is over, until this node wants in again."""
        may_run = self._verdict is not None and self._verdict.kind in {VerdictKind.CURRENT, VerdictKind.OVER}
        return may_run and self._report.done is None and not self._report.leaving

    def _look_at_clock(self, now: float) -> None:
        if self._report.wants_in:
            self._look_at_patience(now)
        elif self._is_at_risk() and now >= self._lifeline.ends_at():
            self._judge(Verdict(VerdictKind.CUT_OFF, self._lifeline.tell_end(now)))

    def _look_at_patience(self, now: float) -> None:
        rules = self._rules
        if self._spare_since is not None:
            stood_by_s = now - self._spare_since
            if stood_by_s >= rules.spare_timeout_s:
                self._give_up(StopKind.NOT_NEEDED, f"stood by for {stood_by_s:.1f} s and was not needed")
            return
        waited_s = now - self._since
        if waited_s >= rules.join_timeout_s:
            size = name_size(rules.min_nodes, rules.max_nodes)
            heard = self._why or "no coordinator has answered"
            self._give_up(StopKind.TIMED_OUT, f"waited {waited_s:.1f} s for {size} nodes: {heard}")

    # --- what the node does itself -------------------------------------------------------------------------

    def _want(self, _event: Wanted, now: float) -> None:
        self._since, self._spare_since, self._why = now, None, ""
        entered = self._report.entered
        if self._verdict is not None and self._verdict.kind in {VerdictKind.FENCED, VerdictKind.CUT_OFF}:
            entered = None
        self._verdict = None
        if self._closed is not None:
            self._stop_as_closed(self._closed, is_spare=False)
            return
        upcoming, self._next = self._next, None
        self._ask_for_place(entered)
        if upcoming is not None and entered == upcoming.round:
            self._agree(upcoming)

    def _ask_for_place(self, entered: int | None) -> None:
        self._publish(
            joining=self._report.joining + 1,
            wants_in=True,
            entered=entered,
            acknowledged=0,
            endpoint=None,
            done=None,
            going="",
            leaving="",
        )
        self._wish, self._serving, self._admission, self._is_in_line = self._report.number, 0, None, False

    def _fail(self, event: WorkerFailed, _now: float) -> None:
        entered = self._report.entered
        if entered is None or not self._is_mine():
            return
        number = self._report.failure.number + 1 if self._report.failure is not None else 1
        message = event.message[:MESSAGE_SIZE_MAX]
        failure = Failure(number=number, round=entered, message=message, exit_code=event.exit_code, final=event.final)
        self._publish(failure=failure)

    def _succeed(self, _event: AllSucceeded, _now: float) -> None:
        if self._report.entered is not None and self._is_mine():
            self._publish(done=self._report.entered)

    def _is_mine(self) -> bool:
        """Tell whether the node may still speak of the round that it was in."""
        return self._verdict is not None and self._verdict.kind not in {VerdictKind.FENCED, VerdictKind.CUT_OFF}

    def _go(self, event: Going, _now: float) -> None:
        if self._is_at_risk():
            self._publish(going=event.why[:MESSAGE_SIZE_MAX] or "told to")

    def _leave(self, event: Leaving, _now: float) -> None:
        self._verdict = None
        self._publish(wants_in=False, going="", leaving=event.why[:MESSAGE_SIZE_MAX] or "told to")

    def _close(self, event: Closing, _now: float) -> None:
        self._publish(closing=event.why[:MESSAGE_SIZE_MAX] or "told to")

    def _serve(self, event: Served, _now: float) -> None:
        if self._report.wants_in and event.proposal == self._serving:
            self._publish(acknowledged=event.proposal, endpoint=event.endpoint)

    # --- the lease -----------------------------------------------------------------------------------------

    def _renew(self, event: Renewed, now: float) -> None:
        self._lifeline.renew(event.sent_at)
        if self._admission is not None and self._report.wants_in:
            self._admit(self._admission, now)

    def _doubt(self, event: Doubted, now: float) -> None:
        if self._report.wants_in and self._lifeline.has_ended(now):
            self._lifeline.forget()  # what is connected again may be another session
        self._lifeline.doubt(event.ends_at)

    def _lose_lease(self, event: LeaseLost, _now: float) -> None:
        self._admission, self._has_lost_lease = None, True
        if self._is_at_risk():
            why = f"this node's lease has ended, so the others take it for gone: {event.why}"
            self._judge(Verdict(VerdictKind.FENCED, why))

    def _grant(self, _event: Granted, _now: float) -> None:
        if self._has_lost_lease and self._report.wants_in:
            # What was ordered before may be about a round that has gone on without this node.
            self._ask_for_place(self._report.entered)
        elif self._report.number:
            self._publish()
        self._has_lost_lease = False

    # --- orders --------------------------------------------------------------------------------------------

    def _progress(self, event: Progressed, _now: float) -> None:
        notice, (term, number) = event.notice, self._seen
        if self._is_in_line and notice.term == term and notice.number >= number:
            self._say(notice.text)

    def _obey(self, event: Ordered, now: float) -> None:
        order = event.order
        if (order.term, order.number) <= self._seen:
            return
        self._seen = order.term, order.number
        if order.kind is OrderKind.CLOSED:
            self._closed = order
            self._hear(order, is_spare=order.stood_by or self._spare_since is not None)
        elif self._report.wants_in:
            if order.report >= self._wish:
                self._obey_wanting(order, now)
        elif self._verdict is not None and self._report.entered is not None:
            self._obey_running(order, self._report.entered)

    def _obey_running(self, order: Order, entered: int) -> None:
        if order.round > entered and order.kind in {OrderKind.WAIT, OrderKind.STAND_BY, OrderKind.PROPOSED}:
            # The round was over before this node had said that it had read of its admission.
            why = f"round {entered} is over, round {order.round} has begun: {order.why}"
            self._judge(Verdict(VerdictKind.OVER, why, None, order.news))
        elif order.kind is OrderKind.FENCED and order.round >= entered:
            self._judge(Verdict(VerdictKind.FENCED, order.why, None, order.news))
        elif order.kind is OrderKind.OVER and order.round == entered:
            self._next = order if order.proposal else None
            self._judge(Verdict(VerdictKind.OVER, order.why, None, order.news))

    def _obey_wanting(self, order: Order, now: float) -> None:
        kind = order.kind
        self._is_in_line = kind in {OrderKind.WAIT, OrderKind.PROPOSED}
        if kind is OrderKind.STAND_BY:
            self._spare_since = now if self._spare_since is None else self._spare_since
            self._say(order.why)
        elif kind in {OrderKind.WAIT, OrderKind.QUARANTINED, OrderKind.PROPOSED}:
            self._stop_standing_by(now)
            self._say(order.why)
            if kind is OrderKind.PROPOSED:
                self._agree(order)
        elif kind is OrderKind.ADMITTED:
            if order.proposal == self._report.acknowledged:
                self._admit(order, now)
            elif order.proposal > self._report.acknowledged:
                # Acknowledged by a report that this node's lease took along: the others take it for one of them.
                self._ask_for_place(self._report.entered)
        elif kind is OrderKind.FENCED:
            self._stop_standing_by(now)
            self._say(order.why)
            self._ask_for_place(None)
        elif kind is OrderKind.REFUSED:
            self._give_up(StopKind.REFUSED, order.why)

    def _stop_standing_by(self, now: float) -> None:
        if self._spare_since is not None:
            self._spare_since, self._since = None, now  # it has waited for something else until now

    def _agree(self, order: Order) -> None:
        if order.proposal in {self._report.acknowledged, self._serving}:
            return
        if order.rank == 0:
            self._serving = order.proposal
            is_next = order.kind is OrderKind.OVER
            self._effects.append(Serve(order.proposal, order.round + 1 if is_next else order.round))
        else:
            self._serving = 0  # of an earlier proposal; its store may still be on its way
            self._publish(acknowledged=order.proposal, endpoint=None)

    def _admit(self, order: Order, now: float) -> None:
        """Enter, unless the admission came so late that the lease may have ended since: then its renewal tells.

        One that was read after the lease was lost, and before there is another, is of no use.
        """
        if now >= self._lifeline.ends_at():
            self._admission = order
        elif not self._has_lost_lease:
            self._enter(order)

    def _enter(self, order: Order) -> None:
        self._spare_since, self._why, self._next = None, "", None
        self._publish(wants_in=False, entered=order.round)
        self._effects.append(Enter(order))
        self._judge(Verdict(VerdictKind.CURRENT, f"round {order.round} goes on, its world size is {order.size}"))

    def _hear(self, order: Order, *, is_spare: bool) -> None:
        """The run has ended, for everybody."""
        was_wanting = self._report.wants_in
        self._publish(wants_in=False, has_heard=True)
        if was_wanting:
            self._stop_as_closed(order, is_spare=is_spare)
        elif self._verdict is not None:
            self._judge(Verdict(VerdictKind.CLOSED, order.why, order.outcome, order.news))

    def _stop_as_closed(self, order: Order, *, is_spare: bool) -> None:
        kind = StopKind.NOT_NEEDED if is_spare else StopKind.CLOSED
        self._effects.append(Stop(kind, f"the run {ENDED.get(order.outcome, 'ended')}: {order.why}", order.outcome))

    def _give_up(self, kind: StopKind, why: str) -> None:
        self._spare_since = None
        self._publish(wants_in=False, leaving=why[:MESSAGE_SIZE_MAX])
        self._effects.append(Stop(kind, why))

    # --- what steps are made of ----------------------------------------------------------------------------

    def _publish(self, **changes: bool | int | str | Endpoint | Failure | None) -> None:
        self._report = replace(self._report, number=self._report.number + 1, **changes)
        self._effects.append(Publish(self._report))

    def _judge(self, verdict: Verdict) -> None:
        """Tell what has become of the round; a worse thing is told after a better one, never the other way round."""
        before = self._verdict
        if before is not None and not verdict.kind.is_worse_than(before.kind):
            return
        self._verdict = verdict
        self._effects.append(Tell(verdict))

    def _say(self, why: str) -> None:
        if why and why != self._why:
            self._why = why
            self._effects.append(Say(why))
