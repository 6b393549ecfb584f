"""The server as a machine: what happens at its connections in, what must be done to them out.

Rules:

- One door: ``step(event, now)``. All that an event causes is in the list it returns, replies owed to other peers too.
- What counts about replies is the concatenation of each peer's bytes. How they are cut into ``Reply`` effects, and
  how replies to different peers interleave, means nothing.
- Replies that a peer is owed come before its ``Close``. After its ``Close`` the engine has forgotten it: a late
  ``Disconnected`` or ``Received`` for it is ignored.
- A request is applied whole or not at all, and requests of one peer in their order.
- A refusal closes the peer that asked, and nobody else notices.
- Output is bounded by pausing: a peer that caused more than ``output_size_max`` bytes in one step gets ``Pause``,
  and the rest of what it sent stays unparsed until ``Resumed``. Input is bounded by closing.

Theory of operation::

    Received(7, bytes) -> reader of 7 -> request -> handler -> keyspace: what changed -> waiters: whom that releases
                                            ^          |                                   |
                                            |          '-> Reply(7, ...)                   '-> Reply(9, GO_ON)
                                            '-- next request, unless 7 has caused too much: Pause(7)

A peer's life: ``Connected``, VALIDATE in time, requests, ``Disconnected``; or a ``Close`` from here at any time.

Order of replies within one request: first those to peers that it releases (the requester too, if it waits), key by key
as the request names them and in the order of their registration, then the requester's own.

What this file does not know: sockets, threads, what a step costs, where ``now`` comes from.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias

from rallypoint.protocol.codec import I64, U32, U64, Request, RequestError
from rallypoint.protocol.server import RequestReader
from rallypoint.protocol.spec import CANCELLED, GO_ON, NOT_READY, READY, CloseReason, Verb
from rallypoint.server.keyspace import Keyspace, KeyspaceError
from rallypoint.server.limits import DEFAULT_LIMITS, Limits
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
    Statistics,
    Ticked,
)
from rallypoint.server.waiters import Waiters

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
    "Ticked",
]

_Handler: TypeAlias = Callable[[int, Request], int]

# A value up to this size is copied behind its length; a larger one is a Reply of its own, the stored object itself.
_COPIED_SIZE_MAX = 1024


class _Peer:
    __slots__ = ("held", "is_paused", "reader")

    def __init__(self, reader: RequestReader) -> None:
        self.reader = reader
        self.held = 0
        self.is_paused = False


class Engine:
    """One server's state.

    Args:
        limits: what peers are granted.

    Cost: linear in the bytes received and sent, and in the waiters on the names that a request changes.
    Threads: none but the caller's.
    """

    def __init__(self, limits: Limits = DEFAULT_LIMITS) -> None:
        self._limits = limits
        self._output_size_max = limits.output_size_max
        self._keyspace = Keyspace(limits)
        self._waiters = Waiters()
        self._peers: dict[int, _Peer] = {}
        # Deadlines of those not validated yet; a plain dict does not find its first entry in O(1) after deletions.
        self._handshakes: OrderedDict[int, float] = OrderedDict()
        self._listing: bytes | None = None  # the reply to LIST_KEYS, kept until a key comes or goes
        self._input_held = 0
        self._requests = 0
        self._closed: dict[CloseReason, int] = {}
        self._effects: list[Effect] = []
        # By verb: _validate, _set, ... Each gives the bytes of replies that it makes for the requester.
        self._handlers: tuple[_Handler, ...] = tuple(getattr(self, f"_{verb.name.lower()}") for verb in Verb)

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
        self._effects = effects
        if isinstance(event, Received):
            state = self._peers.get(event.peer)
            if state is not None:
                state.reader.feed(event.data)
                self._serve(event.peer, state)
        elif isinstance(event, Connected):
            self._connect(event.peer, now)
        elif isinstance(event, Disconnected):
            self._forget(event.peer)
        elif isinstance(event, Resumed):
            state = self._peers.get(event.peer)
            if state is not None:
                state.is_paused = False
                self._serve(event.peer, state)
        else:
            self._expire_handshakes(now)
        return effects

    def next_deadline(self) -> float | None:
        """Give the time at which ``Ticked`` is due, ``None`` if no time matters now."""
        return next(iter(self._handshakes.values()), None)

    def statistics(self) -> Statistics:
        """Give the numbers. Cost: the number of peers."""
        peers = self._peers.values()
        return Statistics(
            connections=len(peers),
            validated=sum(state.reader.is_validated for state in peers),
            paused=sum(state.is_paused for state in peers),
            keys=len(self._keyspace),
            queues=len(self._keyspace.queues),
            stored_size=self._keyspace.stored_size,
            waiting=len(self._waiters),
            input_held=self._input_held,
            requests=self._requests,
            closed=dict(self._closed),
        )

    # --- connections -------------------------------------------------------------------------------------

    def _connect(self, peer: int, now: float) -> None:
        if peer in self._peers:
            raise AssertionError(f"peer {peer} connected twice")
        if len(self._peers) >= self._limits.connections_max:
            detail = f"{len(self._peers)} peers are connected, the limit is {self._limits.connections_max}"
            self._close(peer, CloseReason.TOO_MANY_CONNECTIONS, detail)
            return
        self._peers[peer] = _Peer(RequestReader(self._limits.input_size_max))
        self._handshakes[peer] = now + self._limits.handshake_timeout_s

    def _serve(self, peer: int, state: _Peer) -> None:
        """Apply the peer's whole requests, until there are no more or they have caused too much output."""
        if state.is_paused:
            self._hold(state)
            return
        next_request = state.reader.next
        handlers = self._handlers
        produced = 0
        requests = 0
        try:
            while (request := next_request()) is not None:
                requests += 1
                produced += handlers[request[0]](peer, request)
                if produced > self._output_size_max:
                    state.is_paused = True
                    self._effects.append(Pause(peer))
                    break
        except (RequestError, KeyspaceError) as refusal:
            self._close(peer, refusal.reason, str(refusal))
        else:
            if state.reader.held or state.held or state.is_paused:
                self._hold(state)
        self._requests += requests

    def _hold(self, state: _Peer) -> None:
        """Account for what the peer's reader keeps; over the total, close those that keep the most."""
        held = state.reader.held + state.reader.unread
        self._input_held += held - state.held
        state.held = held
        limit = self._limits.input_total_max
        while (total := self._input_held) > limit:
            peer, largest = max(self._peers.items(), key=lambda entry: entry[1].held)
            detail = f"begun requests of all peers hold {total} bytes, this one's {largest.held}, the limit is {limit}"
            self._close(peer, CloseReason.INPUT_TOTAL, detail)

    def _close(self, peer: int, reason: CloseReason, detail: str) -> None:
        self._closed[reason] = self._closed.get(reason, 0) + 1
        self._effects.append(Close(peer, reason, detail))
        self._forget(peer)

    def _forget(self, peer: int) -> None:
        state = self._peers.pop(peer, None)
        if state is not None:
            self._input_held -= state.held
            self._handshakes.pop(peer, None)
            state.reader.close()
            self._abandon(peer)

    def _expire_handshakes(self, now: float) -> None:
        detail = f"VALIDATE did not come within {self._limits.handshake_timeout_s:g} s"
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            self._close(next(iter(self._handshakes)), CloseReason.HANDSHAKE_TIMEOUT, detail)

    # --- releases ----------------------------------------------------------------------------------------

    def _created(self, key: bytes) -> None:
        """Release those whom a new key completes."""
        self._listing = None
        for peer in self._waiters.appeared(key, key not in self._keyspace.queues):
            self._effects.append(Reply(peer, GO_ON))

    def _abandon(self, peer: int) -> None:
        """Drop what the peer waits for; pass on its call to a queue that it did not pop."""
        name = self._waiters.forget(peer)
        if name is not None and name in self._keyspace.queues:
            self._call(name, is_newly_present=False)

    def _call(self, name: bytes, *, is_newly_present: bool) -> None:
        peer = self._waiters.pushed(name, is_newly_present)
        if peer is not None:
            self._effects.append(Reply(peer, GO_ON))

    # --- verbs -------------------------------------------------------------------------------------------

    def _validate(self, peer: int, request: Request) -> int:  # noqa: ARG002 - the reader has looked at it
        del self._handshakes[peer]
        return 0

    def _set(self, peer: int, request: Request) -> int:  # noqa: ARG002 - no reply
        _, key, value = request
        if self._keyspace.set(key, value):
            self._created(key)
        return 0

    def _compare_set(self, peer: int, request: Request) -> int:
        _, key, expected, desired = request
        reply, is_new = self._keyspace.compare_set(key, expected, desired)
        if is_new:
            self._created(key)
        return self._reply_value(peer, reply)

    def _get(self, peer: int, request: Request) -> int:
        return self._reply_value(peer, self._keyspace.get(request[1]) or b"")

    def _add(self, peer: int, request: Request) -> int:
        _, key, delta = request
        total, is_new = self._keyspace.add(key, delta)
        if is_new:
            self._created(key)
        self._effects.append(Reply(peer, I64.pack(total)))
        return 8

    def _check(self, peer: int, request: Request) -> int:
        self._effects.append(Reply(peer, NOT_READY if self._keyspace.missing(request[1]) else READY))
        return 1

    def _wait(self, peer: int, request: Request) -> int:
        self._abandon(peer)
        names = dict.fromkeys(request[1])
        missing = self._keyspace.missing(names)
        if missing:
            total = self._waiters.names_held + len(names)
            if total > self._limits.waited_names_max:
                detail = f"all peers would wait for {total} names, the limit is {self._limits.waited_names_max}"
                raise RequestError(CloseReason.TOO_MANY_WAITED, detail)
            self._waiters.wait(peer, names, missing)
            return 0
        self._effects.append(Reply(peer, GO_ON))
        return 1

    def _getnumkeys(self, peer: int, request: Request) -> int:  # noqa: ARG002 - no fields
        self._effects.append(Reply(peer, I64.pack(len(self._keyspace))))
        return 8

    def _delete_key(self, peer: int, request: Request) -> int:
        key = request[1]
        removed = self._keyspace.delete(key)
        if removed:
            self._listing = None
            if key not in self._keyspace:
                self._waiters.vanished(key)
        self._effects.append(Reply(peer, I64.pack(removed)))
        return 8

    def _append(self, peer: int, request: Request) -> int:  # noqa: ARG002 - no reply
        if self._keyspace.append(request[1], request[2]):
            self._created(request[1])
        return 0

    def _multi_get(self, peer: int, request: Request) -> int:
        get = self._keyspace.get
        produced = 0
        copied: list[bytes] = []
        for key in request[1]:
            value = get(key) or b""
            copied.append(U64.pack(len(value)))
            produced += 8 + len(value)
            if len(value) <= _COPIED_SIZE_MAX:
                copied.append(value)
            else:
                self._effects += (Reply(peer, b"".join(copied)), Reply(peer, value))
                copied = []
        if copied:
            self._effects.append(Reply(peer, b"".join(copied)))
        return produced

    def _multi_set(self, peer: int, request: Request) -> int:  # noqa: ARG002 - no reply
        for key in self._keyspace.multi_set(request[1]):
            self._created(key)
        return 0

    def _cancel_wait(self, peer: int, request: Request) -> int:  # noqa: ARG002 - no fields
        self._abandon(peer)
        self._effects.append(Reply(peer, CANCELLED))
        return 1

    def _ping(self, peer: int, request: Request) -> int:
        self._effects.append(Reply(peer, U32.pack(request[1])))
        return 4

    def _queue_push(self, peer: int, request: Request) -> int:  # noqa: ARG002 - no reply
        _, name, item = request
        was_present = name in self._keyspace
        self._keyspace.push(name, item)
        self._call(name, is_newly_present=not was_present)
        return 0

    def _queue_pop(self, peer: int, request: Request) -> int:
        name = request[1]
        self._waiters.popped(peer, name)
        length, item = self._keyspace.pop(name)
        self._effects.append(Reply(peer, I64.pack(length)))
        if item is None:
            return 8
        if length == 1 and not self._keyspace.has_key(name):
            self._waiters.vanished(name)
        return 8 + self._reply_value(peer, item)

    def _queue_len(self, peer: int, request: Request) -> int:
        self._effects.append(Reply(peer, I64.pack(self._keyspace.queue_length(request[1]))))
        return 8

    def _list_keys(self, peer: int, request: Request) -> int:  # noqa: ARG002 - no fields
        if self._listing is None:
            keys = self._keyspace.keys()
            parts = [I64.pack(len(keys))]
            for key in keys:
                parts += (U64.pack(len(key)), key)
            self._listing = b"".join(parts)
        self._effects.append(Reply(peer, self._listing))
        return len(self._listing)

    def _barrier(self, peer: int, request: Request) -> int:
        _, key, world_size = request
        self._abandon(peer)
        count, is_new = self._keyspace.add(key, 1)
        if is_new:
            self._created(key)
        for released in self._waiters.arrived(key, count):
            self._effects.append(Reply(released, GO_ON))
        if count < world_size:
            self._waiters.wait_barrier(peer, key, world_size)
            return 0
        self._effects.append(Reply(peer, GO_ON))
        return 1

    def _reply_value(self, peer: int, value: bytes) -> int:
        size = len(value)
        if size <= _COPIED_SIZE_MAX:
            self._effects.append(Reply(peer, U64.pack(size) + value))
        else:
            self._effects += (Reply(peer, U64.pack(size)), Reply(peer, value))
        return 8 + size
