"""One session's connection, shared by all threads of a store, and made anew when it is lost.

Rules:

- Everything under ``_turn`` is short and never waits (``store.uplink``): giving an id, handing a frame to the system.
  What the system does not take is handed on by whoever waits next; so nobody sends without also reading.
- Of the threads that wait for answers one *leads* and reads for all, the others *follow* (``store.leading``).
- A lost connection is an error for a call only at the call's own deadline: until then the leader connects, says HELLO
  with the session's id, and sends again what was not answered. ``protocol.session.client`` says what that is.

::

    thread 1   get a --> ................ leads: reads OK b, wakes 2; reads OK a ─ done
    thread 2            set b --> follows ............. done
    thread 3                      get c --> follows ..................... leads: reads OK c ─ done

Signals may strike anywhere in the main thread, and what they raise (Ctrl-C) must leave the session in step. Hence the
care below: locks are held by ``with`` alone; what must be undone is undone by one assignment in a ``finally``; what
must not be cut in two is marked *before* it begins (``is_sound``, ``_busy``), and whoever finds the mark of a step that
was cut drops the connection: the session goes on over the next. A handler that uses the store amid such a step of its
own thread gets another trunk, with a session of its own; amid a mere wait it uses this one.

A call that ends early forgets its request: a wait is cancelled at the server, and an answer that comes is dropped.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, NoReturn

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectionLostError, DistNetworkError
from rallypoint.net.loss import silent
from rallypoint.protocol.session.client import Session
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.store import connections
from rallypoint.store.leading import Leading, Reach
from rallypoint.store.ticket import Begun, Hear, Ticket, wake_each
from rallypoint.store.uplink import Link
from rallypoint.types import Endpoint

__all__ = ["Reach", "Trunk"]

POSTS_MAX = 64
"""So many requests are sent without waiting before one is waited for: answers that nobody reads fill the connection."""


class Trunk(Leading):
    """A session that many threads use.

    Args:
        endpoint: the server, for errors.
        link: the first connection.
        reach: makes another.

    Attributes:
        land: takes the connection back from the lane (``store.lane``), if there is one and it has it.

    Threads: any number.
    """

    def __init__(self, endpoint: Endpoint, link: Link, reach: Reach) -> None:
        super().__init__(endpoint, link, reach)
        self._beside: list[Trunk] = []
        self._posted = 0

    # --- calls -------------------------------------------------------------------------------------------

    def ask(
        self,
        verb: SessionVerb,
        fields: tuple[Any, ...],
        timeout_s: float,
        *,
        waits: bool = False,
        hear: Hear | None = None,
    ) -> Ticket:
        """Send a request and wait for its answer.

        Args:
            verb: what is asked.
            fields: as its layout says.
            timeout_s: the caller's timeout in seconds.
            waits: the server may take its time until then, and 0 looks once. Otherwise it owes the answer, and has
                ``REPLY_GRACE_S`` more.
            hear: where a watch's events go.

        Raises:
            ReplyTimeoutError: the server is silent.
            UnreachableError: it cannot be reached.
            SessionLostError: it does not know the session any more, or has other data.
            ConnectionLostError: the trunk is closed.
            LocalProtocolError: the request cannot be made.
        """
        if isinstance(timeout_s, Begun):
            return self._go_on(timeout_s, waits=waits)
        ticket = Ticket(verb)
        me = ticket.thread
        if me == self._holder or me == self._busy:  # noqa: PLR1714 - quicker
            return self._aside(timeout_s).ask(verb, fields, timeout_s, waits=waits, hear=hear)
        ticket.hear = hear
        ticket.started = monotonic()
        looks_once = waits and timeout_s <= 0
        try:
            with self._turn:
                self._holder = me
                try:
                    self._look_after()
                    self._take_lead(ticket)
                    self._uplink.begin(ticket, fields, cancels=looks_once)
                finally:
                    self._holder = None
            self._see_through(ticket, timeout_s, waits=waits)
        except BaseException:
            self.forget(ticket)
            raise
        finally:
            self.leave(ticket)
        return ticket

    def _go_on(self, begun: Begun, *, waits: bool) -> Ticket:
        """Wait for the answer to what the lane has begun; otherwise as ``ask``."""
        ticket = begun.ticket
        try:
            if begun.data:
                self._read(begun.link, ticket, ticket.started, begun.data)
            self._see_through(ticket, begun, waits=waits)
        except BaseException:
            self.abandon(ticket)
            raise
        self.leave(ticket)
        return ticket

    def abandon(self, ticket: Ticket) -> None:
        """End a call amid its way; a second time does nothing."""
        try:
            self.forget(ticket)
        finally:
            self.leave(ticket)

    def _see_through(self, ticket: Ticket, timeout_s: float, *, waits: bool) -> None:
        """Wait for the answer to a call, and have it be cancelled when its time is up."""
        looks_once = waits and timeout_s <= 0
        until = ticket.started + timeout_s
        if not waits or looks_once:
            until += connections.REPLY_GRACE_S
        if not self.wait(ticket, until):
            if not waits or looks_once or self._uplink.link is None:
                self._be_late(ticket)
            self.tell(self._session.cancel, ticket)
            if not self.wait(ticket, monotonic() + connections.REPLY_GRACE_S):
                self._be_late(ticket)

    def await_owed(self, ticket: Ticket, until: float) -> None:
        """Wait for an answer that the server owes at once; errors as of ``ask``."""
        if not self.wait(ticket, until):
            self._be_late(ticket)

    def post(self, verb: SessionVerb, fields: tuple[Any, ...], timeout_s: float) -> None:
        """Send a request without waiting for its answer, which nobody gets to see; now and then wait all the same."""
        self._posted += 1
        if self.is_amid() or self._posted % POSTS_MAX == 0:
            self.ask(verb, fields, timeout_s)
        else:
            self.begin([(verb, fields)])

    def begin(self, requests: Sequence[tuple[SessionVerb, tuple[Any, ...]]]) -> list[Ticket]:
        """Send requests; ``wait`` for each, and ``leave`` it, or ``forget`` it."""
        tickets = [Ticket(verb) for verb, _ in requests]
        me = threading.get_ident()  # under the lock, a handler could strike between the call and the mark
        with self._turn:
            self._holder = me
            try:
                self._look_after()
                frames = []
                for ticket, (_, fields) in zip(tickets, requests, strict=True):
                    ticket.started = monotonic()
                    frames.append(self._session.begin(ticket, *fields))
                self._uplink.send(b"".join(frames))
            finally:
                self._holder = None
        return tickets

    def rouse(self) -> None:
        """Have whoever reads look up at once: the server is asked something that nobody waits for.

        Nothing is done in a signal's handler amid a step of its own thread: who reads looks up by itself, a bit later.
        """
        if not self.is_amid():
            with contextlib.suppress(DistNetworkError):  # there is an end to it, which rouses everybody
                self.begin([(SessionVerb.PING, (0,))])

    def is_amid(self) -> bool:
        """Tell whether the caller is in a signal's handler amid a step of its own thread, and must not begin here."""
        return threading.get_ident() in (self._holder, self._busy)

    def tell(self, make: Callable[[Ticket], bytes], ticket: Ticket) -> None:
        """Send the frame that ``make``, a method of ``session``, makes of a request, if any.

        Nothing is done in a signal's handler amid a step of its own thread, which holds the turn; what it would have
        ended goes on unheard.
        """
        me = threading.get_ident()  # see begin
        if self._holder == me:
            return
        with self._turn:
            self._holder = me
            try:
                self.land()
                frame = make(ticket)
                if frame and self._uplink.end is None:
                    self._uplink.send(frame)
            finally:
                self._holder = None

    @property
    def session(self) -> Session:
        """The machine, whose methods are for ``tell``."""
        return self._session

    def forget(self, ticket: Ticket) -> None:
        """Give a request up; a step that was cut in two on the way costs the connection."""
        if ticket.leads and self._busy == ticket.thread:
            link = self._uplink.link
            if link is not None:
                link.is_sound = False
            self._busy = None
        if ticket.id and ticket.is_open() and self._uplink.end is None:
            self.tell(self._session.forget, ticket)

    def _aside(self, timeout_s: float) -> Trunk:
        """Give another trunk to the same server, for a signal's handler."""
        if self._uplink.end is not None:
            raise self._uplink.ended()
        if not self._beside:  # several, if handlers nest while they connect
            link = self._reach(b"", Deadline(timeout_s + connections.REPLY_GRACE_S))
            self._beside.append(Trunk(self.endpoint, link, self._reach))
            if self._uplink.has_ended():  # by another thread, which may not have seen this one
                self._beside[-1].close(str(self._uplink.ended()))
        return self._beside[0]

    # --- errors and the end ------------------------------------------------------------------------------

    def _be_late(self, ticket: Ticket) -> NoReturn:
        """Raise the error of an answer that did not come in time."""
        waited_s = monotonic() - ticket.started
        if self._uplink.link is None:
            raise self._uplink.unreachable(waited_s)
        raise silent(self.endpoint, "did not answer", waited_s)

    def close(self, reason: str, *, is_owner: bool = True) -> None:
        """End the session, and all calls that other threads have under way.

        Args:
            reason: what they and later calls are told.
            is_owner: false in a forked child, which must say nothing on its parent's connection.
        """
        uplink = self._uplink
        is_first = uplink.end is None
        uplink.end = uplink.end or (ConnectionLostError, reason)
        self.land()
        link = uplink.link
        if link is not None:
            if is_first and is_owner and self._turn.acquire(blocking=False):
                try:
                    uplink.say_goodbye()
                finally:
                    self._turn.release()
            link.stream.close()
        wake_each(list(self._followers))
        for beside in self._beside:
            beside.close(reason, is_owner=is_owner)
