"""The connections of one loop: what a machine wants for them is done here, and what becomes of them is told to it.

Theory of operation::

    effects --> apply --> output of each connection, those that have some are *dirty*
                            '--> commit --> flush --> sent; or blocked, and then watched until there is room
    a peer is gone, or refused, or has said its last --> the machine is told --> effects

Nothing here waits for one peer. A peer that does not read its replies is not read either
(``connection.OUTPUT_HIGH_SIZE``). A refused peer gets the replies that it is still owed, then the end of the stream,
and is closed when it has seen that, at the latest after ``LINGER_S``.

What this file does not know: when what is to be done, and who comes.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from rallypoint.clock import Clock
from rallypoint.events import emit, is_observed
from rallypoint.server.connection import Connection
from rallypoint.server.limits import LINGER_S, OUTPUT_LOOK_S
from rallypoint.server.poller import READ, Poller
from rallypoint.server.refusals import RefusalLog
from rallypoint.server.turns import Turns
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
    Reply,
    Secured,
    Unread,
)

if TYPE_CHECKING:
    from rallypoint.net.tls import ServerTls
    from rallypoint.server.secured import SecuredConnection

__all__ = ["Connections"]


class Connections:
    """The connections that one thread serves.

    Args:
        engine: the machine behind them.
        poller: watches them.
        clock: the time that the engine is told.
        log: takes one line, without its end, for each refusal (within the bounds of ``refusals``).
        tls: certificates for TCP peers that want to speak TLS; ``None`` if none can.
        unread: where it says what peers leave unread, and which of that is too much; ``None`` bounds it for each peer
            only.
        commit: called before anything is sent.

    Attributes:
        machine: the machine behind them.
        ends: how many connections ended that the engine did not close, for each reason. Read only, for others.

    Threads: one.
    """

    def __init__(
        self,
        engine: Machine,
        poller: Poller,
        clock: Clock,
        *,
        log: Callable[[str], None],
        tls: ServerTls | None,
        unread: UnreadOutput | None,
        commit: Callable[[], None] | None,
    ) -> None:
        self._engine = self.machine = engine
        self._step = engine.step
        self._poller = poller
        self._clock = clock
        self._refusals = RefusalLog(log, clock.now())
        self._tls = tls
        self._handshakes: set[SecuredConnection] = set()
        self._unread = unread
        self._look_at = 0.0
        self._is_look_due = False  # much may have been left unread since the last one
        self._commit = commit
        self._connections: dict[int, Connection] = {}
        self._dirty: list[Connection] = []
        self._turns = Turns(clock)
        self._lingering: deque[tuple[float, Connection]] = deque()
        self.ends = dict.fromkeys(EndReason, 0)

    # --- output ------------------------------------------------------------------------------------------

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
        for excess in unread.excesses():
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

    # --- newcomers ---------------------------------------------------------------------------------------

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
