"""What goes into the relay's machine and what comes out of it, besides a server's words; and its limits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Final, NamedTuple, TypeAlias

from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.vocabulary import Effect, Event

__all__ = [
    "DEFAULT_RELAY_LIMITS",
    "Answered",
    "Ask",
    "Failed",
    "RelayEffect",
    "RelayEvent",
    "RelayLimits",
    "RelayStatistics",
    "UpstreamGone",
    "UpstreamThere",
    "Withdraw",
]


class Answered(NamedTuple):
    """A call was answered; ``fields`` are those of its status. Without one it is an OK, and c10d's reply as it came."""

    call: int
    status: Status | None
    fields: tuple[Any, ...]


class Failed(NamedTuple):
    """A call will not be answered, and whether it was applied is not known. ``detail`` is one sentence."""

    call: int
    detail: str


class UpstreamThere(NamedTuple):
    """There is a server; unless ``is_same`` with other data than the last one."""

    is_same: bool


class UpstreamGone(NamedTuple):
    """There is no server, or none any more. ``detail`` is one sentence."""

    detail: str


class Ask(NamedTuple):
    """Send this request upstream, after all earlier ones of this peer; ``call`` is the machine's number for it."""

    call: int
    verb: SessionVerb
    fields: tuple[Any, ...]
    peer: int = 0


class Withdraw(NamedTuple):
    """Cancel a call that waits; it is answered all the same."""

    call: int


RelayEvent: TypeAlias = Event | Answered | Failed | UpstreamThere | UpstreamGone
RelayEffect: TypeAlias = Effect | Ask | Withdraw


@dataclass(frozen=True)
class RelayLimits:
    """Bounds of one relay, besides those of a server for its local peers.

    Attributes:
        patience_s: seconds that the server upstream may be gone before the local peers are closed; of a gateway,
            seconds for which a request is tried at a store that is lost.
        unanswered_max: requests of one peer that are on their way; with more it is held.
        unanswered_size_max: their bytes.
        unanswered_total_max: bytes of the requests of all peers that are on their way.
        threads_max: threads in which a gateway calls its store, besides the two of those who wait.

    Raises:
        ValueError: a bound is not above 0.
    """

    patience_s: float = 60.0
    unanswered_max: int = 256
    unanswered_size_max: int = 16 << 20
    unanswered_total_max: int = 256 << 20
    threads_max: int = 8

    def __post_init__(self) -> None:
        for field in fields(self):
            bound = getattr(self, field.name)
            if not bound > 0:
                raise ValueError(f"{field.name} is {bound}, it must be above 0")


DEFAULT_RELAY_LIMITS: Final = RelayLimits()


@dataclass(frozen=True)
class RelayStatistics:
    """The relay in numbers.

    Attributes:
        connections: local peers at present.
        waiting: those of them that wait for keys or at a barrier.
        held: those of them that are not read, because too much of theirs is on its way.
        unanswered: calls upstream that are on their way or wait.
        unanswered_size: bytes of the requests behind them.
        requests: requests taken since the start.
        closed: peers closed since the start, for each reason that occurred.
    """

    connections: int
    waiting: int
    held: int
    unanswered: int
    unanswered_size: int
    requests: int
    closed: dict[CloseReason, int]
