"""One term in office: hear all reports, let the machine decide, store that, then tell everybody.

What this file does not know: how an election is won, when a term is to end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from rallypoint.clock import Clock
from rallypoint.errors import LocalProtocolError, RendezvousStateError, StoreTimeoutError
from rallypoint.events import emit
from rallypoint.rendezvous.board import Board
from rallypoint.rendezvous.liquidator import Faults
from rallypoint.rendezvous.office_moves import (
    DropKeySpaces,
    Effect,
    Event,
    Progress,
    PutAway,
    Record,
    Recorded,
    Reported,
    Send,
    Ticked,
    TookOffice,
)
from rallypoint.rendezvous.reports import encode_notice, encode_order
from rallypoint.rendezvous.roll import Roll
from rallypoint.store.session_calls import Missed, Watch

__all__ = ["ENDED_S", "DeposedError", "Officer", "Term"]

RENEWALS_IN_TTL: Final = 3
"""The office lease is renewed so often in its time to live."""

ENDED_S: Final = 300.0
"""For so long after the end of a run, in seconds, who comes is told of it; then the name begins another run."""

BATCH_MAX: Final = 4096
"""So many events are decided on at once; the rest has its turn after that."""


class DeposedError(Exception):
    """Somebody else is in office."""


class Officer(Protocol):
    """What decides, ``office.Office``."""

    def step_all(self, events: Iterable[Event], now: float) -> Sequence[Effect]:
        """Take events, give what they cause."""
        ...

    def next_deadline(self) -> float | None:
        """Give the time at which ``Ticked`` is due, ``None`` for never."""
        ...

    @property
    def is_awaited(self) -> bool:
        """Whether the run has ended and somebody has yet to hear of it."""
        ...


class Term:
    """One term in office: ``prepare``, ``begin``, then ``go_on`` again and again.

    Args:
        board: the keys of the run.
        lease: the office lease.
        number: the term's, a fencing token.
        renewed_at: when that lease was asked for, on the clock.
        ttl_s: how long it, and that of each node, outlives its last renewal, in seconds.
        run_id: the run, for events.
        node: the coordinator's own.
        faults: is told where nothing can be decided.
        clock: what all times are measured on.

    Raises of every method: what the store raises, ``LeaseLostError`` if the office lease has ended; ``DeposedError`` if
    somebody else has recorded.

    Threads: one.
    """

    _office: Officer

    def __init__(  # noqa: PLR0917 - what it stands between
        self,
        board: Board,
        lease: int,
        number: int,
        renewed_at: float,
        ttl_s: float,
        run_id: str,
        node: str,
        faults: Faults,
        clock: Clock,
    ) -> None:
        self._board = board
        self._lease = lease
        self._number = number
        self._renewed_at = renewed_at
        self._ttl_s = ttl_s
        self._run_id = run_id
        self._node = node
        self._faults = faults
        self._clock = clock
        self._roll = Roll(ttl_s, clock)
        self._minutes_at = 0
        self._first: tuple[Event, ...] = ()
        self._has_farewell = False

    def watch(self) -> Watch:
        """Watch what ``go_on`` takes. Cost: 1 call."""
        return self._board.watch_reports()

    def prepare(self, make_officer: Callable[[int], Officer]) -> None:
        """Read what was recorded, and what is reported.

        Args:
            make_officer: makes what decides on the minutes with a revision.
        """
        minutes = self._board.minutes()
        self._minutes_at = minutes.revision
        self._office = make_officer(minutes.revision)
        reports = tuple(event.report for event in self._read_all() if isinstance(event, Reported))
        self._first = (TookOffice(self._number, minutes.data, reports),)
        self._renew_if_due()
        emit(
            "coordinator.elected",
            f"this node coordinates run {self._run_id!r}, with {len(reports)} "
            f"report{'' if len(reports) == 1 else 's'} to begin with",
            run_id=self._run_id,
            term=self._number,
        )

    def begin(self) -> None:
        """Take up what was read."""
        self._decide(self._first)

    def go_on(self, watch: Watch) -> None:
        """Wait for something to happen, and deal with it."""
        events = self._next_events(watch)
        self._decide(events)
        self._renew_if_due()
        self._has_farewell = self._has_farewell or any(
            isinstance(event, Reported) and event.report.node == self._node and bool(event.report.leaving)
            for event in events
        )

    @property
    def may_end(self) -> bool:
        """Whether the coordinator's own node has said goodbye, and nobody has yet to hear of the end of the run."""
        return self._has_farewell and not self._office.is_awaited

    # --- events in ---------------------------------------------------------------------------------------

    def _next_events(self, watch: Watch) -> tuple[Event, ...]:
        """Wait for something to happen, and take all of it."""
        renew_at = self._renewed_at + self._ttl_s / RENEWALS_IN_TTL
        until = min(renew_at, self._due_at())
        events: list[Event] = []
        try:
            events.extend(self._take(watch, max(0.0, until - self._clock.now())))
            while len(events) < BATCH_MAX:
                events.extend(self._take(watch, 0.0))
        except StoreTimeoutError:
            pass
        if self._clock.now() >= self._due_at():
            events.append(Ticked())
        return tuple(events)

    def _due_at(self) -> float:
        due_at = self._office.next_deadline()
        return math.inf if due_at is None else due_at

    def _take(self, watch: Watch, timeout_s: float) -> list[Event]:
        happened = watch.next(timeout_s)
        return self._read_all() if isinstance(happened, Missed) else self._roll.take(happened)

    def _read_all(self) -> list[Event]:
        return self._roll.read_all(self._board.reports())

    # --- effects out -------------------------------------------------------------------------------------

    def _decide(self, events: tuple[Event, ...]) -> None:
        """Let the office decide on events, and on what follows from that, and carry it out."""
        while events:
            effects = self._ask(events)
            self._renew_if_due()  # with many nodes this took its time, and what follows does too
            orders: list[tuple[str, bytes]] = []
            recorded: list[Event] = []
            for effect in effects:
                match effect:
                    case Record(number, minutes):
                        self._send(orders)
                        self._record(minutes)
                        recorded.append(Recorded(number))
                    case Send(node, order):
                        orders.append((node, encode_order(order)))
                    case Progress(notice):
                        self._send(orders)
                        self._board.tell_progress(encode_notice(notice), self._lease)
                    case DropKeySpaces(below):
                        self._send(orders)
                        self._drop(below)
                    case PutAway(minutes, round_):
                        self._send(orders)
                        self._note_recorded(self._board.put_away(minutes, self._minutes_at, ENDED_S))
                        self._board.spaces.drop_workers(round_)
            self._send(orders)
            events = tuple(recorded)

    def _ask(self, events: tuple[Event, ...]) -> Sequence[Effect]:
        try:
            return self._office.step_all(events, self._clock.now())
        except Exception as error:
            self._faults.note(self._minutes_at, error)
            raise

    def _send(self, orders: list[tuple[str, bytes]]) -> None:
        if orders:
            self._board.send(orders, self._lease)
            orders.clear()

    def _record(self, minutes: bytes) -> None:
        try:
            revision = self._board.record(minutes, self._minutes_at)
        except LocalProtocolError as error:  # it would be so the next time, too
            trouble = RendezvousStateError(f"what was decided cannot be stored: {error}")
            self._faults.note(self._minutes_at, trouble)
            raise trouble from error
        self._note_recorded(revision)

    def _drop(self, below: int | None) -> None:
        if below is None:
            self._board.spaces.drop_all()
        else:
            self._board.spaces.drop_below(below)

    def _note_recorded(self, revision: int) -> None:
        if not revision:
            raise DeposedError("another node has taken over since this one began to coordinate")
        self._minutes_at = revision

    def _renew_if_due(self) -> None:
        now = self._clock.now()
        if now >= self._renewed_at + self._ttl_s / RENEWALS_IN_TTL:
            self._board.renew(self._lease)
            self._renewed_at = now
