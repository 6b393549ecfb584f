"""The loop that drives an engine: sockets, readiness, output, time. It owns no rule of the store.

Theory of operation, one wake-up::

    poll --> for each ready connection: one read, one engine step; its replies go to their peers' output
         --> ``commit``, if the store is durable: before it, nothing leaves
         --> flush every connection that got output: one system call each in the common case
         --> those that cost much, or went on from a pause: a slice of their line (``turns``), then flush again
         --> accept newcomers
         --> what time made due: handshake deadlines, lingering ends, the end of a drain

Nothing here waits for one peer. A peer that does not read its replies is not read either
(``connection.OUTPUT_HIGH_SIZE``); one that floods gets one read a wake-up at most. A refused peer gets the
replies that it is still owed, then the end of the stream, and is closed when it has seen that, at the latest after
``LINGER_S``.

``stop`` drains: listeners close at once, requests that are there are served, and replies are sent, until nothing
is left to do or the time for it is over. Then the engine has the last word, to those that take it at once.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rallypoint.clock import SYSTEM_CLOCK, Clock
from rallypoint.events import emit, is_observed
from rallypoint.server.acceptor import Acceptor
from rallypoint.server.connection import Connection
from rallypoint.server.door import Door
from rallypoint.server.limits import DRAIN_S, LINGER_S, OUTPUT_LOOK_S
from rallypoint.server.poller import READ, WRITE, make_poller
from rallypoint.server.refusals import RefusalLog, log_line
from rallypoint.server.turns import HEAVY_S, SLICE_S, Turns
from rallypoint.server.unread import UnreadOutput
from rallypoint.server.vocabulary import (
    Close,
    CloseReason,
    Connected,
    Disconnected,
    Effect,
    EndReason,
    Hold,
    Machine,
    Pause,
    Received,
    Reply,
    Resumed,
    Secured,
    Stopping,
    Ticked,
    Unread,
)

if TYPE_CHECKING:
    from rallypoint.net.tls import ServerTls
    from rallypoint.server.secured import SecuredConnection

__all__ = ["ServerLoop"]

READ_SIZE = 64 * 1024
"""Bytes read from one connection at one wake-up."""

EVENTS_MAX = 128
"""Connections served before replies go out."""


class ServerLoop:
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
        door: where other threads put in what this one is to do.
        machine: what it drives.
        ends: how many connections ended that the engine did not close, for each reason. Read only, for others.

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
        self._engine = self.machine = engine
        self._step = engine.step
        self._commit = commit
        self._clock = clock
        self._spin_s = spin_us / 1e6
        self._tls = tls
        self._handshakes: set[SecuredConnection] = set()
        self._refusals = RefusalLog(log, clock.now())
        self._poller = make_poller()
        self._connections: dict[int, Connection] = {}
        self._watched: dict[int, Callable[[], None]] = {}
        self._dirty: list[Connection] = []
        self._unread = unread
        self._look_at = 0.0
        self._is_look_due = False  # much may have been left unread since the last one
        self._turns = Turns(clock)
        self._lingering: deque[tuple[float, Connection]] = deque()
        self._periodic: tuple[float, Callable[[], None]] | None = None
        self._periodic_at = math.inf
        self._is_accepting = False
        self._drain_s: float | None = None
        self._due_at = 0.0
        self._acceptor = Acceptor(listeners, self._note)
        self.ends = dict.fromkeys(EndReason, 0)
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
        connection.slow_steps = connection.slow_steps + 1 if after - since > HEAVY_S else 0
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

    def apply(self, effects: list[Effect]) -> None:
        """Do what the engine wants, in the loop's thread; what it sends leaves with this wake-up."""
        connections = self._connections
        for effect in effects:
            connection = connections.get(effect.peer)
            if connection is None:
                continue  # lost in this very wake-up
            if type(effect) is Reply:
                if connection.is_blocked:
                    connection.add_behind(effect.data)
                    self._watch_connection(connection)
                    continue
                if not connection.output:
                    self._dirty.append(connection)
                connection.output.append(effect.data)
            elif type(effect) is Pause:
                connection.is_paused = True
                self._dirty.append(connection)
                self._watch_connection(connection)
            elif type(effect) is Close:
                self._refuse(connection, effect)
            else:
                connection.is_held = type(effect) is Hold
                self._watch_connection(connection)

    def _flush_dirty(self, now: float) -> None:
        commit = self._commit
        if commit is not None:
            commit()  # also what nobody is told of
        while self._dirty:  # the loss of one may release others
            dirty = self._dirty
            self._dirty = []
            for connection in dirty:
                if self._connections.get(connection.fd) is connection:  # a newcomer may have a lost one's number
                    if commit is not None:
                        commit()  # what the loss of the one before it has caused
                    self._flush(connection, now)

    def _flush(self, connection: Connection, now: float) -> None:
        was_blocked = connection.is_blocked
        try:
            is_sent = connection.flush()
        except OSError:
            self._lose(connection, now)
            return
        if is_sent and connection.is_paused:
            self._turns.add(connection)
        if is_sent and connection.is_closing:
            self._announce_end(connection)
        if was_blocked or not is_sent:
            self._watch_connection(connection)
            if self._unread is not None:
                self._unread.note(connection)

    def _bound_output(self, unread: UnreadOutput, now: float) -> None:
        """Close those that leave the most unread, until it is not too much; look again at a tenth of the time."""
        begun = self._clock.now()
        while (excess := unread.excess()) is not None:
            connection = self._connections[excess.fd]
            unread.discard(connection)
            if not connection.is_closing:
                self.apply(self._step(Unread(*excess), now))
            connection.drop_output()
            self._dirty.append(connection)
            self._flush_dirty(now)
        self._is_look_due = False
        after = self._clock.now()
        self._look_at = after + max(OUTPUT_LOOK_S, 9 * (after - begun))

    def _watch_connection(self, connection: Connection) -> None:
        """Watch a connection for what it is ready for by its state."""
        mask = connection.wanted_mask()
        if mask != connection.mask:
            connection.mask = mask
            self._poller.modify(connection.fd, mask)

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

    def _welcome(self, sock: socket.socket, now: float) -> None:
        connection = self._connection(sock)
        try:
            self._poller.register(connection.fd, READ)
        except OSError as error:  # the system's bound on watched descriptors
            self._note(f"refused {connection.peer_name()}: it cannot be watched ({error})")
            sock.close()
            return
        connection.mask = READ
        self._connections[connection.fd] = connection
        origin = connection.origin()
        self.apply(self._step(Connected(connection.fd, connection.peer_name(), origin), now))

    def _connection(self, sock: socket.socket) -> Connection:
        tls = self._tls
        if tls is None or sock.family == socket.AF_UNIX:
            return Connection(sock)
        from rallypoint.server.secured import SecuredConnection  # loads the system's TLS

        return SecuredConnection(sock, lambda: tls.channel(self._clock.now()), self, self._handshakes)

    # What a secured connection tells.

    def secured(self, connection: Connection, identity: bytes) -> None:
        """Let the engine know that a connection is encrypted now, and by whose certificate."""
        self.apply(self._step(Secured(connection.fd, identity), self._clock.now()))

    def not_secured(self, connection: Connection, why: str) -> None:
        """Close a connection whose TLS has failed; the log says why."""
        if not connection.is_closing:
            self.apply(self._step(Disconnected(connection.fd), self._clock.now()))
            self._refuse(connection, Close(connection.fd, CloseReason.AUTHENTICATION_FAILED, f"TLS: {why}"))

    def has_output(self, connection: Connection) -> None:
        """Flush a connection that has something of its own to send."""
        self._dirty.append(connection)

    def _resume_accepting(self) -> None:
        self._is_accepting = True
        for fd in self._acceptor.fds:
            self._poller.register(fd, READ)

    def _stop_accepting(self) -> None:
        if self._is_accepting:
            self._is_accepting = False
            for fd in self._acceptor.fds:
                self._poller.unregister(fd)

    def _note(self, message: str) -> None:
        self._refusals.note(message, self._clock.now())

    # --- ends of connections -----------------------------------------------------------------------------

    def _refuse(self, connection: Connection, close: Close) -> None:
        """Close a peer on the engine's word; the log says why."""
        message = f"closed {connection.peer_name()}: {close.detail}"
        self._note(message)
        emit("server.refused", message, reason=close.reason.name)
        self._begin_closing(connection)

    def _end_of_input(self, connection: Connection, now: float) -> None:
        """The peer sends no more; what it is owed still goes out."""
        if connection.is_closing:
            self._close(connection)
            return
        self._count_end(connection, EndReason.PEER_CLOSED)
        self.apply(self._step(Disconnected(connection.fd), now))
        if connection.output:
            self._begin_closing(connection)
        else:
            self._close(connection)

    def _begin_closing(self, connection: Connection) -> None:
        connection.is_closing = True
        self._lingering.append((self._clock.now() + LINGER_S, connection))
        self._dirty.append(connection)
        self._watch_connection(connection)

    def _announce_end(self, connection: Connection) -> None:
        """Close our side only: closing both at once would take back replies that the peer has not read yet."""
        if not connection.is_lingering:
            connection.is_lingering = True
            connection.announce_end()
            self._watch_connection(connection)

    def _lose(self, connection: Connection, now: float) -> None:
        """The connection broke."""
        if not connection.is_closing:
            self._count_end(connection, EndReason.CONNECTION_LOST)
        self._close(connection)
        if not connection.is_closing:
            self.apply(self._step(Disconnected(connection.fd), now))

    def _count_end(self, connection: Connection, reason: EndReason) -> None:
        self.ends[reason] += 1
        if is_observed():
            message = f"{connection.peer_name()} is gone: {reason.value.replace('_', ' ')}"
            emit("server.disconnected", message, reason=reason.name)

    def _close(self, connection: Connection) -> None:
        if self._connections.get(connection.fd) is connection:
            del self._connections[connection.fd]
            self._turns.discard(connection)
            if self._unread is not None:
                self._unread.discard(connection)
            self._poller.unregister(connection.fd)
            connection.close()

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
