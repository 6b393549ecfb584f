"""What the engine knows of one connection."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from rallypoint.protocol.server import RequestReader
from rallypoint.protocol.session.server import FrameReader
from rallypoint.server.session_dialect import Talk
from rallypoint.server.vocabulary import CloseReason, Connected

__all__ = ["REFUSALS_KEPT", "Peer", "Refused", "Serve"]

REFUSALS_KEPT = 64
"""Refusals that a server remembers, for people."""

Serve: TypeAlias = Callable[[int, "Peer", bytes, float], None]
"""Takes a peer's bytes, in the dialect that it speaks."""


class Refused(NamedTuple):
    """A connection that the engine has closed.

    Attributes:
        at: when.
        address: where it came from.
        reason: why.
        detail: the same in one sentence.
    """

    at: float
    address: str
    reason: CloseReason
    detail: str


class Peer:
    """One connection; the engine's to change.

    Args:
        serve: what takes its first bytes.
        event: how it came.
        now: when.

    Attributes:
        serve: what takes its bytes.
        reader: cuts them into requests; ``None`` until it has said something.
        talk: what there is besides in the session dialect.
        held: bytes of it that wait in the reader.
        is_paused: its output is to be sent before its next request is looked at.
        address: where it comes from, for people.
        origin: the same for ``access``.
        host: the address that it is counted under; empty before it has said something, and if it has none.
        since: when it came.
        received: bytes that came from it.
        sent: bytes of the answers that it has caused.
    """

    __slots__ = (
        "address",
        "held",
        "host",
        "is_paused",
        "origin",
        "reader",
        "received",
        "sent",
        "serve",
        "since",
        "talk",
    )

    def __init__(self, serve: Serve, event: Connected, now: float) -> None:
        self.serve = serve
        self.reader: RequestReader | FrameReader | None = None
        self.talk: Talk | None = None
        self.held = 0
        self.is_paused = False
        self.address = event.address
        self.origin = event.origin
        self.host = ""
        self.since = now
        self.received = 0
        self.sent = 0

    def is_validated(self) -> bool:
        """Tell whether its handshake is done."""
        if self.talk is not None:
            return self.talk.session is not None
        return isinstance(self.reader, RequestReader) and self.reader.is_validated
