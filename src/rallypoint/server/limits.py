"""What a server grants its peers, each bound under its name. Sizes of single fields are ``protocol.spec``'s."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

from rallypoint.protocol.spec import REQUEST_SIZE_MAX, VALUE_STORED_SIZE_MAX

__all__ = ["DEFAULT_LIMITS", "DRAIN_S", "LINGER_S", "SPIN_US_MAX", "Limits"]

DRAIN_S = 2.0
"""How long pending replies may take to go out when a server stops, in seconds."""

LINGER_S = 1.0
"""How long a refused peer may take to read the end of its stream, in seconds."""

SPIN_US_MAX = 1000
"""How long a server may look for the next request before it sleeps, in microseconds."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    A peer that passes a bound is closed, with a reason, and nobody else notices; only ``output_size_max`` makes
    a peer wait instead. Validated peers may stay idle for ever: torch's clients do, and never reconnect.

    Attributes:
        handshake_timeout_s: seconds from connecting to a complete VALIDATE.
        connections_max: peers at one time.
        input_size_max: bytes of one request.
        input_total_max: bytes held of begun requests, all peers together; over it the peer that holds the most is
            closed. Bytes as sent: for lists of very short items Python's objects take up to eight times that.
        output_size_max: bytes of replies one peer may cause in one step before it is paused until they are sent. One
            request's reply is never cut, so a step gives at most this and one reply.
        waited_names_max: names that all peers in WAIT wait for, a name counted for each of them; about 250 bytes each
            if no two are alike.
        value_stored_size_max: bytes of one stored value; only APPEND can come near.
        stored_size_max: bytes of all keys, values and queue items together, ``keyspace.ENTRY_SIZE`` added for each.

    Raises:
        ValueError: a bound is not above 0.
    """

    handshake_timeout_s: float = 20.0
    connections_max: int = 100_000
    input_size_max: int = REQUEST_SIZE_MAX
    input_total_max: int = 1 << 30
    output_size_max: int = 1 << 20
    waited_names_max: int = 1 << 22
    value_stored_size_max: int = VALUE_STORED_SIZE_MAX
    stored_size_max: int = 64 << 30

    def __post_init__(self) -> None:
        for field in fields(self):
            bound = getattr(self, field.name)
            if not bound > 0:
                raise ValueError(f"{field.name} is {bound}, it must be above 0")


DEFAULT_LIMITS: Final = Limits()
