"""One of the nodes coordinates: it is elected, hears all reports, lets the machine decide, and tells everybody.

This is the driver of ``office``: a supervised thread with a connection of its own, and no rule of its own. Of those
nodes of a run that have one, one is in office, and the others watch who it is::

    candidate: watch "coordinator" --- free ---> create it under a lease ---> in office
                   ^                                                            |
                   |                     read "state" and all of "nodes/"       |
                   |                     again and again: take all events that are there,
                   |                       let the office decide, store its minutes,
                   |                       then tell the nodes                  |
                   +----- the lease is lost, or somebody else wrote "state" ----+

Nothing is told before it is stored, and nothing can be stored or told by who was deposed: see ``board``.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from rallypoint.clock import SYSTEM_CLOCK, Clock
from rallypoint.errors import LeaseLostError, LocalProtocolError, RendezvousStateError, StoreTimeoutError
from rallypoint.events import emit
from rallypoint.rendezvous.board import Board, Holder
from rallypoint.rendezvous.liquidator import Liquidator
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

__all__ = ["Coordinator", "DeposedError", "Officer"]

LOOK_S: Final = 10.0
"""A candidate looks again who is in office after so many seconds in which the store said nothing."""

MARK_S: Final = 1.0
"""Who is in office has its mark up within so many seconds, or is taken for gone."""

RENEWALS_IN_TTL: Final = 3
"""The office lease is renewed so often in its time to live."""

PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 2.0
"""Between attempts while the store fails."""

ENDED_S: Final = 300.0
"""For so long after the end of a run, in seconds, who comes is told of it; then the name begins another run."""

BATCH_MAX: Final = 4096
"""So many events are decided on at once; the rest has its turn after that."""


UNDECIDED_MAX: Final = 6
"""Who has taken office so often, and could decide nothing on the same minutes, tells everybody that the run is over.

Between two of these the office was free for whoever reads them."""


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


class Coordinator:
    """A candidate for the office, and the coordinator while it has it.

    Args:
        open_board: makes a connection of its own, and gives what closes it too; asked again if that one is lost for
            good.
        make_office: makes the machine, once a term.
        me: how this candidate is known.
        ttl_s: for how long the office lease outlives a coordinator that is not heard of, in seconds.
        run_id: the run, for events.
        is_over: tells whether this node has heard of the end of the run; then it need not stand, because who has not
            heard does.
        clock: what all times are measured on.

    Threads: one of its own; ``start`` and ``stop`` may be called from any.
    """

    def __init__(
        self,
        open_board: Callable[[], tuple[Board, Callable[[], None]]],
        make_office: Callable[[], Officer],
        me: Holder,
        ttl_s: float,
        run_id: str,
        *,
        is_over: Callable[[], bool] = lambda: False,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._is_over = is_over
        self._open_board = open_board
        self._make_office = make_office
        self._me = me
        self._ttl_s = ttl_s
        self._run_id = run_id
        self._clock = clock
        self._stopping = threading.Event()
        self._watch: Watch | None = None
        self._is_in_office = False
        self._is_retiring = False
        self._trouble = ""
        self._undecided_on, self._undecided, self._fault = -1, 0, ""
        self._starting = threading.Lock()
        self._has_begun = False
        self._thread = threading.Thread(target=self._run, name="rallypoint-coordinator", daemon=True)

    @property
    def is_in_office(self) -> bool:
        """Whether it coordinates, as far as it knows."""
        return self._is_in_office

    def start(self) -> None:
        """Stand as a candidate; doing it again, or after ``stop``, does nothing."""
        with self._starting:
            if not self._has_begun and not self._stopping.is_set():
                self._has_begun = True
                self._thread.start()

    @property
    def stopper(self) -> Callable[[], None]:
        """What tells the thread to end, without referring to this object."""
        return self._stopping.set

    def retire(self) -> None:
        """Have the thread end once it has heard the farewell of its own node, or at once if it is not in office.

        If the run has ended, it tells those who have yet to hear of that before.
        """
        self._is_retiring = True
        if not self._is_in_office:
            self._stopping.set()
            self._wake()

    def stop(self, timeout_s: float) -> None:
        """Give the office up and end the thread, within ``timeout_s`` seconds; doing it again is fine."""
        self._stopping.set()
        self._wake()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def join(self, timeout_s: float) -> None:
        """Wait for the end of the thread, if there is one, at most ``timeout_s`` seconds."""
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _wake(self) -> None:
        watch = self._watch
        if watch is not None:
            watch.close()

    # --- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause_s = 0.0
        while not self._stopping.wait(pause_s):
            try:
                board, close = self._open_board()
            except Exception as error:  # noqa: BLE001 - supervised: told, tried again
                pause_s = self._tell_trouble(error, pause_s)
                continue
            try:
                while not self._stopping.is_set():
                    self._stand(board)
                    self._trouble, pause_s = "", 0.0
            except Exception as error:  # noqa: BLE001 - supervised: told, tried again over a new connection
                if not self._stopping.is_set():
                    pause_s = self._tell_trouble(error, pause_s)
            finally:
                close()

    def _tell_trouble(self, error: Exception, pause_s: float) -> float:
        if repr(error) != self._trouble:
            self._trouble = repr(error)
            why = str(error) or type(error).__name__
            emit("coordinator.trouble", f"coordinating failed, trying again: {why}", run_id=self._run_id)
        return min(PAUSE_MAX_S, max(PAUSE_MIN_S, 2 * pause_s))

    def _note_undecided(self, revision: int, error: Exception) -> None:
        """Note that the office could not decide on the minutes with this revision."""
        if revision != self._undecided_on:
            self._undecided_on, self._undecided = revision, 0
        self._undecided += 1
        self._fault = str(error) if isinstance(error, RendezvousStateError) else repr(error)

    def _officer(self, revision: int) -> Officer:
        """Give what decides on the minutes with this revision."""
        if revision != self._undecided_on or self._undecided < UNDECIDED_MAX:
            return self._make_office()
        return Liquidator(f"nobody can coordinate it any more: {self._fault}")

    # --- the candidate -----------------------------------------------------------------------------------

    def _stand(self, board: Board) -> None:
        """Wait until the office is free, try to take it, and hold it."""
        with board.watch_office() as watch:
            self._watch = watch
            try:
                self._wait_until_free(board, watch)
            finally:
                self._watch = None
        if self._is_over():
            self._stopping.set()
        if self._stopping.is_set():
            return
        asked_at = self._clock.now()
        lease = board.grant(self._ttl_s)
        try:
            term = board.take_office(self._me, lease)
            if term:
                _Term(self, board, lease, term, asked_at).hold()
        except (DeposedError, LeaseLostError) as error:
            emit("coordinator.deposed", f"this node does not coordinate any more: {error}", run_id=self._run_id)
        finally:
            self._is_in_office = False
            board.revoke(lease)

    def _wait_until_free(self, board: Board, watch: Watch) -> None:
        """Return when nobody is in office; depose who has left it without a word."""
        lease, absent_at = -1, 0.0  # of whom is in office; when its mark, if it has none, is late
        while not self._stopping.is_set():
            holder, is_here = board.incumbent()
            if holder is None:
                return
            now = self._clock.now()
            if is_here:
                lease, absent_at = holder.lease, now
            elif lease != holder.lease:
                lease, absent_at = holder.lease, now + MARK_S
            elif now >= absent_at:
                board.evict(lease)
                absent_at = now + MARK_S
                continue
            with suppress(StoreTimeoutError):
                watch.next(LOOK_S if is_here else max(0.0, absent_at - now))


class _Term:
    """One term in office."""

    def __init__(self, candidate: Coordinator, board: Board, lease: int, term: int, renewed_at: float) -> None:
        self._candidate = candidate
        self._clock = candidate._clock  # noqa: SLF001 - one class in two parts
        self._board = board
        self._lease = lease
        self._term = term
        self._ttl_s = candidate._ttl_s  # noqa: SLF001 - as above
        self._renewed_at = renewed_at
        self._roll = Roll(self._ttl_s, self._clock)
        self._minutes_at = 0

    def hold(self) -> None:
        """Coordinate until told to stop.

        Raises:
            DeposedError: somebody else has recorded.
            LeaseLostError: the lease has ended.
        """
        candidate = self._candidate
        with self._board.watch_reports() as watch:
            minutes = self._board.minutes()
            self._minutes_at = minutes.revision
            self._office = candidate._officer(minutes.revision)  # noqa: SLF001 - one class in two parts
            reports = tuple(event.report for event in self._read_all() if isinstance(event, Reported))
            self._renew_if_due()
            emit(
                "coordinator.elected",
                f"this node coordinates run {candidate._run_id!r} in term {self._term}, with {len(reports)} "  # noqa: SLF001
                f"report{'' if len(reports) == 1 else 's'} to begin with",
                run_id=candidate._run_id,  # noqa: SLF001
                term=self._term,
            )
            candidate._watch, candidate._is_in_office = watch, True  # noqa: SLF001
            has_farewell = False
            try:
                self._decide((TookOffice(self._term, minutes.data, reports),))
                while not candidate._stopping.is_set():  # noqa: SLF001
                    events = self._next_events(watch)
                    self._decide(events)
                    self._renew_if_due()
                    has_farewell = has_farewell or self._has_farewell(events)
                    if candidate._is_retiring and has_farewell and not self._office.is_awaited:  # noqa: SLF001
                        candidate._stopping.set()  # noqa: SLF001
            except ValueError:
                if not candidate._stopping.is_set():  # noqa: SLF001 - else the watch was closed to wake this thread
                    raise
            finally:
                candidate._watch = None  # noqa: SLF001

    def _has_farewell(self, events: tuple[Event, ...]) -> bool:
        """Tell whether this coordinator's own node has said goodbye."""
        me = self._candidate._me.node  # noqa: SLF001 - one class in two parts
        return any(isinstance(event, Reported) and event.report.node == me and event.report.leaving for event in events)

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
            self._candidate._note_undecided(self._minutes_at, error)  # noqa: SLF001 - one class in two parts
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
            self._candidate._note_undecided(self._minutes_at, trouble)  # noqa: SLF001 - one class in two parts
            raise trouble from error
        self._note_recorded(revision)

    def _drop(self, below: int | None) -> None:
        if below is None:
            self._board.spaces.drop_all()
        else:
            self._board.spaces.drop_below(below)

    def _note_recorded(self, revision: int) -> None:
        if not revision:
            raise DeposedError(f"another coordinator has recorded since term {self._term} began")
        self._minutes_at = revision

    def _renew_if_due(self) -> None:
        now = self._clock.now()
        if now >= self._renewed_at + self._ttl_s / RENEWALS_IN_TTL:
            self._board.renew(self._lease)
            self._renewed_at = now
