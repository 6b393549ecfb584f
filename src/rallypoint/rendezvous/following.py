"""How one node follows the coordinator: its report goes up, its orders come in, its lease is kept.

This is the driver of ``follower``: one thread and no rule. It reads what is ordered, and does between two orders what
``upkeep`` has to do, so that an order is answered by the thread that has read it::

    orders/<id>  ---- watched by "rallypoint-node" ------+
                                                         v
    next_rendezvous, reports, looks at the round ---> Follower ---> report, store to serve --> Upkeep
                                                         |
                                                         v
                                    entered, stopped, or a verdict: told to who waits

What somebody else lets the machine know is put up by a thread that lives only for that: the other one is reading, and
nobody is made to wait for the store.

Whoever asks what has become of the round lets the machine look at the clock first: a store that does not answer holds
up the threads, and must not keep a node from knowing that it is cut off.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from rallypoint.clock import SYSTEM_CLOCK, Clock, Deadline
from rallypoint.errors import SessionLostError
from rallypoint.events import emit
from rallypoint.rendezvous.board import Board
from rallypoint.rendezvous.contact import Contact
from rallypoint.rendezvous.follower import Follower
from rallypoint.rendezvous.follower_moves import (
    Doubted,
    Effect,
    Enter,
    Event,
    Ordered,
    Publish,
    Say,
    Serve,
    Stop,
    Tell,
    Ticked,
)
from rallypoint.rendezvous.mailbox import LOOK_S, Mailbox
from rallypoint.rendezvous.reports import Order
from rallypoint.rendezvous.upkeep import Upkeep, longer_pause_s
from rallypoint.rendezvous.verdict import Verdict, VerdictKind
from rallypoint.store.session_calls import Watch
from rallypoint.types import Endpoint

__all__ = ["Following"]

SESSION_LOOK_S: Final = 0.1
"""While this node is in a round it looks so often whether its session lasts, in seconds."""

HAND_S: Final = 0.01
"""Orders are read for so long at least, in seconds, also when somebody else should be done with his part by now."""

LOSSES_MAX: Final = 2
"""A session that was lost so often in a row, without a call that went well, is lost for good."""

_AWAITED = (Enter, Stop, Tell)


class Following:
    """One node's side of the talk with the coordinator.

    Args:
        board: the keys of the run.
        follower: the machine.
        node: this node's id.
        ttl_s: for how long the node's lease outlives its last renewal, in seconds.
        interval_s: how often it is renewed.
        serve: starts the workers' store for a proposal, of the round that is given too; gives where it is.
        contact: what is known of the way to the store.
        run_id: the run, for events.
        stand: called where this node should coordinate: it is the first of those that are there, or nobody does.
        clock: what all times are measured on.

    Threads: any.
    """

    def __init__(  # noqa: PLR0917 - what it stands between
        self,
        board: Board,
        follower: Follower,
        node: str,
        ttl_s: float,
        interval_s: float,
        serve: Callable[[int, int], Endpoint],
        contact: Contact,
        run_id: str,
        *,
        stand: Callable[[], None] = lambda: None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._board = board
        self._node = node
        self._run_id = run_id
        self._clock = clock
        self._stopping = threading.Event()
        self._watch: Watch | None = None
        self._changed = threading.Condition(threading.RLock())  # guards all that follows
        self._follower = follower
        self._contact = contact
        self._upkeep = Upkeep(
            board,
            node,
            ttl_s,
            interval_s,
            serve,
            contact,
            self._changed,
            step=self._step,
            is_wanting=lambda: follower.is_wanting,
            fail=self._note_failure,
            stand=stand,
            clock=clock,
        )
        self._entered: Order | None = None
        self._stopped: Stop | None = None
        self._verdict: Verdict | None = None
        self._lost: SessionLostError | None = None
        self._mailbox = Mailbox(board, node, run_id, self._obey, clock)
        self._losses = 0
        self._answered_at = contact.answered_at
        self._session_ends_at = math.inf
        self._has_begun = False
        self._hand: threading.Thread | None = None
        self._is_helped = False  # by that
        self._thread = threading.Thread(target=self._run, name="rallypoint-node", daemon=True)

    def start(self) -> None:
        """Begin to follow; doing it again is fine."""
        with self._changed:
            if not self._has_begun:
                self._has_begun = True
                self._thread.start()

    @property
    def stopper(self) -> Callable[[], None]:
        """What tells the threads to end, without referring to this object."""
        return self._stopping.set

    # --- what the handler asks ---------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Let the machine know what happened; what follows from it is done by others than the caller."""
        with self._changed:
            self._step(event)
            self._have_it_done()

    def await_entry(self) -> Order | Stop | SessionLostError | None:
        """Wait until this node is in a round, or will not be.

        Returns:
            The order that let it in; why it will not be; why nobody can know; ``None`` if it stopped following.
        """
        with self._changed:
            while (
                self._entered is None and self._stopped is None and self._lost is None and not self._stopping.is_set()
            ):
                self._wait(self._clock.now() + LOOK_S)
            return self._entered or self._stopped or self._lost

    def forget_entry(self) -> None:
        """Forget how the last wait for a round ended."""
        with self._changed:
            self._entered = self._stopped = None
            self._verdict = None

    def verdict(self) -> tuple[Verdict | None, Exception | None]:
        """Give what has become of the round, ``None`` if there is nothing to tell, and what is wrong, if anything."""
        with self._changed:
            self._tick_if_due()
            return self._verdict, self._lost or self._contact.trouble()

    def is_over(self) -> bool:
        """Tell whether this node has heard that the run is closed."""
        with self._changed:
            return self._follower.report.has_heard

    def await_verdict(self, timeout_s: float) -> None:
        """Wait until the round does not go on, or something is wrong, or the time is up."""
        deadline = Deadline(timeout_s, self._clock)
        with self._changed:
            while not deadline.has_passed() and not self._stopping.is_set():
                verdict, trouble = self.verdict()
                if trouble is not None or (verdict is not None and verdict.kind is not VerdictKind.CURRENT):
                    return
                look_s = min(self._contact.until_trouble_s(), SESSION_LOOK_S)
                self._wait(min(deadline.at, self._clock.now() + look_s))

    def await_published(self, timeout_s: float) -> bool:
        """Wait until all that this node has to say is up; tell whether it is."""
        deadline = Deadline(timeout_s, self._clock)
        with self._changed:
            self._upkeep.awaiting += 1
            try:
                while not self._upkeep.is_published:
                    if deadline.has_passed() or self._stopping.is_set() or self._lost is not None:
                        return False
                    self._wait(deadline.at)
            finally:
                self._upkeep.awaiting -= 1
            return True

    def stop(self, timeout_s: float) -> None:
        """End the threads within ``timeout_s`` seconds, and the lease; doing it again is fine."""
        deadline = Deadline(timeout_s, self._clock)
        with self._changed:
            self._stopping.set()
            watch, lease = self._watch, self._upkeep.give_up()
            threads = [thread for thread in (self._thread, self._hand) if thread is not None and thread.is_alive()]
            self._changed.notify_all()
        if watch is not None:
            watch.close()
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(deadline.remaining_s())
        is_fine = self._lost is None and self._contact.trouble() is None
        if lease and is_fine and not any(thread.is_alive() for thread in threads):
            with suppress(RuntimeError, OSError):  # it ends by itself
                self._board.revoke(lease)

    # --- the machine -------------------------------------------------------------------------------------

    def _wait(self, until: float) -> None:
        """Wait for a change, or until the machine has something to do, and let it do that; with the lock held."""
        left_s = min(until, self._due_at()) - self._clock.now()
        if left_s > 0:
            self._changed.wait(min(left_s, threading.TIMEOUT_MAX))
        self._tick_if_due()

    def _tick_if_due(self) -> None:
        self._note_session()
        if self._clock.now() >= self._due_at():
            self._step(Ticked())
            self._have_it_done()

    def _have_it_done(self) -> None:
        """Have a thread of its own do what is due, unless one is at it; with the lock held."""
        if self._upkeep.needs_hand and not self._is_helped:
            self._hand = threading.Thread(target=self._help, name="rallypoint-report", daemon=True)
            self._hand.start()
            self._is_helped = True

    def _help(self) -> None:
        """Do what is due, and what fails again after a pause: who reads may do so until the next renewal."""
        while True:
            self._upkeep.work()
            with self._changed:
                if self._stopping.is_set() or not self._upkeep.is_behind:
                    self._is_helped = False  # at the same moment: what is wanted later has a thread of its own
                    return
                self._changed.wait(max(0.0, self._upkeep.due_at() - self._clock.now()))

    def _note_session(self) -> None:
        ends_at = self._board.session_ends_at()
        if ends_at != self._session_ends_at:
            self._session_ends_at = ends_at
            self._step(Doubted(ends_at))

    def _due_at(self) -> float:
        due_at = self._follower.next_deadline()
        return math.inf if due_at is None else due_at

    def _step(self, event: Event) -> None:
        due_at = self._due_at()
        effects = self._follower.step(event, self._clock.now())
        for effect in effects:
            self._carry_out(effect)
        if self._due_at() < due_at or any(isinstance(effect, _AWAITED) for effect in effects):
            self._changed.notify_all()  # waking who waits for nothing costs more than the rest

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Publish() | Serve():
                self._upkeep.want(effect)
            case Enter(order):
                self._entered = order
            case Stop():
                self._stopped = effect
            case Tell(verdict):
                self._verdict = verdict
            case Say(why):
                emit("rendezvous.wait", why, run_id=self._run_id, node=self._node)

    # --- the thread --------------------------------------------------------------------------------------

    def _run(self) -> None:
        pause_s, trouble = 0.0, ""
        while not self._stopping.wait(pause_s):
            try:
                with self._board.watch_order(self._node) as watch:
                    self._watch = watch
                    self._open()
                    pause_s, trouble = 0.0, ""
                    while not self._stopping.is_set():
                        self._upkeep.work()
                        self._mailbox.read(watch, self._until_due_s())
            except Exception as error:  # noqa: BLE001, PERF203 - supervised: told, noted, tried again
                if self._note_failure(error) and repr(error) != trouble:
                    trouble = repr(error)
                    emit("rendezvous.trouble", f"reading this node's orders failed, trying again: {error}")
                with self._changed:
                    self._upkeep.hurry()
                self._upkeep.work()  # a lease must not end because of that
                pause_s = longer_pause_s(pause_s)

    def _open(self) -> None:
        """Look what was ordered meanwhile: nothing, before this node has reported for the first time."""
        if self._upkeep.is_open:
            self._mailbox.look()
        with self._changed:
            self._upkeep.is_open = not self._stopping.is_set()

    def _until_due_s(self) -> float:
        with self._changed:
            return max(HAND_S, self._upkeep.due_at() - self._clock.now())

    def _obey(self, order: Order) -> None:
        with self._changed:
            self._note_session()
            self._step(Ordered(order))

    def _note_failure(self, error: Exception) -> bool:
        """Note if the store is gone for good: then nothing can be awaited any more.

        A call of which a new session does not know whether it was applied fails in the same way, but only once.

        Returns:
            Whether to tell of it: nobody cares any more after the end, when the store's host may go at any time.
        """
        with self._changed:
            if self._contact.answered_at != self._answered_at:
                self._answered_at, self._losses = self._contact.answered_at, 0
            self._losses = self._losses + 1 if isinstance(error, SessionLostError) else 0
            if isinstance(error, SessionLostError) and self._losses >= LOSSES_MAX:
                self._lost = error
            self._changed.notify_all()
            return not self._stopping.is_set() and not self._follower.report.has_heard
