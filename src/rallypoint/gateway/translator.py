"""The relay as a machine: c10d requests of many local peers in, requests of one session upstream out, and back.

Rules:

- One door: ``step(event, now)``. All that an event causes is in the list that it returns.
- To each local peer the bytes are those of a c10d server: replies in the order of the requests, save those of WAIT and
  BARRIER, which come when they come, but never before the replies to requests that were sent earlier.
- A peer of the session dialect is closed without a word, upon which our clients come again in c10d.
- Requests of one peer go upstream in their order. A refused one closes its peer, after the replies to earlier requests.
- Each wait of each peer is a wait upstream. Equal ones are not merged: a queue's item releases one waiter, and what is
  a queue the relay does not know.
- What is on its way upstream is bounded, for each peer and in total. A peer over the bound is held, not closed.
- What a peer is owed is bounded, too: by ``output_size_max`` and one reply. How long a value is shows only when it is
  there; so of one peer's requests whose reply may be of any size one is on its way, and none while the peer is paused.
- A peer that goes away leaves no wait behind. What it has sent is served to the end.
- While there is no server the peers wait; after ``patience_s`` they are closed, and newcomers at once, until there is
  a server again.
- A server with other data than before closes all peers: what they rely on is gone.

Theory of operation. Each request gets a *slot* in its peer's line and one or more *calls* upstream (``slots``).
Answers fill slots, and the filled ones leave from the front. A WAIT's that is not filled does not keep those behind::

    peer 7:  [GET a: filled] [WAIT b: -] [ADD n: filled] [ADD c: -] [SET d: filled]
    leave:    ^^^^^^^^^^^^^               ^^^^^^^^^^^^^

A peer's requests behind one whose reply may be of any size wait until it is filled; of these a MULTI_GET that misses
keys needs a second one. What takes the place of a wait begins when that is answered: a lost CANCEL is said again last.

What this file does not know: sockets, threads, sessions, how a lost connection is made again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import count
from typing import Any, Final

from rallypoint.gateway.slots import Call, Slot, make_slot, reason_of
from rallypoint.gateway.spaces import KeySpace
from rallypoint.gateway.vocabulary import (
    DEFAULT_RELAY_LIMITS,
    Answered,
    Ask,
    Failed,
    RelayEffect,
    RelayEvent,
    RelayLimits,
    RelayStatistics,
    UpstreamGone,
    UpstreamThere,
    Withdraw,
)
from rallypoint.protocol.codec import RequestError
from rallypoint.protocol.server import RequestReader
from rallypoint.protocol.session.spec import OPENING, Status
from rallypoint.protocol.spec import CloseReason, Verb
from rallypoint.server.limits import DEFAULT_LIMITS, Limits
from rallypoint.server.vocabulary import Close, Connected, Disconnected, Hold, Pause, Received, Release, Reply, Resumed

__all__ = ["Translator"]

_SESSION_WANTED: Final = "it speaks the session dialect; here c10d is spoken, in which it may come again"


class _Peer:
    def __init__(self, number: int, reader: RequestReader) -> None:
        self.number = number
        self.reader = reader
        self.slots: deque[Slot] = deque()
        self.size = 0  # bytes of the requests in slots
        self.held = 0  # bytes in the reader
        self.caused = 0  # bytes of replies since it was last resumed
        self.wait: int | None = None  # the call of its WAIT or BARRIER
        self.postponed: tuple[int, Slot] | None = None  # the call that was withdrawn, and what takes its place
        self.is_held = False
        self.is_paused = False
        self.is_stalled = False  # the last slot is to be filled, or begun, before the next request
        self.is_refused = False  # nothing more of it is taken
        self.is_session = False  # it opens with the other dialect
        self.is_gone = False


class Translator:
    """One relay's state.

    Args:
        limits: what local peers are granted, as far as it concerns them: connections, handshakes, input, output.
        relay_limits: bounds of its own.
        space: where upstream the local peers' keys are; ``None`` for just as they name them.

    Threads: none but the caller's.
    """

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        relay_limits: RelayLimits = DEFAULT_RELAY_LIMITS,
        space: KeySpace | None = None,
    ) -> None:
        self._space = space
        self._limits = limits
        self._relay_limits = relay_limits
        self._peers: dict[int, _Peer] = {}
        self._blocked: dict[_Peer, None] = {}  # peers that have sent more than is taken now
        self._handshakes: OrderedDict[int, float] = OrderedDict()
        self._calls: dict[int, tuple[_Peer, Slot, int]] = {}
        self._numbers = count(1)
        self._size = 0
        self._input_held = 0
        self._requests = 0
        self._closed: dict[CloseReason, int] = {}
        self._gone_since: float | None = None
        self._gone_why = ""
        self._is_given_up = False
        self._effects: list[RelayEffect] = []

    # --- the door ----------------------------------------------------------------------------------------

    def step(self, event: RelayEvent, now: float) -> list[RelayEffect]:
        """Take one event.

        Args:
            event: what happened at a local peer or upstream.
            now: seconds on the driver's monotonic clock, never less than at the step before.

        Returns:
            What must be done, in order; the list is the caller's.
        """
        effects: list[RelayEffect] = []
        self._effects = effects
        match event:
            case Received(number, data):
                self._receive(self._peers.get(number), data)
            case Answered(call, status, fields):
                self._answered(call, status, fields)
            case Connected(number, _):
                self._connect(number, now)
            case Disconnected(number):
                self._leave(self._peers.get(number))
            case Resumed(number):
                self._resume(self._peers.get(number))
            case Failed(call, detail):
                self._failed(call, detail)
            case UpstreamThere(is_same):
                self._there(is_same)
            case UpstreamGone(detail):
                self._gone_since = now if self._gone_since is None else self._gone_since
                self._gone_why = detail
            case _:
                self._tick(now)
        if self._blocked:
            for peer in [peer for peer in self._blocked if not self._is_blocked(peer)]:
                self._serve(peer)
        return effects

    def next_deadline(self) -> float | None:
        """Give the time at which ``Ticked`` is due, ``None`` if no time matters now."""
        deadline = next(iter(self._handshakes.values()), None)
        if self._gone_since is not None and not self._is_given_up:
            patience_ends = self._gone_since + self._relay_limits.patience_s
            return patience_ends if deadline is None else min(deadline, patience_ends)
        return deadline

    def statistics(self) -> RelayStatistics:
        """Give the numbers. Cost: the number of peers."""
        peers = self._peers.values()
        return RelayStatistics(
            connections=len(peers),
            waiting=sum(peer.wait is not None for peer in peers),
            held=sum(peer.is_held for peer in peers),
            unanswered=len(self._calls),
            unanswered_size=self._size,
            requests=self._requests,
            closed=dict(self._closed),
        )

    # --- local peers -------------------------------------------------------------------------------------

    def _connect(self, number: int, now: float) -> None:
        if self._is_given_up:
            self._close(number, CloseReason.ENDED, self._unreachable(now))
        elif len(self._peers) >= self._limits.connections_max:
            detail = f"{len(self._peers)} peers are connected, the limit is {self._limits.connections_max}"
            self._close(number, CloseReason.TOO_MANY_CONNECTIONS, detail)
        else:
            self._peers[number] = _Peer(number, RequestReader(self._limits.input_size_max))
            self._handshakes[number] = now + self._limits.handshake_timeout_s

    def _receive(self, peer: _Peer | None, data: bytes) -> None:
        if peer is not None and not peer.is_refused:
            peer.is_session = not peer.reader.is_validated and data[0] == OPENING[0]
            peer.reader.feed(data)
            self._serve(peer)

    def _resume(self, peer: _Peer | None) -> None:
        if peer is not None:
            peer.is_paused = False
            peer.caused = 0
            self._serve(peer)

    def _leave(self, peer: _Peer | None) -> None:
        """Forget a peer; requests of it that are blocked are still served, so that none it has sent is lost."""
        if peer is None:
            return
        del self._peers[peer.number]
        self._handshakes.pop(peer.number, None)
        self._input_held -= peer.held
        peer.is_gone = True
        peer.is_paused = False
        self._withdraw(peer)
        if peer not in self._blocked:
            peer.reader.close()

    def _close(self, number: int, reason: CloseReason, detail: str) -> None:
        self._closed[reason] = self._closed.get(reason, 0) + 1
        self._effects.append(Close(number, reason, detail))
        peer = self._peers.get(number)
        if peer is not None:
            peer.is_refused = True
            self._blocked.pop(peer, None)
            self._leave(peer)

    def _is_blocked(self, peer: _Peer) -> bool:
        limits = self._relay_limits
        return (
            peer.is_stalled
            or peer.is_paused
            or len(peer.slots) >= limits.unanswered_max
            or peer.size >= limits.unanswered_size_max
            or self._size >= limits.unanswered_total_max
        )

    def _serve(self, peer: _Peer) -> None:
        """Send the peer's whole requests upstream, until there are no more or too many are on their way."""
        try:
            while not peer.is_refused and not (is_blocked := self._is_blocked(peer)):
                request = peer.reader.next()
                if request is None:
                    break
                self._requests += 1
                if request[0] == Verb.VALIDATE:
                    self._handshakes.pop(peer.number, None)
                else:
                    self._forward(peer, make_slot(request, self._space))
        except RequestError as refusal:
            slot = Slot((Verb.PING,))
            self._place(peer, slot)
            self._refuse(peer, slot, refusal.reason, _SESSION_WANTED if peer.is_session else str(refusal))
            return
        if peer.is_refused:
            return
        if is_blocked:
            self._block(peer)
        else:
            self._unblock(peer)
        if not peer.is_gone and (peer.reader.held or peer.reader.unread or peer.held):
            self._account(peer)

    def _block(self, peer: _Peer) -> None:
        """Take nothing more of a peer for now; what it goes on to send stays in the system."""
        self._blocked[peer] = None
        if peer.reader.unread and not peer.is_held and not peer.is_gone:
            peer.is_held = True
            self._effects.append(Hold(peer.number))

    def _unblock(self, peer: _Peer) -> None:
        self._blocked.pop(peer, None)
        if peer.is_gone:
            peer.reader.close()
        elif peer.is_held:
            peer.is_held = False
            self._effects.append(Release(peer.number))

    def _account(self, peer: _Peer) -> None:
        """Account for what the peer's reader keeps; over the total, close those that keep the most."""
        held = peer.reader.held + peer.reader.unread
        self._input_held += held - peer.held
        peer.held = held
        limit = self._limits.input_total_max
        while (total := self._input_held) > limit:
            largest = max(self._peers.values(), key=lambda each: each.held)
            detail = f"begun requests of all peers hold {total} bytes, this one's {largest.held}, the limit is {limit}"
            self._close(largest.number, CloseReason.INPUT_TOTAL, detail)

    # --- to the server -----------------------------------------------------------------------------------

    def _forward(self, peer: _Peer, slot: Slot) -> None:
        self._place(peer, slot)
        if slot.replaces_wait and peer.wait is not None:
            peer.postponed = (peer.wait, slot)
            peer.is_stalled = True
            self._withdraw(peer)
        else:
            self._begin(peer, slot)

    def _begin(self, peer: _Peer, slot: Slot) -> None:
        last = self._ask(peer, slot, 0, slot.begin())
        if slot.is_deferred:
            peer.wait = last
        peer.is_stalled = slot.is_stalling

    def _place(self, peer: _Peer, slot: Slot) -> None:
        peer.slots.append(slot)
        peer.size += slot.size
        self._size += slot.size

    def _ask(self, peer: _Peer, slot: Slot, first: int, calls: Sequence[Call]) -> int:
        """Make calls, numbered within their slot from ``first`` on; give the last one's number."""
        number = 0
        for index, call in enumerate(calls, first):
            number = next(self._numbers)
            self._calls[number] = (peer, slot, index)
            self._effects.append(Ask(number, call.verb, call.fields, peer.number))
            if call.is_withdrawn:
                self._effects.append(Withdraw(number))
        return number

    def _withdraw(self, peer: _Peer) -> None:
        if peer.wait is not None:
            self._effects.append(Withdraw(peer.wait))
            peer.wait = None

    # --- from the server ---------------------------------------------------------------------------------

    def _answered(self, number: int, status: Status, fields: tuple[Any, ...]) -> None:
        if (entry := self._calls.pop(number, None)) is None:
            return
        peer, slot, index = entry
        if peer.wait == number:
            peer.wait = None
        if status is Status.REFUSED:
            self._refuse(peer, slot, reason_of(fields[0]), fields[1].decode(errors="replace"))
        elif slot.refusal is None:
            self._ask(peer, slot, index + 1, slot.take(index, status, fields))
            if slot.pieces is not None:
                self._advance(peer)
            if peer.postponed is not None and peer.postponed[0] == number:
                following, peer.postponed = peer.postponed[1], None
                self._begin(peer, following)

    def _failed(self, number: int, detail: str) -> None:
        if (entry := self._calls.pop(number, None)) is not None:
            self._refuse(entry[0], entry[1], CloseReason.ENDED, detail)

    def _refuse(self, peer: _Peer, slot: Slot, reason: CloseReason, detail: str) -> None:
        """Take nothing more of a peer, and close it when it has been sent what it is owed before this request."""
        slot.refuse(reason, detail)
        peer.is_refused = True
        self._blocked.pop(peer, None)
        peer.reader.close()
        self._advance(peer)

    def _advance(self, peer: _Peer) -> None:
        """Send the replies that are known and whose turn it is."""
        slots = peer.slots
        passed: list[Slot] = []
        while slots and (slots[0].pieces is not None or slots[0].is_deferred):
            slot = slots.popleft()
            if slot.pieces is None:
                passed.append(slot)
                continue
            peer.size -= slot.size
            self._size -= slot.size
            if slot.is_stalling:
                peer.is_stalled = False
            if peer.is_gone:
                continue
            if slot.refusal is not None:
                self._close(peer.number, *slot.refusal)
                continue
            for piece in slot.pieces:
                peer.caused += len(piece)
                self._effects.append(Reply(peer.number, piece))
        slots.extendleft(reversed(passed))
        if peer.caused > self._limits.output_size_max and not peer.is_paused and not peer.is_gone:
            peer.is_paused = True
            self._effects.append(Pause(peer.number))

    # --- upstream and time -------------------------------------------------------------------------------

    def _there(self, is_same: bool) -> None:
        self._gone_since, self._is_given_up = None, False
        if not is_same:
            self._close_all("the server upstream has other data than before: what this peer relies on is gone")

    def _close_all(self, detail: str) -> None:
        for number in list(self._peers):
            self._close(number, CloseReason.ENDED, detail)

    def _unreachable(self, now: float) -> str:
        gone_s = 0.0 if self._gone_since is None else now - self._gone_since
        return f"the server upstream has been unreachable for {gone_s:.1f} s: {self._gone_why}"

    def _tick(self, now: float) -> None:
        detail = f"VALIDATE did not come within {self._limits.handshake_timeout_s:g} s"
        while self._handshakes and next(iter(self._handshakes.values())) <= now:
            self._close(next(iter(self._handshakes)), CloseReason.HANDSHAKE_TIMEOUT, detail)
        if self._gone_since is not None and now >= self._gone_since + self._relay_limits.patience_s:
            self._is_given_up = True
            self._close_all(self._unreachable(now))
