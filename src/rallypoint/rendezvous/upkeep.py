"""What one node keeps up in the store, so that the others count on it: its lease, its mark, its report.

There is never more than one thing under way, whichever thread does it::

    no lease yet -----> begin one, then mark and report in one go; again whenever it was lost
    its time is up ---> renew it, and look how far the others are
    a store to serve -> serve it, then tell the machine
    a report ---------> put it up; one that was replaced meanwhile is never written

What fails is told once, and done again after a pause; the machine hears of a lease that was lost.

What this file does not know: what orders say, when the machine wants what.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TypeVar

from rallypoint.clock import Clock
from rallypoint.errors import LeaseLostError
from rallypoint.events import emit
from rallypoint.rendezvous.board import Board
from rallypoint.rendezvous.contact import Contact
from rallypoint.rendezvous.follower_moves import (
    Event,
    Granted,
    LeaseLost,
    Progressed,
    Publish,
    Renewed,
    Serve,
    Served,
)
from rallypoint.rendezvous.reports import encode_report, read_notice
from rallypoint.types import Endpoint

__all__ = ["Upkeep", "longer_pause_s"]

_T = TypeVar("_T")

PAUSE_MIN_S, PAUSE_MAX_S = 0.05, 1.0
"""Between attempts while the store fails."""


def longer_pause_s(pause_s: float) -> float:
    """Give the pause after the next failure, in seconds."""
    return min(PAUSE_MAX_S, max(PAUSE_MIN_S, 2 * pause_s))


class Upkeep:
    """A node's place in the store.

    Args:
        board: the keys of the run.
        node: this node's id.
        ttl_s: for how long the node's lease outlives its last renewal, in seconds.
        interval_s: how often it is renewed.
        serve: starts the workers' store for a proposal, of the round that is given too; gives where it is.
        contact: what is known of the way to the store.
        changed: guards the machine, and all that is in here; told of every change.
        step: lets the machine know what happened, with ``changed`` held.
        is_wanting: whether the node waits for others, with ``changed`` held.
        fail: told of what went wrong, with ``changed`` held; tells whether somebody should hear of it.
        stand: called where this node should coordinate: it is the first of those that are there, or nobody does.
        clock: what all times are measured on.

    Attributes:
        is_open: whether there may be orders for this node: before that nothing is written.
        awaiting: how many threads wait until all is up.

    Threads: any; one at a time does the work.
    """

    def __init__(  # noqa: PLR0917 - what it stands between
        self,
        board: Board,
        node: str,
        ttl_s: float,
        interval_s: float,
        serve: Callable[[int, int], Endpoint],
        contact: Contact,
        changed: threading.Condition,
        step: Callable[[Event], None],
        is_wanting: Callable[[], bool],
        fail: Callable[[Exception], bool],
        stand: Callable[[], None],
        clock: Clock,
    ) -> None:
        self.is_open = False
        self.awaiting = 0
        self._board = board
        self._node = node
        self._ttl_s = ttl_s
        self._interval_s = interval_s
        self._serve = serve
        self._contact = contact
        self._changed = changed
        self._step = step
        self._is_wanting = is_wanting
        self._fail = fail
        self._stand = stand
        self._clock = clock
        self._unpublished: Publish | None = None
        self._unserved: Serve | None = None
        self._lease = 0
        self._renew_at = -math.inf
        self._retry_at = -math.inf
        self._pause_s = 0.0
        self._trouble = ""
        self._is_working = False
        self._is_publishing = False

    # --- with ``changed`` held -----------------------------------------------------------------------------

    def want(self, effect: Publish | Serve) -> None:
        """Take what the machine wants done."""
        if isinstance(effect, Publish):
            self._unpublished = effect
        else:
            self._unserved = effect

    def hurry(self) -> None:
        """Renew the lease as soon as possible: the session may have ended, and this node's mark with it."""
        self._renew_at = self._clock.now()

    @property
    def is_published(self) -> bool:
        """Whether all that the node has to say is up."""
        return self._unpublished is None and not self._is_publishing

    @property
    def needs_hand(self) -> bool:
        """Whether there is something to do now, and nobody does it."""
        return not self._is_working and self.due_at() <= self._clock.now()

    def due_at(self) -> float:
        """Give when there is something to do next."""
        return max(self._wanted_at(), self._retry_at)

    @property
    def is_behind(self) -> bool:
        """Whether there is something to do, now or after the pause that follows a failure, and nobody does it."""
        return not self._is_working and self._wanted_at() <= self._clock.now()

    def _wanted_at(self) -> float:
        if not self.is_open:
            return math.inf
        is_all_done = self._lease and self._unpublished is None and self._unserved is None
        return self._renew_at if is_all_done else -math.inf

    def give_up(self) -> int:
        """Give the lease, 0 for none, to whoever ends it: there is none any more."""
        lease, self._lease, self.is_open = self._lease, 0, False
        return lease

    # --- without it ----------------------------------------------------------------------------------------

    def work(self) -> None:
        """Do all that is due, unless another thread is at it: that one does not end before this is done, too."""
        with self._changed:
            if not self.needs_hand:
                return
            self._is_working = True
        while self._work_once():
            pass

    def _work_once(self) -> bool:
        """Do the next thing that is due; tell whether there was one."""
        with self._changed:
            now = self._clock.now()
            if self.due_at() > now:
                self._is_working = False  # at the same moment: who wants something later finds nobody at work
                return False
            serve, lease, is_late = self._unserved, self._lease, now >= self._renew_at
        try:
            if not lease:
                self._grant()
            elif is_late:
                self._renew(lease)
            elif serve is not None:
                self._serve_store(serve)
            else:
                with self._publishing() as report:
                    if report is not None:
                        self._ask(partial(self._board.post_report, self._node, report, lease))
        except LeaseLostError as error:
            self._lose_lease(error)
        except Exception as error:  # noqa: BLE001 - supervised: told, noted, tried again
            self._note_failure(error)
        else:
            with self._changed:
                self._contact.fail(None)
                self._trouble, self._pause_s = "", 0.0
        return True

    def _lose_lease(self, error: LeaseLostError) -> None:
        with self._changed:
            lease, self._lease = self._lease, 0
            self._retry_at = self._clock.now() + (0.0 if lease else PAUSE_MIN_S)
            self._step(LeaseLost(str(error)))
        if lease:
            with suppress(RuntimeError, OSError):
                self._board.revoke(lease)  # what is left of this node's place

    def _note_failure(self, error: Exception) -> None:
        with self._changed:
            if self._fail(error) and repr(error) != self._trouble:
                self._trouble = repr(error)
                emit("rendezvous.trouble", f"keeping this node's place failed, trying again: {error}")
            self._contact.fail(error)
            self._pause_s = longer_pause_s(self._pause_s)
            self._retry_at = self._clock.now() + self._pause_s
            self._changed.notify_all()

    def _grant(self) -> None:
        sent_at = self._clock.now()
        lease = self._ask(lambda: self._board.grant_place(self._ttl_s))
        with self._changed:
            self._step(Granted())
        with self._publishing() as report:
            is_first = self._ask(lambda: self._board.take_place(self._node, report, lease))
        with self._changed:
            is_given_up = not self.is_open  # meanwhile, by who has found no lease to end
            if not is_given_up:
                self._lease, self._renew_at = lease, sent_at + self._interval_s
                self._step(Renewed(sent_at))
        if is_given_up:
            self._board.revoke(lease)
        elif is_first:
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
            if self._is_wanting() and (notice := read_notice(place.progress)):
                self._step(Progressed(notice))

    def _serve_store(self, serve: Serve) -> None:
        endpoint = self._serve(serve.proposal, serve.round)
        with self._changed:
            if self._unserved is serve:
                self._unserved = None
            self._step(Served(serve.proposal, endpoint))

    @contextmanager
    def _publishing(self) -> Iterator[bytes | None]:
        """Take what is to be put up, ``None`` for nothing; if that fails it is the next time, or something newer."""
        with self._changed:
            publish, self._unpublished = self._unpublished, None
            self._is_publishing = True
        try:
            yield None if publish is None else encode_report(publish.report)
        except BaseException:
            with self._changed:
                self._unpublished = self._unpublished or publish
            raise
        finally:
            with self._changed:
                self._is_publishing = False
                if self.awaiting:
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
        return answer
