"""How one node follows the coordinator: its report goes up, its orders come in, its lease is kept.

This is the driver of ``follower``: two threads and no rule. One reads what is ordered; the other does all that a node
writes, of which there is never more than one thing under way::

    orders/<id>  ---- watched by "rallypoint-orders" ----+
                                                         v
    next_rendezvous, reports, looks at the round ---> Follower ---> report, to be put up     } done by
                                                         |   +----> a store to serve         } "rallypoint-report",
                                                         v                                   } which renews the lease
                                    entered, stopped, or a verdict: told to who waits        } between the two

Whoever asks what has become of the round lets the machine look at the clock first: a store that does not answer holds
up both threads, and must not keep a node from knowing that it is cut off.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeVar

from rallypoint.clock import SYSTEM_CLOCK, Clock, Deadline
from rallypoint.errors import LeaseLostError, SessionLostError
from rallypoint.events import emit
from rallypoint.rendezvous.board import Board
from rallypoint.rendezvous.contact import Contact
from rallypoint.rendezvous.follower import (
    Doubted,
    Effect,
    Enter,
    Event,
    Follower,
    Granted,
    LeaseLost,
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
)
from rallypoint.rendezvous.mailbox import LOOK_S, Mailbox
from rallypoint.rendezvous.reports import Order, encode_report, read_notice
from rallypoint.rendezvous.verdict import Verdict, VerdictKind
from rallypoint.store.session_calls import Watch
from rallypoint.types import Endpoint

__all__ = ["Following"]

_T = TypeVar("_T")

SESSION_LOOK_S: Final = 0.1
"""While this node is in a round it looks so often whether its session lasts, in seconds."""

LOSSES_MAX: Final = 2
"""A session that was lost so often in a row, without a call that went well, is lost for good."""

PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 1.0
"""Between attempts while the store fails."""


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
        self._ttl_s = ttl_s
        self._interval_s = interval_s
        self._serve = serve
        self._run_id = run_id
        self._stand = stand
        self._clock = clock
        self._stopping = threading.Event()
        self._watch: Watch | None = None
        self._changed = threading.Condition(threading.RLock())  # guards all that follows
        self._follower = follower
        self._contact = contact
        self._unpublished: Publish | None = None
        self._is_publishing = False
        self._unserved: Serve | None = None
        self._entered: Order | None = None
        self._stopped: Stop | None = None
        self._verdict: Verdict | None = None
        self._lost: SessionLostError | None = None
        self._is_watching = False
        self._mailbox = Mailbox(board, node, run_id, self._obey)
        self._losses = 0
        self._session_ends_at = math.inf
        self._lease = 0
        self._renew_at = 0.0
        self._pause_s = 0.0
        self._reader = threading.Thread(target=self._read_orders, name="rallypoint-orders", daemon=True)
        self._writer = threading.Thread(target=self._write, name="rallypoint-report", daemon=True)

    def start(self) -> None:
        """Begin to follow; once."""
        self._reader.start()
        self._writer.start()

    @property
    def stopper(self) -> Callable[[], None]:
        """What tells the threads to end, without referring to this object."""
        return self._stopping.set

    # --- what the handler asks ---------------------------------------------------------------------------

    def tell(self, event: Event) -> None:
        """Let the machine know what happened; what follows from it is done by the threads."""
        with self._changed:
            self._step(event)

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
            while self._unpublished is not None or self._is_publishing:
                if deadline.has_passed() or self._stopping.is_set() or self._lost is not None:
                    return False
                self._wait(deadline.at)
            return True

    def stop(self, timeout_s: float) -> None:
        """End the threads within ``timeout_s`` seconds, and the lease; doing it again is fine."""
        deadline = Deadline(timeout_s, self._clock)
        with self._changed:
            self._stopping.set()
            watch, lease = self._watch, self._lease
            self._lease = 0
            self._changed.notify_all()
        if watch is not None:
            watch.close()
        me = threading.current_thread()
        for thread in (self._writer, self._reader):
            if thread.is_alive() and thread is not me:
                thread.join(deadline.remaining_s())
        if lease and self._lost is None and not self._writer.is_alive():
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

    def _note_session(self) -> None:
        ends_at = self._board.session_ends_at()
        if ends_at != self._session_ends_at:
            self._session_ends_at = ends_at
            self._step(Doubted(ends_at))

    def _due_at(self) -> float:
        due_at = self._follower.next_deadline()
        return math.inf if due_at is None else due_at

    def _step(self, event: Event) -> None:
        for effect in self._follower.step(event, self._clock.now()):
            self._carry_out(effect)
        self._changed.notify_all()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Publish():
                self._unpublished = effect
            case Serve():
                self._unserved = effect
            case Enter(order):
                self._entered = order
            case Stop():
                self._stopped = effect
            case Tell(verdict):
                self._verdict = verdict
            case Say(why):
                emit("rendezvous.wait", why, run_id=self._run_id, node=self._node)

    # --- orders in ---------------------------------------------------------------------------------------

    def _read_orders(self) -> None:
        pause_s, trouble = 0.0, ""
        while not self._stopping.wait(pause_s):
            try:
                with self._board.watch_order(self._node) as watch:
                    self._watch = watch
                    if self._is_watching:  # else this node has not reported yet, and nobody has ordered it anything
                        self._mailbox.look()
                    with self._changed:
                        self._is_watching = True
                        self._changed.notify_all()
                    pause_s, trouble = 0.0, ""
                    self._mailbox.read_on(watch, self._stopping.is_set)
            except Exception as error:  # noqa: BLE001, PERF203 - supervised: told, noted, tried again
                if self._stopping.is_set():
                    return
                if repr(error) != trouble and not self.is_over():  # after the end, its host may go at any time
                    trouble = repr(error)
                    emit("rendezvous.trouble", f"reading this node's orders failed, trying again: {error}")
                self._note_loss(error)
                with self._changed:  # the session may have ended, and this node's mark with it
                    self._renew_at = self._clock.now()
                    self._changed.notify_all()
                pause_s = min(PAUSE_MAX_S, max(PAUSE_MIN_S, 2 * pause_s))

    def _obey(self, order: Order) -> None:
        with self._changed:
            self._step(Ordered(order))

    # --- reports out -------------------------------------------------------------------------------------

    def _write(self) -> None:
        trouble = ""
        while not self._stopping.wait(self._pause_s):
            try:
                self._write_next()
                with self._changed:
                    self._contact.fail(None)
                trouble, self._pause_s = "", 0.0
            except LeaseLostError as error:  # noqa: PERF203 - as below
                with self._changed:
                    lease, self._lease = self._lease, 0
                    self._step(LeaseLost(str(error)))
                with suppress(RuntimeError, OSError):
                    self._board.revoke(lease)  # what is left of this node's place
            except Exception as error:  # noqa: BLE001 - supervised: told, noted, tried again
                if self._stopping.is_set():
                    return
                if repr(error) != trouble and not self.is_over():  # after the end, its host may go at any time
                    trouble = repr(error)
                    emit("rendezvous.trouble", f"keeping this node's place failed, trying again: {error}")
                self._note_loss(error)
                with self._changed:
                    self._contact.fail(error)
                    self._changed.notify_all()
                self._pause_s = min(PAUSE_MAX_S, max(PAUSE_MIN_S, 2 * self._pause_s))

    def _write_next(self) -> None:
        """Wait for something to write, and do it."""
        with self._changed:
            while not self._stopping.is_set():
                now = self._clock.now()
                if self._is_watching and (self._unserved or self._unpublished or not self._lease):
                    break
                if self._lease and now >= self._renew_at:
                    break
                self._wait(self._renew_at if self._lease else now + LOOK_S)
            else:
                return
            serve, publish, lease = self._unserved, self._unpublished, self._lease
        if not lease:
            self._grant()
        elif self._clock.now() >= self._renew_at:
            self._renew(lease)
        elif serve is not None:
            endpoint = self._serve(serve.proposal, serve.round)
            with self._changed:
                if self._unserved is serve:
                    self._unserved = None
                self._step(Served(serve.proposal, endpoint))
        elif publish is not None:
            self._publish(publish, lease)

    def _grant(self) -> None:
        sent_at = self._clock.now()
        lease = self._ask(lambda: self._board.grant_place(self._ttl_s))
        is_first = self._ask(lambda: self._board.mark_place(self._node))
        with self._changed:
            self._lease, self._renew_at = lease, sent_at + self._interval_s
            self._step(Granted())
            self._step(Renewed(sent_at))
        if is_first:
            self._stand()

    def _renew(self, lease: int) -> None:
        sent_at = self._clock.now()
        place = self._ask(lambda: self._board.renew_place(self._node, lease))
        if not place.is_led:
            self._stand()
        if not place.is_marked:
            raise LeaseLostError("the connection was lost for too long", lease=lease)
        with self._changed:
            self._renew_at = sent_at + self._interval_s
            self._step(Renewed(sent_at))
            is_waiting = self._follower.is_wanting
        if is_waiting and (notice := read_notice(self._board.progress())):
            self.tell(Progressed(notice))

    def _publish(self, publish: Publish, lease: int) -> None:
        with self._changed:
            if self._unpublished is publish:
                self._unpublished = None
            self._is_publishing = True
        try:
            self._ask(lambda: self._board.post_report(self._node, encode_report(publish.report), lease))
        except BaseException:
            with self._changed:
                self._unpublished = self._unpublished or publish
            raise
        finally:
            with self._changed:
                self._is_publishing = False
                self._changed.notify_all()

    def _ask(self, call: Callable[[], _T]) -> _T:
        with self._changed:
            self._contact.ask()
        try:
            answer = call()
        finally:
            with self._changed:
                self._contact.end()
        with self._changed:
            self._contact.answer()
            self._losses = 0
        return answer

    def _note_loss(self, error: Exception) -> None:
        """Note if the store is gone for good: then nothing can be awaited any more.

        A call of which a new session does not know whether it was applied fails in the same way, but only once.
        """
        with self._changed:
            self._losses = self._losses + 1 if isinstance(error, SessionLostError) else 0
            if isinstance(error, SessionLostError) and self._losses >= LOSSES_MAX:
                self._lost = error
            self._changed.notify_all()
