"""What goes into the engine and what comes out of it: the words between the machine and whoever drives it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from typing import NamedTuple, Protocol, TypeAlias

from rallypoint.protocol.spec import CloseReason

__all__ = [
    "Close",
    "CloseReason",
    "Connected",
    "Disconnected",
    "Effect",
    "EndReason",
    "Event",
    "Hold",
    "Machine",
    "Origin",
    "Pause",
    "Received",
    "Release",
    "Reply",
    "Resumed",
    "Secured",
    "Statistics",
    "Stopping",
    "Ticked",
    "Unread",
]


class Origin(NamedTuple):
    """Where a connection comes from, as far as it matters to who may do what.

    Attributes:
        host: the address of the other machine, as numbers; empty if it came over a Unix domain socket, or unknown.
        is_local: it came over a Unix domain socket that the system opens to this user, and root, only.
        is_secure: it is encrypted, with TLS.
        identity: the name in the certificate that the peer has proven to hold; empty without one.
    """

    host: str = ""
    is_local: bool = False
    is_secure: bool = False
    identity: bytes = b""


class Connected(NamedTuple):
    """A connection was accepted. ``peer`` is the driver's number for it, not in use by another.

    ``address`` is where it comes from, for people; ``origin`` the same for ``access``.
    """

    peer: int
    address: str = ""
    origin: Origin = Origin()


class Secured(NamedTuple):
    """The peer's TLS handshake is done: its first bytes are still to come. ``identity`` as in ``Origin``."""

    peer: int
    identity: bytes = b""


class Received(NamedTuple):
    """Bytes came, at least one. Not for a paused peer."""

    peer: int
    data: bytes


class Resumed(NamedTuple):
    """A paused peer's output is sent: go on with what it asked meanwhile."""

    peer: int


class Unread(NamedTuple):
    """All peers together leave too many replies unread, ``total`` bytes, and this one the most of them, ``held``.

    It will be closed. None of what it is owed is sent any more, because that may end within a reply.
    """

    peer: int
    held: int
    total: int


class Disconnected(NamedTuple):
    """The peer closed, or its connection failed."""

    peer: int


class Ticked(NamedTuple):
    """Time passed: due when ``next_deadline`` says so."""


class Stopping(NamedTuple):
    """The server stops: this is the last event, and what it causes the last that is sent."""


class Reply(NamedTuple):
    """Send these bytes, after all earlier ones to this peer."""

    peer: int
    data: bytes | memoryview


class Pause(NamedTuple):
    """Send what there is, feed nothing more of this peer, then say ``Resumed``."""

    peer: int


class Hold(NamedTuple):
    """Feed nothing more of this peer until ``Release``, whatever becomes of its output."""

    peer: int


class Release(NamedTuple):
    """Feed this held peer again."""

    peer: int


class Close(NamedTuple):
    """Send the replies before this, then close. ``detail`` is one sentence for the log."""

    peer: int
    reason: CloseReason
    detail: str


Event: TypeAlias = Connected | Secured | Received | Resumed | Unread | Disconnected | Ticked | Stopping
Effect: TypeAlias = Reply | Pause | Hold | Release | Close


class Machine(Protocol):
    """What a loop drives: an engine, or another machine in its place."""

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take one event; give what must be done."""
        ...

    def next_deadline(self) -> float | None:
        """Give the time at which ``Ticked`` is due, ``None`` if no time matters now."""
        ...


@unique
class EndReason(Enum):
    """Why a connection ended that the engine did not close: the driver knows."""

    PEER_CLOSED = "peer_closed"
    CONNECTION_LOST = "connection_lost"
    """It was reset, or the peer's machine went silent."""
    SERVER_STOPPED = "server_stopped"


@dataclass(frozen=True)
class Statistics:
    """The engine in numbers.

    Attributes:
        connections: peers at present.
        validated: those of them that have sent VALIDATE, or have a session.
        paused: those of them whose output is not sent yet.
        keys: keys in the store.
        queues: queues with an item in them.
        stored_size: bytes of all keys, values and items, overhead included.
        waiting: peers in WAIT or BARRIER, and waiting requests of sessions.
        input_held: bytes held of begun or unparsed requests.
        requests: requests taken since the start, VALIDATE and HELLO included.
        closed: peers closed since the start, for each reason that occurred.
        sessions: sessions, with or without a connection.
        answers_size: bytes that answers kept for sessions are taken to need.
    """

    connections: int
    validated: int
    paused: int
    keys: int
    queues: int
    stored_size: int
    waiting: int
    input_held: int
    requests: int
    closed: dict[CloseReason, int]
    sessions: int = 0
    answers_size: int = 0
