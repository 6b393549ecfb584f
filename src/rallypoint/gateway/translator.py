"""The relay as a machine: c10d requests of many local peers in, requests of one session upstream out, and back.

Rules:

- One door: ``step(event, now)``. All that an event causes is in the list that it returns.
- To each local peer the bytes are those of a c10d server: replies in the order of the requests, save those of WAIT and
  BARRIER, which come when they come, but never before the replies to requests that were sent earlier.
- A peer of the session dialect is closed without a word, upon which our clients come again in c10d.
- Requests of one peer go upstream in their order. A refused one closes its peer, after the replies to earlier requests.
- Each wait of each peer is a wait upstream. Equal ones are not merged: a queue's item releases one waiter, and what is
  a queue the relay does not know. Equal reads are, if so asked (``readings``), and the reply's bytes are the same.
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

from collections import OrderedDict
from collections.abc import Sequence
from itertools import count
from typing import Any, Final, TypeAlias

from rallypoint.gateway.lists import ListMemory
from rallypoint.gateway.peers import Peer
from rallypoint.gateway.readings import Reading, Readings
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

_Asked: TypeAlias = tuple[Peer, Slot, int]  # who, for which request, and the call's number among that one's

_VALIDATE: Final = int(Verb.VALIDATE)
_SESSION_WANTED: Final = "it speaks the session dialect; here c10d is spoken, in which it may come again"


class Translator:
    """One relay's state.

    Args:
        limits: what local peers are granted, as far as it concerns them: connections, handshakes, input, output.
        relay_limits: bounds of its own.
        space: where upstream the local peers' keys are; ``None`` for just as they name them.
        shares_reads: what peers want to read is asked for by ``end_turn``, once for all.

    Threads: none but the caller's.
    """

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        relay_limits: RelayLimits = DEFAULT_RELAY_LIMITS,
        space: KeySpace | None = None,
        *,
        shares_reads: bool = False,
    ) -> None:
        self._space = space
        self._readings: Readings[_Asked] | None = Readings() if shares_reads else None
        self._lists = ListMemory()
        self._limits = limits
        self._relay_limits = relay_limits
        self._peers: dict[int, Peer] = {}
        self._blocked: dict[Peer, None] = {}  # peers that have sent more than is taken now
        self._handshakes: OrderedDict[int, float] = OrderedDict()
        self._calls: dict[int, _Asked | Reading[_Asked]] = {}
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
        if type(event) is Received:
            self._receive(self._peers.get(event.peer), event.data)
        elif type(event) is Answered:
            self._answered(event.call, event.status, event.fields)
        else:
            self._happened(event, now)
        if self._blocked:
            for peer in [peer for peer in self._blocked if not self._is_blocked(peer)]:
                self._serve(peer)
        return effects

    def _happened(self, event: RelayEvent, now: float) -> None:
        """Take one of the rarer events."""
        match event:
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

    @property
    def has_due(self) -> bool:
        """Tell whether ``end_turn`` gives something."""
        return self._readings is not None and self._readings.is_due

    def end_turn(self) -> list[RelayEffect]:
        """Give what peers have wanted to read since it was called last, of what is not on its way already."""
        if self._readings is None or not (due := self._readings.due()):
            return []
        effects: list[RelayEffect] = []
        self._effects = effects
        for reading in due:
            peer, slot, _ = reading.readers[0]
            self._calls[self._ask(peer, slot, 0, slot.begin())] = reading
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
            self._peers[number] = Peer(number, RequestReader(self._limits.input_size_max, self._lists.decoders))
            self._handshakes[number] = now + self._limits.handshake_timeout_s

    def _receive(self, peer: Peer | None, data: bytes) -> None:
        if peer is not None and not peer.is_refused:
            reader = peer.reader
            if not reader.is_validated:
                peer.is_session = data[0] == OPENING[0]
            reader.feed(data)
            self._serve(peer)

    def _resume(self, peer: Peer | None) -> None:
        if peer is not None:
            peer.is_paused = False
            peer.caused = 0
            self._serve(peer)

    def _leave(self, peer: Peer | None) -> None:
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

    def _is_blocked(self, peer: Peer) -> bool:
        limits = self._relay_limits
        return (
            peer.is_stalled
            or peer.is_paused
            or len(peer.slots) >= limits.unanswered_max
            or peer.size >= limits.unanswered_size_max
            or self._size >= limits.unanswered_total_max
        )

    def _serve(self, peer: Peer) -> None:
        """Send the peer's whole requests upstream, until there are no more or too many are on their way."""
        reader = peer.reader
        try:
            while not peer.is_refused and not (is_blocked := self._is_blocked(peer)):
                request = reader.next()
                if request is None:
                    break
                self._requests += 1
                if request[0] == _VALIDATE:
                    self._handshakes.pop(peer.number, None)
                else:
                    self._forward(peer, make_slot(request, self._space))
                if not reader.has_more:
                    break
        except RequestError as refusal:
            slot = Slot((Verb.PING,))
            peer.slots.append(slot)
            peer.size += slot.size
            self._size += slot.size
            self._refuse(peer, slot, refusal.reason, _SESSION_WANTED if peer.is_session else str(refusal))
            return
        if peer.is_refused:
            return
        if is_blocked:
            self._block(peer)
        else:
            self._unblock(peer)
        if (peer.held or reader.has_more) and not peer.is_gone and (peer.held or reader.held or reader.unread):
            self._account(peer)

    def _block(self, peer: Peer) -> None:
        """Take nothing more of a peer for now; what it goes on to send stays in the system."""
        self._blocked[peer] = None
        if peer.reader.unread and not peer.is_held and not peer.is_gone:
            peer.is_held = True
            self._effects.append(Hold(peer.number))

    def _unblock(self, peer: Peer) -> None:
        if self._blocked:
            self._blocked.pop(peer, None)
        if peer.is_gone:
            peer.reader.close()
        elif peer.is_held:
            peer.is_held = False
            self._effects.append(Release(peer.number))

    def _account(self, peer: Peer) -> None:
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

    def _forward(self, peer: Peer, slot: Slot) -> None:
        peer.slots.append(slot)
        peer.size += slot.size
        self._size += slot.size
        if peer.wait is not None and slot.replaces_wait:
            peer.postponed = (peer.wait, slot)
            peer.is_stalled = True
            self._withdraw(peer)
        else:
            self._begin(peer, slot)

    def _begin(self, peer: Peer, slot: Slot) -> None:
        if self._readings is not None and slot.share is not None:
            self._readings.add(slot.share, (peer, slot, 0))
            peer.is_stalled = True
            return
        last = self._ask(peer, slot, 0, slot.begin())
        if slot.is_deferred:
            peer.wait = last
        peer.is_stalled = slot.is_stalling

    def _ask(self, peer: Peer, slot: Slot, first: int, calls: Sequence[Call]) -> int:
        """Make calls, numbered within their slot from ``first`` on; give the last one's number."""
        number = 0
        for index, call in enumerate(calls, first):
            number = next(self._numbers)
            self._calls[number] = (peer, slot, index)
            self._effects.append(Ask(number, call.verb, call.fields, peer.number))
            if call.is_withdrawn:
                self._effects.append(Withdraw(number))
        return number

    def _withdraw(self, peer: Peer) -> None:
        if peer.wait is not None:
            self._effects.append(Withdraw(peer.wait))
            peer.wait = None

    # --- from the server ---------------------------------------------------------------------------------

    def _answered(self, number: int, status: Status | None, fields: tuple[Any, ...]) -> None:
        for asked in self._ended(number):
            self._take(number, asked, status, fields)

    def _ended(self, number: int) -> Sequence[_Asked]:
        """Take note that a call is over; give whose it was."""
        entry = self._calls.pop(number, None)
        if not isinstance(entry, Reading):
            return () if entry is None else (entry,)
        assert self._readings is not None
        self._readings.ended(entry.share)
        return entry.readers

    def _take(self, number: int, asked: _Asked, status: Status | None, fields: tuple[Any, ...]) -> None:
        peer, slot, index = asked
        if peer.wait == number:
            peer.wait = None
        if status is Status.REFUSED:
            self._refuse(peer, slot, reason_of(fields[0]), fields[1].decode(errors="replace"))
        elif slot.refusal is None:
            if calls := slot.take(index, status, fields):
                self._ask(peer, slot, index + 1, calls)
            if slot.pieces is not None:
                self._advance(peer)
            if peer.postponed is not None and peer.postponed[0] == number:
                following, peer.postponed = peer.postponed[1], None
                self._begin(peer, following)

    def _failed(self, number: int, detail: str) -> None:
        for peer, slot, _ in self._ended(number):
            self._refuse(peer, slot, CloseReason.ENDED, detail)

    def _refuse(self, peer: Peer, slot: Slot, reason: CloseReason, detail: str) -> None:
        """Take nothing more of a peer, and close it when it has been sent what it is owed before this request."""
        slot.refuse(reason, detail)
        peer.is_refused = True
        self._blocked.pop(peer, None)
        peer.reader.close()
        self._advance(peer)

    def _advance(self, peer: Peer) -> None:
        """Send the replies that are known and whose turn it is."""
        for slot in peer.leaving():
            self._size -= slot.size
            if peer.is_gone:
                continue
            if slot.refusal is not None:
                self._close(peer.number, *slot.refusal)
                continue
            for piece in slot.pieces or ():
                peer.caused += len(piece)
                self._effects.append(Reply(peer.number, piece))
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
