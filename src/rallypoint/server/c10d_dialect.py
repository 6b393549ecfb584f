"""The c10d dialect: bytes of a peer in, its whole requests applied, until they end or have caused too much.

::

    bytes --> reader of the peer --> request --> may it? --> c10d_verbs
                                        '-- next, unless this step has caused more than output_size_max: Pause

What this file does not know: how peers come and go, other dialects.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from rallypoint.protocol.codec import Request, RequestError
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.access import Forbids
from rallypoint.server.c10d_verbs import C10dVerbs, Handler
from rallypoint.server.ground import Ground
from rallypoint.server.keyspace import KeyspaceError
from rallypoint.server.peer import Peer
from rallypoint.server.vocabulary import Pause

__all__ = ["C10dDialect", "Host"]


class Host(Protocol):
    """Who has the peers: the engine."""

    @property
    def peers(self) -> Mapping[int, Peer]:
        """The connections."""

    def admit(self, peer: int) -> None:
        """Take note that a peer's handshake is done."""

    def hold(self, state: Peer) -> None:
        """Account for what the peer's reader keeps."""

    def close(self, peer: int, reason: CloseReason, detail: str) -> None:
        """Close a peer."""


class C10dDialect:
    """What serves the peers that speak c10d.

    Args:
        ground: what their requests work on.
        host: who has them.
        forbids: says why an identity may not; ``None`` if everybody may.

    Attributes:
        requests: how many have been served.
    """

    def __init__(self, ground: Ground, host: Host, forbids: Forbids | None) -> None:
        self.requests = 0
        self._ground = ground
        self._output_size_max = ground.limits.output_size_max
        self._peers = host.peers
        self._hold = host.hold
        self._close = host.close
        self._handlers = C10dVerbs(ground, host.admit).handlers
        if forbids is not None:
            self._handlers = tuple(self._guarded(handler, forbids) for handler in self._handlers)

    def serve(self, peer: int, state: Peer, data: bytes, now: float) -> None:
        """Apply the peer's whole requests, until there are no more or they have cost too much for one step."""
        ground = self._ground
        ground.now = now
        reader: Any = state.reader  # a RequestReader
        if data:
            state.received += len(data)
            reader.feed(data)
        if state.is_paused:
            self._hold(state)
            return
        next_request = reader.next
        handlers = self._handlers
        output_size_max = self._output_size_max
        is_late = ground.is_late
        produced = 0
        requests = 0
        try:
            while (request := next_request()) is not None:
                requests += 1
                produced += handlers[request[0]](peer, request)
                if produced > output_size_max:
                    state.is_paused = True
                    ground.effects.append(Pause(peer))
                    break
                if not reader.has_more:
                    break
                if is_late(requests):
                    state.is_paused = True
                    ground.effects.append(Pause(peer))
                    break
        except (RequestError, KeyspaceError) as refusal:
            self._close(peer, refusal.reason, str(refusal))
        else:
            if reader.held or state.held or state.is_paused:
                self._hold(state)
        state.sent += produced
        self.requests += requests

    def _guarded(self, handler: Handler, forbids: Forbids) -> Handler:
        """Give a verb that first asks whether the peer may."""

        def serve(peer: int, request: Request) -> int:
            why = forbids(self._peers[peer].origin.identity, request)
            if why is not None:
                raise RequestError(CloseReason.FORBIDDEN, why)
            return handler(peer, request)

        return serve
