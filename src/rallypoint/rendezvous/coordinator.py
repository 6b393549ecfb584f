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

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from rallypoint.clock import SYSTEM_CLOCK, Clock
from rallypoint.errors import LeaseLostError, StoreTimeoutError
from rallypoint.events import emit
from rallypoint.rendezvous.board import Board, Holder
from rallypoint.rendezvous.liquidator import Faults, Liquidator
from rallypoint.rendezvous.term import DeposedError, Officer, Term
from rallypoint.store.session_calls import Watch

__all__ = ["Coordinator"]

LOOK_S: Final = 10.0
"""A candidate looks again who is in office after so many seconds in which the store said nothing."""

MARK_S: Final = 1.0
"""Who is in office has its mark up within so many seconds, or is taken for gone."""

PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 2.0
"""Between attempts while the store fails."""


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
        self._faults = Faults()
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

    def _officer(self, revision: int) -> Officer:
        """Give what decides on the minutes with this revision."""
        verdict = self._faults.verdict(revision)
        return Liquidator(verdict) if verdict else self._make_office()

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
            number = board.take_office(self._me, lease)
            if number:
                term = Term(
                    board, lease, number, asked_at, self._ttl_s, self._run_id, self._me.node, self._faults, self._clock
                )
                self._hold(term)
        except (DeposedError, LeaseLostError) as error:
            emit("coordinator.deposed", f"this node does not coordinate any more: {error}", run_id=self._run_id)
        finally:
            self._is_in_office = False
            board.revoke(lease)

    def _hold(self, term: Term) -> None:
        """Coordinate until told to stop.

        Raises:
            DeposedError: somebody else has recorded.
            LeaseLostError: the lease has ended.
        """
        with term.watch() as watch:
            term.prepare(self._officer)
            self._watch, self._is_in_office = watch, True
            try:
                term.begin()
                while not self._stopping.is_set():
                    term.go_on(watch)
                    if self._is_retiring and term.may_end:
                        self._stopping.set()
            except ValueError:
                if not self._stopping.is_set():  # else the watch was closed to wake this thread
                    raise
            finally:
                self._watch = None

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
