"""The server as a machine: what happens at its connections in, what must be done to them out.

Rules:

- One door: ``step(event, now)``. All that an event causes is in the list it returns, replies owed to other peers too.
- What counts about replies is the concatenation of each peer's bytes. How they are cut into ``Reply`` effects, and
  how replies to different peers interleave, means nothing.
- Replies that a peer is owed come before its ``Close``. After its ``Close`` the engine has forgotten it: a late
  ``Disconnected`` or ``Received`` for it is ignored.
- A request is applied whole or not at all, and requests of one peer in their order.
- A refusal closes the peer that asked, and nobody else notices. (The session dialect can refuse a single request.)
- Output is bounded by pausing: a peer that caused more than ``output_size_max`` bytes in one step gets ``Pause``,
  and the rest of what it sent stays unparsed until ``Resumed``. Input is bounded by closing.
- The first byte of a connection says which dialect it speaks. Both work on the same keys.

Theory of operation::

    Received(7, bytes) -> reader of 7 -> request -> verbs: keyspace, what changed -> waiters: whom that releases
                                            ^         |                                     |
                                            |         '-> Reply(7, ...)                     '-> Reply(9, GO_ON)
                                            '-- next request, unless 7 has caused too much: Pause(7)

    first byte 0x00 --> protocol.server.RequestReader
                        --> c10d_dialect --> c10d_verbs ------------------------.
    first byte R    --> protocol.session.server.FrameReader                     |--> ground: keyspace, waiters, effects
                        --> session_dialect: HELLO, sessions --> session_verbs -'

A peer's life: ``Connected``, VALIDATE or HELLO in time, requests, ``Disconnected``; or a ``Close`` from here at any
time. A session outlives its connection (``sessions``).

What this file does not know: sockets, threads, what a step costs, where ``now`` comes from.
"""

from __future__ import annotations

from collections import deque

from rallypoint.protocol.codec import RequestError
from rallypoint.protocol.server import RequestReader
from rallypoint.protocol.session.codec import encode_closing
from rallypoint.protocol.session.server import FrameReader
from rallypoint.protocol.session.spec import OPENING
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.access import Gate
from rallypoint.server.addresses import Addresses, place_of
from rallypoint.server.c10d_dialect import C10dDialect
from rallypoint.server.changes import Change, State
from rallypoint.server.ground import Ground
from rallypoint.server.limits import DEFAULT_LIMITS, STEP_REQUESTS_MAX, Limits
from rallypoint.server.peer import REFUSALS_KEPT, Peer, Refused
from rallypoint.server.session_dialect import Talk
from rallypoint.server.session_parts import SessionParts
from rallypoint.server.status import Status
from rallypoint.server.timed import Handshakes, Timed
from rallypoint.server.unread import UnreadOutput
from rallypoint.server.vocabulary import (
    Close,
    Connected,
    Disconnected,
    Effect,
    Event,
    Pause,
    Received,
    Reply,
    Resumed,
    Secured,
    Statistics,
    Stopping,
    Ticked,
    Unread,
)

__all__ = [
    "Close",
    "CloseReason",
    "Connected",
    "Disconnected",
    "Effect",
    "Engine",
    "Event",
    "Limits",
    "Pause",
    "Received",
    "Reply",
    "Resumed",
    "Statistics",
    "Stopping",
    "Ticked",
    "Unread",
]

_OPENING_BYTE = OPENING[0]

_LAST_WORD = encode_closing(CloseReason.ENDED, "the server stops")


class Engine:
    """One server's state.

    Args:
        limits: what peers are granted.
        seed: 32 bytes of the system's randomness, fresh for each life of a server: ids of sessions and nonces come from
            it. Without one they can be guessed, which only a test may allow.
        gate: who may come in and do what; ``None`` lets in everybody.
        journal: note every change of state for ``take_changes``.
        data_id: of what the server holds, ``SESSION_ID_SIZE`` bytes: the same again after a restart that has lost
            nothing. Empty for a server that begins with nothing.

    Attributes:
        ground: keys, queues and waits. Read only, for others.
        parts: what serves sessions. Read only, for others.
        peers: the connections. Read only, for others.
        refused: the connections closed last. Read only, for others.
        status: what the server says of itself.
        unread: what peers leave unread; the driver's to fill, and to look at.
        addresses: where they come from. Read only, for others.

    Cost: linear in the bytes received and sent, and in the waiters on the names that a request changes.
    Threads: none but the caller's.
    """

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        *,
        seed: bytes = bytes(32),
        gate: Gate | None = None,
        journal: bool = False,
        data_id: bytes = b"",
    ) -> None:
        self._limits = limits
        self._output_size_max = limits.output_size_max
        self._gate = gate
        self.peers: dict[int, Peer] = {}
        self.handshakes = Handshakes(limits.handshake_timeout_s, self._expire)
        self.addresses = Addresses(limits.connections_per_address_max)
        self.unread = UnreadOutput(limits.output_total_max)
        self._input_held = 0
        self._requests = 0
        self._closed: dict[CloseReason, int] = {}
        self._gone_received = self._gone_sent = 0  # bytes of peers that are gone
        self.refused: deque[Refused] = deque(maxlen=REFUSALS_KEPT)
        self.ground = Ground(limits, journal=journal)
        self.parts = SessionParts(self.ground, self, seed=seed, gate=gate, data_id=data_id)
        self._dialect = self.parts.dialect
        self.status = Status(self)
        self._c10d = C10dDialect(self.ground, self, self.parts.forbids)
        self._timed: tuple[Timed, ...] = (self.handshakes, *self.parts.timed)

    # --- the door ----------------------------------------------------------------------------------------

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take one event.

        Args:
            event: what happened.
            now: seconds on the driver's monotonic clock, never less than at the step before.

        Returns:
            What must be done, in order; the list is the caller's.
        """
        effects: list[Effect] = []
        ground = self.ground
        ground.effects = effects
        if type(event) is Received:  # far the most frequent
            state = self.peers.get(event.peer)
            if state is not None:
                state.serve(event.peer, state, event.data, now)
            return effects
        ground.now = now
        if isinstance(event, Connected):
            self._connect(event, now)
        elif isinstance(event, Disconnected):
            self._forget(event.peer)
        elif isinstance(event, Resumed):
            self._resume(event.peer, now)
        elif isinstance(event, Unread):
            self._close_unread(event)
        elif isinstance(event, Secured):
            state = self.peers.get(event.peer)
            if state is not None:
                state.origin = state.origin._replace(is_secure=True, identity=event.identity)
        elif isinstance(event, Stopping):  # the sessions stay: who has them may find them in the server's next life
            effects += [Reply(peer, _LAST_WORD) for peer, state in self.peers.items() if state.talk is not None]
        else:
            self.status.begin(now)
            for part in self._timed:
                part.tick(now)
            self.parts.settle()
        return effects

    def next_deadline(self) -> float | None:
        """Give the time at which ``Ticked`` is due, ``None`` if no time matters now."""
        deadline = None
        for part in self._timed:
            due = part.next_deadline()
            if due is not None and (deadline is None or due < deadline):
                deadline = due
        return deadline

    def restore(self, state: State, now: float) -> None:
        """Begin with what an earlier life has left, before the first step; the journal is told nothing.

        Args:
            state: what the changes of that life add up to.
            now: the time; sessions have theirs from now on to come back.
        """
        self.ground.now = now
        self.parts.restore(state, now)

    def take_changes(self) -> list[Change]:
        """Give what has changed since the last call, in order; nothing without ``journal``."""
        return self.ground.take_changes()

    def statistics(self) -> Statistics:
        """Give the numbers. Cost: the number of peers."""
        peers = self.peers.values()
        keyspace = self.ground.keyspace
        return Statistics(
            connections=len(peers),
            validated=sum(map(Peer.is_validated, peers)),
            paused=sum(state.is_paused for state in peers),
            keys=len(keyspace),
            queues=len(keyspace.queues),
            stored_size=keyspace.stored_size,
            waiting=self.ground.waiting,
            input_held=self._input_held,
            requests=self._requests + self._c10d.requests,
            closed=dict(self._closed),
            sessions=len(self.parts.sessions),
            answers_size=self.parts.sessions.answers_size,
        )

    def traffic(self) -> tuple[int, int]:
        """Give the bytes that came and those of the answers they caused. Cost: the number of peers."""
        peers = self.peers.values()
        received = self._gone_received + sum(state.received for state in peers)
        return received, self._gone_sent + sum(state.sent for state in peers)

    # --- connections -------------------------------------------------------------------------------------

    def admit(self, peer: int) -> None:
        """Take note, for the dialects, that a peer's handshake is done."""
        self.handshakes.end(peer)

    def dismiss(self, peer: int) -> None:
        """Take note, for the session dialect, that a peer has no session any more."""
        self._await_handshake(peer)
        self.parts.settle()

    def evict(self, peer: int, sentence: str) -> None:
        """Close a peer, for the session dialect, because another has its session now."""
        self.close(peer, CloseReason.TAKEN_OVER, sentence)

    def is_paused(self, peer: int) -> bool:
        """Tell whether a peer's output is waited for: what need not be sent to it now can wait too."""
        return self.peers[peer].is_paused

    def pause(self, peer: int) -> None:
        """Wait for a peer's output to be sent, because it gets much that it has not asked for just now."""
        state = self.peers[peer]
        if not state.is_paused:
            state.is_paused = True
            self.ground.effects.append(Pause(peer))

    def _connect(self, event: Connected, now: float) -> None:
        peer = event.peer
        if peer in self.peers:
            raise AssertionError(f"peer {peer} connected twice")
        if len(self.peers) >= self._limits.connections_max:
            detail = f"{len(self.peers)} peers are connected, the limit is {self._limits.connections_max}"
            oldest = self.handshakes.oldest()
            if oldest is None:
                self.close(peer, CloseReason.TOO_MANY_CONNECTIONS, detail)
                return
            self.close(oldest, CloseReason.TOO_MANY_HANDSHAKES, f"{detail}, and its handshake is the oldest")
        self.peers[peer] = Peer(self._open, event, now)
        self._await_handshake(peer)

    def _resume(self, peer: int, now: float) -> None:
        state = self.peers.get(peer)
        if state is not None:
            state.is_paused = False
            if state.talk is not None and state.talk.session is not None:
                self.parts.verbs.resume(state.talk.session)
            state.serve(peer, state, b"", now)

    def _await_handshake(self, peer: int) -> None:
        """Give a peer the time for a handshake; if too many have it, the oldest makes room."""
        handshakes, limit = self.handshakes, self._limits.handshakes_max
        if len(handshakes) >= limit and (oldest := handshakes.oldest()) is not None:
            detail = f"{len(handshakes)} handshakes are under way, the limit is {limit}, and this one is the oldest"
            self.close(oldest, CloseReason.TOO_MANY_HANDSHAKES, detail)
        handshakes.begin(peer, self.ground.now)

    def _close_unread(self, event: Unread) -> None:
        if event.peer in self.peers:
            limit = self._limits.output_total_max
            detail = f"all peers leave {event.total} bytes unread, this one {event.held}, the limit is {limit}"
            self.close(event.peer, CloseReason.OUTPUT_TOTAL, detail)

    def _open(self, peer: int, state: Peer, data: bytes, now: float) -> None:
        """Find out from the first byte which dialect a peer speaks, and serve it."""
        self.ground.now = now
        if not data:
            return
        is_session = data[0] == _OPENING_BYTE
        if is_session:  # first, so that it is told why if it is refused
            state.reader = reader = FrameReader(self._limits.input_size_max)
            state.talk = Talk(reader)
        if self._gate is not None and (why := self._gate.refusal(state.origin, is_session=is_session)) is not None:
            self.close(peer, CloseReason.AUTHENTICATION_REQUIRED, why)
            return
        if is_session:
            state.serve = self._serve_session
        else:
            state.reader = RequestReader(self._limits.input_size_max)
            state.serve = self._c10d.serve
        place = place_of(state.origin.host)
        if (why := self.addresses.refusal(place)) is not None:
            self.close(peer, CloseReason.TOO_MANY_FROM_ADDRESS, why)
            return
        self.addresses.add(place)
        state.host = place
        state.serve(peer, state, data, now)

    def _serve_session(self, peer: int, state: Peer, data: bytes, now: float) -> None:
        """As ``C10dDialect.serve``, in the session dialect."""
        talk = state.talk
        assert talk is not None
        self.ground.now = now
        try:
            if data:
                state.received += len(data)
                talk.reader.feed(data)
            produced = requests = 0
            while not state.is_paused:
                caused = self._dialect.next(peer, talk, state.origin)
                if caused is None:
                    break
                requests += 1
                self._requests += 1
                produced += caused
                state.sent += caused
                if produced > self._output_size_max:
                    self.pause(peer)
                if not talk.reader.has_more:
                    break
                if requests == STEP_REQUESTS_MAX or self.ground.is_late(requests):
                    self.pause(peer)
        except RequestError as refusal:
            self.close(peer, refusal.reason, str(refusal))
        else:
            if state.held or talk.reader.held or state.is_paused:
                self.hold(state)

    def hold(self, state: Peer) -> None:
        """Account, for the dialects, for what a peer's reader keeps; over the total, close those that keep the most."""
        assert state.reader is not None
        held = state.reader.held + state.reader.unread
        self._input_held += held - state.held
        state.held = held
        limit = self._limits.input_total_max
        while (total := self._input_held) > limit:
            peer, largest = max(self.peers.items(), key=lambda entry: entry[1].held)
            detail = f"begun requests of all peers hold {total} bytes, this one's {largest.held}, the limit is {limit}"
            self.close(peer, CloseReason.INPUT_TOTAL, detail)

    def close(self, peer: int, reason: CloseReason, detail: str) -> None:
        """Close a peer, and forget it; say why."""
        self._closed[reason] = self._closed.get(reason, 0) + 1
        state = self.peers.get(peer)
        self.refused.append(Refused(self.ground.now, "" if state is None else state.address, reason, detail))
        if state is not None and state.talk is not None:
            self.ground.effects.append(Reply(peer, encode_closing(reason, detail)))
        self.ground.effects.append(Close(peer, reason, detail))
        self._forget(peer)

    def _forget(self, peer: int) -> None:
        state = self.peers.pop(peer, None)
        if state is None:
            return
        self._input_held -= state.held
        self._gone_received += state.received
        self._gone_sent += state.sent
        self.handshakes.end(peer)
        self.addresses.remove(state.host)
        if state.reader is not None:
            state.reader.close()
        if state.talk is not None:
            self._dialect.leave(state.talk)
        else:
            self.ground.abandon(peer)

    def _expire(self, peer: int) -> None:
        awaited = "VALIDATE" if self.peers[peer].talk is None else "HELLO"
        detail = f"{awaited} did not come within {self._limits.handshake_timeout_s:g} s"
        self.close(peer, CloseReason.HANDSHAKE_TIMEOUT, detail)
