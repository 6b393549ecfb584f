"""What a server grants its peers, each bound under its name. Sizes of single fields are ``protocol.spec``'s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Final

from rallypoint.protocol.session.spec import SESSION_TIMEOUT_MS_MAX
from rallypoint.protocol.spec import REQUEST_SIZE_MAX, VALUE_STORED_SIZE_MAX

__all__ = [
    "DEFAULT_LIMITS",
    "DRAIN_S",
    "GRACE_S",
    "LINGER_S",
    "MOST",
    "NUMBER_MAX",
    "OUTPUT_LOOK_S",
    "SESSION_RESTART_GRACE_S",
    "SPIN_US_MAX",
    "STALL_S",
    "STEP_REQUESTS_MAX",
    "TLS_HANDSHAKES_MAX",
    "Limits",
]

DRAIN_S = 2.0
"""How long pending replies may take to go out when a server stops, in seconds."""

LINGER_S = 1.0
"""How long a refused peer may take to read the end of its stream, in seconds."""

OUTPUT_LOOK_S = 0.05
"""How often a server counts what peers leave unread, in seconds, while there is any."""

STALL_S = 1.0
"""A deadline that is looked at so late, in seconds, means that the server stood still."""

GRACE_S = 2.0
"""How much longer sessions without a connection, and leases, live when the server stood still, in seconds."""

SESSION_RESTART_GRACE_S = 10.0
"""How long, in seconds, a session may take at least to come back to a server that was started again on its data.

However short the time for which it asked: its client could not come back earlier, and pauses between its attempts.
"""

TLS_HANDSHAKES_MAX = 4096
"""TLS handshakes that are under way at one time; each takes some 30 KiB."""

STEP_REQUESTS_MAX = 256
"""Requests of one session that are served before others have their turn."""

SPIN_US_MAX = 1000
"""How long a server may look for the next request before it sleeps, in microseconds."""

MOST: Final[Mapping[str, float]] = {
    "input_size_max": REQUEST_SIZE_MAX,
    "value_stored_size_max": VALUE_STORED_SIZE_MAX,
    "session_timeout_s_max": SESSION_TIMEOUT_MS_MAX / 1000,
}
"""The bounds that the wire sets to some of the limits; the others may be as high as a number goes."""

NUMBER_MAX = (1 << 63) - 1
"""As high as a number goes."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one server.

    A peer that passes a bound is closed, with a reason, and nobody else notices; only ``output_size_max`` makes
    a peer wait instead. In the session dialect a request that would pass one is refused, and its peer stays. Validated
    peers may stay idle for ever: torch's clients do, and never reconnect.

    Attributes:
        handshake_timeout_s: seconds from connecting to a complete VALIDATE.
        connections_max: peers at one time. If all of them are there, the one whose handshake has been under way for the
            longest makes room for a newcomer.
        connections_per_address_max: peers from one address that have said something; many ranks may share one behind
            a NAT. A network of 64 bits of IPv6 counts as one. Unix domain sockets have none.
        handshakes_max: peers whose handshake is under way; over it the oldest of these is closed, so that a flood of
            silent connections keeps nobody out. Half of the server's descriptors at most.
        input_size_max: bytes of one request.
        input_total_max: bytes held of begun requests, all peers together; over it the peer that holds the most is
            closed. Bytes as sent: for lists of very short items Python's objects take up to eight times that.
        output_size_max: bytes of replies one peer may cause in one step before it is paused until they are sent. One
            request's reply is never cut, so a step gives at most this and one reply.
        output_total_max: bytes of replies that all peers together leave unread; over it the peer that holds the most is
            closed, and its replies are dropped. A value above 4 KiB counts once, however many it is owed to, and each
            of those holds an equal share of it. Counted each ``OUTPUT_LOOK_S``.
        waited_names_max: names that all peers in WAIT wait for, a name counted for each of them; about 250 bytes each
            if no two are alike. At so many waits of any kind a QUEUE_POP does not wait either.
        value_stored_size_max: bytes of one stored value; only APPEND can come near.
        stored_size_max: bytes of all keys, values and queue items together, ``keyspace.ENTRY_SIZE`` added for each.
        keys_max: keys at one time; queues and their items are not keys.
        prefix_keys_max: keys that one READ_PREFIX or LIST_PREFIX gives; if more begin so, it is refused.
        sessions_max: sessions, with or without a connection.
        session_timeout_s_max: seconds that a session may outlive its connection by.
        session_waits_max: requests of one session that wait at one time.
        session_answers_max: answers kept for one session because its client has not said that it holds them.
        session_answers_size_max: bytes of these.
        answers_size_max: bytes of the answers kept for all sessions; a body that many share counts once. At the bound
            a session that keeps less than its equal share goes on, so that up to twice as many are kept.
        groups_max: barriers and exchanges, those included that are remembered; at the bound the longest idle is
            forgotten, and a newcomer refused only if members wait in all.
        group_members_max: members of all of them, those included that are remembered; about 500 bytes each.
        group_values_size_max: bytes of the values of all exchanges that wait.
        leases_max: leases at one time.
        watches_max: watches at one time.
        session_watches_max: watches of one session.
        watch_events_max: events kept for one watch whose session does not read; over it they become one MISSED.
        watch_events_size_max: bytes of these.
        events_size_max: bytes of the events kept for all watches.

    Raises:
        ValueError: a bound is not above 0, or above what the wire allows.
    """

    handshake_timeout_s: float = 20.0
    connections_max: int = 100_000
    connections_per_address_max: int = 1 << 15
    handshakes_max: int = 1 << 13
    input_size_max: int = REQUEST_SIZE_MAX
    input_total_max: int = 1 << 30
    output_size_max: int = 1 << 20
    output_total_max: int = 1 << 33
    waited_names_max: int = 1 << 22
    value_stored_size_max: int = VALUE_STORED_SIZE_MAX
    stored_size_max: int = 64 << 30
    keys_max: int = 1 << 28
    prefix_keys_max: int = 1 << 14
    sessions_max: int = 200_000
    session_timeout_s_max: float = 600.0
    session_waits_max: int = 1 << 12
    session_answers_max: int = 1 << 16
    session_answers_size_max: int = 1 << 28
    answers_size_max: int = 1 << 30
    groups_max: int = 1 << 16
    group_members_max: int = 1 << 21
    group_values_size_max: int = 1 << 30
    leases_max: int = 1 << 18
    watches_max: int = 1 << 18
    session_watches_max: int = 1 << 14
    watch_events_max: int = 1024
    watch_events_size_max: int = 1 << 20
    events_size_max: int = 1 << 28

    def __post_init__(self) -> None:
        for field in fields(self):
            bound = getattr(self, field.name)
            if not bound > 0:
                raise ValueError(f"{field.name} is {bound}, it must be above 0")
            if (most := MOST.get(field.name)) is not None and bound > most:
                raise ValueError(f"{field.name} is {bound}, it must be {most} at most")

    def compiled(self) -> tuple[float, ...]:
        """Give the bounds as the compiled twin takes them, in their order."""
        return tuple(min(bound, NUMBER_MAX) for bound in astuple(self))


DEFAULT_LIMITS: Final = Limits()
