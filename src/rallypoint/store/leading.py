"""Of the threads that wait for answers on one connection one *leads*, and reads for all; the others *follow*.

Rules:

- Who leads also makes the next connection if this one is lost. When it has its answer, it lets another lead.
- Who follows sleeps until its own answer is there, or until nobody leads. There is no thread of our own.
- Everything under ``_turn`` is short and never waits (``store.uplink``).
- What must not be cut in two by a signal is marked *before* it begins (``is_sound``, ``_busy``), and whoever finds the
  mark of a step that was cut drops the connection.

What this file does not know: what is asked, how long a caller waits.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from time import monotonic
from typing import TypeAlias

from rallypoint.clock import Deadline
from rallypoint.errors import (
    AuthenticationError,
    ConnectionLostError,
    DistNetworkError,
    RemoteProtocolError,
    SessionLostError,
)
from rallypoint.net.retry import DEFAULT_BACKOFF, MOMENT_S
from rallypoint.net.stream import WAIT_SLICE_S, Stream
from rallypoint.protocol.session.client import Request
from rallypoint.store.ticket import Ticket, hand_out, wake_each
from rallypoint.store.uplink import Link, Uplink
from rallypoint.types import Endpoint

__all__ = ["FOLLOW_S", "Leading", "Reach"]

Reach: TypeAlias = Callable[[bytes, Deadline], Link]
"""Makes a connection, given the session's id, empty for a new one; raises ``DistNetworkError``."""

FOLLOW_S = 0.5
"""The longest uninterrupted sleep of a thread that follows, in seconds; the main thread's is ``WAIT_SLICE_S``."""

READ_S = 0.2
"""The same of a thread that leads."""


def _stay() -> None:
    """Do what is to be done where there is no lane."""


class Leading:
    """A session's connection, read by one thread for all that wait.

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
    def ends_at(self) -> float:
        """When the server may end the session, as far as is known here, on the monotonic clock; infinity: not yet."""
        return self._uplink.ends_at

    @property
    def is_read(self) -> bool:
        """Whether a thread reads the connection, or tries to make it again, right now."""
        leader = self._leader
        return leader is not None and leader.leads and leader.is_open()

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
        elif (leader := self._leader) is None or leader.leads:
            return
        if self._followers:  # also where nobody leads: who was woken to do so may be the one that goes
            for follower in list(self._followers):
                if follower.is_open():
                    follower.wake()
                    break

    # --- waiting -----------------------------------------------------------------------------------------

    def wait(self, ticket: Ticket, until: float) -> bool:
        """Wait for an answer; tell whether it is there.

        Args:
            ticket: what was begun, by whichever thread; this one waits for it alone.
            until: a time on the monotonic clock.

        Raises:
            ConnectionLostError: there will be none; see ``Trunk.ask``.
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
            if ticket.sleeps and not data and not self._is_awake(stream, ticket, until):
                return
            self._busy = ticket.thread
            if self._leader is not ticket and not data:  # it had its answer from elsewhere, and another was quicker
                self._busy, ticket.leads = None, False
                return
            # Whoever has something to hand on does not look for long.
            is_patient = not self._uplink.outbox and monotonic() + WAIT_SLICE_S < until
            data = data or stream.take(session.missing, is_patient=is_patient and not ticket.sleeps)
            if not data:
                self._busy = None
                ticket.sleeps = True
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

    def _is_awake(self, stream: Stream, ticket: Ticket, until: float) -> bool:
        """Hand on what waits in the outbox, then wait for one slice at most; tell whether to read."""
        if self._uplink.outbox:
            self._flush()
        slice_s = WAIT_SLICE_S if threading.current_thread() is threading.main_thread() else READ_S
        may_read = stream.wait(until, for_output=bool(self._uplink.outbox), slice_s=slice_s)
        if self._leader is not ticket:  # another was quicker, and has said that it is busy: that must stand
            ticket.leads = False
        return may_read and ticket.leads

    def _flush(self) -> None:
        me = threading.get_ident()  # see Trunk.begin
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
        uplink.attempt()
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
