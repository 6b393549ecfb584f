"""The loop that drives an engine: sockets, readiness, output, time. It owns no rule of the store.

Theory of operation, one wake-up::

    poll --> for each ready connection: one read, one engine step; its replies go to their peers' output
         --> ``commit``, if the store is durable: before it, nothing leaves
         --> flush every connection that got output: one system call each in the common case
         --> those that cost much, or went on from a pause: a slice of their line (``turns``), then flush again
         --> accept newcomers
         --> what time made due: handshake deadlines, lingering ends, the end of a drain

What becomes of one connection is ``connections``'s; what is done when is decided here. Nothing here waits for one peer,
and one that floods gets one read a wake-up at most.

``stop`` drains: listeners close at once, requests that are there are served, and replies are sent, until nothing
is left to do or the time for it is over. Then the engine has the last word, to those that take it at once.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rallypoint.clock import SYSTEM_CLOCK, Clock
from rallypoint.server.acceptor import Acceptor
from rallypoint.server.connection import Connection
from rallypoint.server.connections import Connections
from rallypoint.server.door import Door
from rallypoint.server.limits import DRAIN_S, LINGER_S
from rallypoint.server.poller import READ, WRITE, make_poller
from rallypoint.server.refusals import log_line
from rallypoint.server.turns import HEAVY_S, HEAVY_TIMES, SLICE_S
from rallypoint.server.unread import UnreadOutput
from rallypoint.server.vocabulary import EndReason, Machine, Received, Resumed, Stopping, Ticked

if TYPE_CHECKING:
    from rallypoint.net.tls import ServerTls

__all__ = ["DRAIN_S", "EVENTS_MAX", "LINGER_S", "READ_SIZE", "ServerLoop"]

READ_SIZE = 64 * 1024
"""Bytes read from one connection at one wake-up."""

EVENTS_MAX = 128
"""Connections served before replies go out."""


class ServerLoop(Connections):
    """One server, run by one thread.

    Args:
        engine: the machine behind the sockets.
        listeners: bound and listening sockets; the loop owns them and closes them.
        clock: the time that the engine is told.
        spin_us: after each event, look for the next one for so long before sleeping, in microseconds.
        log: takes one line, without its end, for each refusal (within the bounds of ``refusals``).
        tls: certificates for TCP peers that want to speak TLS; ``None`` if none can.
        unread: where it says what peers leave unread, and which of that is too much; ``None`` bounds it for each peer
            only.
        commit: called after each wake-up's steps and before anything that they have caused is sent. What it raises ends
            the loop, and nothing is sent any more.

    Attributes:
        door: where other threads put in what this one is to do; the others are those of ``Connections``.

    Threads: ``stop`` may be called from any thread and from a signal handler; everything else belongs to the thread
    in ``run``.
    """

    def __init__(
        self,
        engine: Machine,
        listeners: Sequence[socket.socket],
        clock: Clock = SYSTEM_CLOCK,
        *,
        spin_us: int = 0,
        log: Callable[[str], None] = log_line,
        tls: ServerTls | None = None,
        unread: UnreadOutput | None = None,
        commit: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(engine, make_poller(), clock, log=log, tls=tls, unread=unread, commit=commit)
        self._spin_s = spin_us / 1e6
        self._watched: dict[int, Callable[[], None]] = {}
        self._periodic: tuple[float, Callable[[], None]] | None = None
        self._periodic_at = math.inf
        self._is_accepting = False
        self._drain_s: float | None = None
        self._due_at = 0.0
        self._acceptor = Acceptor(listeners, self._note)
        self.door = Door()
        self.watch(self.door.fileno(), self.door.serve)

    # --- for the owner -----------------------------------------------------------------------------------

    def watch(self, fd: int, callback: Callable[[], None], mask: int = READ) -> None:
        """Call back, in the loop's thread, whenever a foreign descriptor is ready for what the mask says.

        Before ``run`` or in the loop's thread; watching it again changes both.
        """
        (self._poller.modify if fd in self._watched else self._poller.register)(fd, mask)
        self._watched[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Watch a foreign descriptor no more, before it is closed; one that is not watched is fine."""
        if self._watched.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def every(self, period_s: float, callback: Callable[[], None]) -> None:
        """Call back, in the loop's thread, about every ``period_s`` seconds; one callback a loop, before ``run``."""
        self._periodic = (period_s, callback)
        self._periodic_at = self._clock.now() + period_s

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """End the loop, after draining for ``drain_s`` seconds at most; a second call may shorten that, 0 ends it.

        Threads: any; also from a signal handler.
        """
        self._drain_s = drain_s
        self.door.wake()

    def run(self) -> None:
        """Serve until ``stop``; all sockets are closed at the end, however it comes."""
        try:
            self._resume_accepting()
            self.apply(self._step(Ticked(), self._clock.now()))  # the machine learns when it began
            while self._drain_s is None:
                self._wake_up(self._timeout_s())
            self._drain()
            self._say_last_words()
        finally:
            self._close_all()

    def abandon(self) -> None:
        """Close this process's copies of all descriptors: for a forked child, in which the loop does not run."""
        self._acceptor.abandon()
        for connection in self._connections.values():
            connection.sock.close()
        self._connections = {}
        self._close_own()

    # --- one wake-up -------------------------------------------------------------------------------------

    def _wake_up(self, timeout_s: float) -> int:
        """Serve what is ready, waiting ``timeout_s`` for it; give the number of events."""
        events = self._poll(timeout_s)
        now = before = self._clock.now()
        connections = self._connections
        others: list[int] = []
        for fd, ready in events:
            connection = connections.get(fd)
            if connection is None:
                others.append(fd)
                continue
            if ready & WRITE:
                self._dirty.append(connection)
            if ready & ~WRITE:
                if connection.mask & READ and (connection.slow_steps > 1 or before - now > SLICE_S):
                    self._turns.add(connection)
                    continue
                self._read(connection, now)
                before = self._account(connection, before)
        if self._turns:
            self._flush_dirty(now)
            self._serve_turns(now)
        # Descriptors closed above are not given to newcomers before every event of this wake-up has been seen.
        for fd in others:
            self._serve_other(fd, now)
        if now >= self._due_at:
            self._pass_time(now)
        self._flush_dirty(now)
        self._is_look_due = bool(self._unread)
        if self._unread and now >= self._look_at:
            self._bound_output(self._unread, now)
        return len(events)

    def _poll(self, timeout_s: float) -> list[tuple[int, int]]:
        """Wait for events; with spin, look for them for a while before sleeping."""
        if self._spin_s and timeout_s:
            until = self._clock.now() + self._spin_s
            while self._clock.now() < until:
                if events := self._poller.poll(0.0, EVENTS_MAX):
                    return events
        return self._poller.poll(timeout_s, EVENTS_MAX)

    def _serve_turns(self, now: float) -> None:
        """Serve a slice of those that wait for their turn."""
        for connection in self._turns.take():
            before = self._clock.now()
            if connection.is_paused:
                connection.is_paused = False
                self.apply(self._step(Resumed(connection.fd), now))
                self._watch_connection(connection)
            elif connection.mask & READ:
                self._read(connection, now)
            self._account(connection, before)
            self._flush_dirty(now)  # it belongs to the turn: much output is much work

    def _account(self, connection: Connection, since: float) -> float:
        """Take note of how long a connection's step took; give the time."""
        after = self._clock.now()
        if after - since > HEAVY_S:
            connection.slow_steps += 1
            connection.slow_until = max(connection.slow_until, after + HEAVY_TIMES * (after - since))
        elif after >= connection.slow_until:
            connection.slow_steps = 0
        return after

    def _read(self, connection: Connection, now: float) -> None:
        if not connection.mask & READ:
            self._lose(connection, now)  # not read on purpose, so what is reported is the loss of the connection
            return
        try:
            data = connection.receive(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            self._lose(connection, now)
            return
        if data and not connection.is_closing:
            self.apply(self._step(Received(connection.fd, data), now))
        elif not data:
            self._end_of_input(connection, now)

    # --- newcomers and other descriptors -----------------------------------------------------------------

    def _serve_other(self, fd: int, now: float) -> None:
        callback = self._watched.get(fd)
        if callback is not None:
            callback()
        elif self._is_accepting and fd in self._acceptor.fds:
            for sock in self._acceptor.accept(fd, now):
                self._welcome(sock, now)
            if self._acceptor.paused_until > now:
                self._stop_accepting()

    def _resume_accepting(self) -> None:
        self._is_accepting = True
        for fd in self._acceptor.fds:
            self._poller.register(fd, READ)

    def _stop_accepting(self) -> None:
        if self._is_accepting:
            self._is_accepting = False
            for fd in self._acceptor.fds:
                self._poller.unregister(fd)

    # --- time --------------------------------------------------------------------------------------------

    def _timeout_s(self) -> float:
        """Give how long the next poll may wait, -1 for ever."""
        if self._turns:
            self._due_at = 0.0
            return 0.0
        due_at = self._engine.next_deadline()
        if due_at is None:
            due_at = math.inf
        if self._lingering:
            due_at = min(due_at, self._lingering[0][0])
        if self._drain_s is None and not self._is_accepting:
            due_at = min(due_at, self._acceptor.paused_until)
        if self._is_look_due:
            due_at = min(due_at, self._look_at)
        due_at = min(due_at, self._periodic_at)
        self._due_at = due_at
        return -1.0 if due_at == math.inf else max(0.0, due_at - self._clock.now())

    def _pass_time(self, now: float) -> None:
        deadline = self._engine.next_deadline()
        if deadline is not None and deadline <= now:
            self.apply(self._step(Ticked(), now))
        while self._lingering and self._lingering[0][0] <= now:
            connection = self._lingering.popleft()[1]
            if self._connections.get(connection.fd) is connection:
                self._close(connection)
        if self._drain_s is None and not self._is_accepting and self._acceptor.paused_until <= now:
            self._resume_accepting()
        if self._periodic is not None and self._periodic_at <= now:
            period_s, callback = self._periodic
            self._periodic_at = now + period_s
            callback()

    # --- the end -----------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Serve what is there and send what is owed, until nothing is left or the time is over."""
        self._stop_accepting()
        self._acceptor.close()
        for fd in set(self._watched) - {self.door.fileno()}:
            self.unwatch(fd)  # what asked for the end may go on asking
        started = self._clock.now()
        while True:
            left_s = started + (self._drain_s or 0.0) - self._clock.now()
            if left_s <= 0:
                return
            has_output = any(connection.output for connection in self._connections.values())
            is_busy = has_output or bool(self._turns)
            timeout_s = left_s if has_output and not self._turns else 0.0
            self._due_at = 0.0
            if not self._wake_up(timeout_s) and not is_busy:
                return

    def _say_last_words(self) -> None:
        """Let peers know that this is the end; nothing is served any more, so nothing follows it."""
        self.apply(self._step(Stopping(), self._clock.now()))
        if self._commit is not None:
            self._commit()
        for connection in self._connections.values():
            if connection.output:
                with contextlib.suppress(OSError):  # gone by itself
                    connection.flush()

    def _close_all(self) -> None:
        self._acceptor.close()
        for connection in list(self._connections.values()):
            if not connection.is_closing:
                self._count_end(connection, EndReason.SERVER_STOPPED)
            self._close(connection)
        self._close_own()

    def _close_own(self) -> None:
        self._poller.close()
        self.door.close()
