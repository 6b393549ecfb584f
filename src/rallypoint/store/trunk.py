"""One session's connection, shared by all threads of a store, and made anew when it is lost.

Rules:

- Everything under ``_turn`` is short and never waits (``store.uplink``): giving an id, handing a frame to the system.
  What the system does not take is handed on by whoever waits next; so nobody sends without also reading.
- Of the threads that wait for answers one *leads*: it reads for all, and makes the next connection if this one is lost.
  The others *follow*: each sleeps until its own answer is there, or until nobody leads. There is no thread of our own.
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

import random
import threading
import time
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, NoReturn, TypeAlias

from rallypoint.clock import Deadline
from rallypoint.errors import (
    AuthenticationError,
    ConnectionLostError,
    DistNetworkError,
    RemoteProtocolError,
    SessionLostError,
)
from rallypoint.net.retry import DEFAULT_BACKOFF, MOMENT_S
from rallypoint.net.stream import WAIT_SLICE_S, silent
from rallypoint.protocol.session.client import Request, Session
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.store import connections
from rallypoint.store.ticket import Begun, Hear, Ticket, hand_out, wake_each
from rallypoint.store.uplink import Link, Uplink
from rallypoint.types import Endpoint

__all__ = ["FOLLOW_S", "Reach", "Trunk"]

Reach: TypeAlias = Callable[[bytes, Deadline], Link]
"""Makes a connection, given the session's id, empty for a new one; raises ``DistNetworkError``."""

POSTS_MAX = 64
"""So many requests are sent without waiting before one is waited for: answers that nobody reads fill the connection."""

FOLLOW_S = 0.5
"""The longest uninterrupted sleep of a thread that follows, in seconds; the main thread's is ``WAIT_SLICE_S``."""


def _stay() -> None:
    """Do what is to be done where there is no lane."""


class Trunk:
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
        self._reach = reach
        self._uplink = Uplink(endpoint, link)
        self._session = self._uplink.session
        self._turn = threading.Lock()
        self._holder: int | None = None  # the thread that holds it
        self._busy: int | None = None  # the leading thread, while bytes or a connection are in its hands alone
        self._leader: Ticket | None = None
        self._followers: dict[Ticket, None] = {}
        self._beside: list[Trunk] = []
        self._posted = 0
        self.land: Callable[[], None] = _stay

    @property
    def endpoint(self) -> Endpoint:
        """The server, for errors."""
        return self._uplink.endpoint

    @property
    def link(self) -> Link | None:
        """The connection, if there is one."""
        return self._uplink.link

    @property
    def granted_s(self) -> float:
        """How long the session outlives its connection, in seconds."""
        return self._uplink.granted_s

    @property
    def is_read(self) -> bool:
        """Whether a thread reads the connection, or tries to make it again, right now."""
        leader = self._leader
        return leader is not None and leader.leads and leader.is_open()

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

    # --- who leads ---------------------------------------------------------------------------------------

    def _look_after(self) -> None:
        """Find out what is left of the connection, under ``_turn``."""
        self.land()
        if self._busy is not None:
            leader, link = self._leader, self._uplink.link
            if leader is None or not leader.leads:  # it was interrupted, and could not even say so
                self._busy = None
                if link is not None:
                    link.is_sound = False
        self._uplink.check()

    def _take_lead(self, ticket: Ticket) -> bool:
        """Let a ticket lead if nobody does, or if its own thread does, further out; tell whether it leads."""
        leader = self._leader
        while leader is not None and leader.leads and not leader.is_open() and self._busy != leader.thread:
            # Whoever has its answer and nothing in hand reads no more, even if it was interrupted before it said so;
            # whom it has interrupted does.
            leader = leader.former
        if leader is None or not leader.leads:
            self._leader = ticket
            ticket.leads = True
        elif leader is not ticket and leader.thread == ticket.thread:
            ticket.former = leader
            self._leader = ticket
            ticket.leads = True
        return ticket.leads

    def leave(self, ticket: Ticket) -> None:
        """End a ticket's part in reading; let another lead."""
        if ticket.leads:
            if ticket.former is not None:
                self._leader = ticket.former
            ticket.leads = False
            if self._followers:
                for follower in list(self._followers):
                    if follower.status is None:
                        follower.wake()
                        break

    # --- waiting -----------------------------------------------------------------------------------------

    def wait(self, ticket: Ticket, until: float) -> bool:
        """Wait for an answer; tell whether it is there.

        Args:
            ticket: what was begun, by whichever thread; this one waits for it alone.
            until: a time on the monotonic clock.

        Raises:
            ConnectionLostError: there will be none; see ``ask``.
        """
        uplink = self._uplink
        while ticket.status is None:
            if uplink.end is not None:
                raise uplink.ended()
            if ticket.failure is not None:
                raise SessionLostError(ticket.failure, endpoint=uplink.endpoint)
            if not ticket.leads:
                self._follow(ticket, until)
            elif (link := uplink.link) is not None:
                self._read(link, ticket, until)
            else:
                self._reconnect(ticket, until)
            if ticket.status is None and monotonic() >= until:
                return False
        return True

    def _read(self, link: Link, ticket: Ticket, until: float, data: bytes = b"") -> None:
        """Read once for everybody, unless there is ``data`` of this link already."""
        stream, session = link.stream, self._session
        try:
            self._busy = ticket.thread
            if self._leader is not ticket and not data:  # it had its answer from elsewhere, and another was quicker
                self._busy, ticket.leads = None, False
                return
            # Whoever has something to hand on does not look for long.
            is_patient = not self._uplink.outbox and monotonic() + WAIT_SLICE_S < until
            data = data or stream.take(session.missing, is_patient=is_patient)
            if not data:
                self._busy = None
                if self._uplink.outbox:
                    self._flush()
                stream.wait(until, for_output=bool(self._uplink.outbox))
                return
            with self._turn:
                if link is not self._uplink.link:  # lost meanwhile: all this comes again over the next
                    self._busy = None
                    return
                answered = session.receive(data)
            if len(answered) > 1 or answered != [ticket]:
                wake_each(answered, but=ticket)
            if session.events:
                events, session.events = session.events, []
                hand_out(events)
            self._busy = None
            if session.closing is not None:
                raise ConnectionLostError(session.closing.sentence, endpoint=self.endpoint)
        except DistNetworkError as error:
            self._busy = None
            with self._turn:
                self._holder = ticket.thread
                try:
                    self._uplink.lose(link, error)
                finally:
                    self._holder = None
            if self._uplink.end is not None:
                wake_each(list(self._followers))
            if isinstance(error, RemoteProtocolError):
                raise

    def _flush(self) -> None:
        me = threading.get_ident()  # see begin
        with self._turn:
            self._holder = me
            try:
                self._uplink.flush()
            finally:
                self._holder = None

    def _follow(self, ticket: Ticket, until: float) -> None:
        """Sleep until the answer is there, or somebody must lead, or the outbox can be handed on."""
        ticket.waker = waker = threading.Lock()
        waker.acquire()
        self._followers[ticket] = None
        try:
            with self._turn:
                self._holder = ticket.thread
                try:
                    self._look_after()
                    if self._take_lead(ticket):
                        return
                finally:
                    self._holder = None
            if not ticket.is_open() or self._uplink.end is not None:
                return
            slice_s = WAIT_SLICE_S if threading.current_thread() is threading.main_thread() else FOLLOW_S
            left_s = min(slice_s, until - monotonic())
            if left_s > 0:
                if self._uplink.outbox:
                    self._uplink.wait_for_room(left_s)
                    self._flush()
                else:
                    waker.acquire(timeout=left_s)
        finally:
            self._followers.pop(ticket, None)

    # --- another connection ------------------------------------------------------------------------------

    def _reconnect(self, ticket: Ticket, until: float) -> None:
        """Try once to connect, after a pause if that failed before."""
        uplink = self._uplink
        if uplink.attempts:
            pause_s = DEFAULT_BACKOFF.pause_s(uplink.attempts, random.random())  # noqa: S311 - spreads, hides nothing
            # Never more than half of what is left: a server that is back shortly before the caller's time is up is met.
            now = monotonic()
            latest = now + max((until - now) / 2, DEFAULT_BACKOFF.first_s)
            if not self._pause(min(until, latest, uplink.tried_at + pause_s)):
                return
        self._busy = ticket.thread
        failed: list[Request] = []
        try:
            link = self._reach(self._session.id, Deadline(max(MOMENT_S, until - monotonic())))
            with self._turn:
                failed = uplink.adopt(link)
        except AuthenticationError as error:
            uplink.end = (AuthenticationError, str(error))
        except DistNetworkError as error:
            uplink.miss(error)
        self._busy = None
        wake_each(failed)
        if uplink.end is not None:
            wake_each(list(self._followers))

    def _pause(self, until: float) -> bool:
        """Do nothing for some time; tell whether there is any use in going on."""
        while (left_s := until - monotonic()) > 0:
            if self._uplink.end is not None:
                return False
            time.sleep(min(left_s, WAIT_SLICE_S))
        return True

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
