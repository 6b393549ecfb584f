"""The figures in a server's status: what there is, what there was, how fast, how near to a limit."""

from __future__ import annotations

import msgspec

__all__ = ["Bound", "Now", "Rates", "Totals"]


class Now(msgspec.Struct):
    """What there is at present.

    Attributes:
        connections: peers.
        validated: those of them whose handshake is done.
        paused: those of them whose output is to be sent first.
        sessions: with or without a connection.
        waiting: c10d peers and requests of sessions that wait.
        keys: how many.
        queues: with an item in them.
        groups: barriers and exchanges, those included that are remembered.
        leases: how many.
        watches: how many.
        stored_size: bytes of all keys, values and items, overhead included.
        input_size: bytes of begun requests.
        answers_size: bytes of answers that are kept for sessions.
    """

    connections: int
    validated: int
    paused: int
    sessions: int
    waiting: int
    keys: int
    queues: int
    groups: int
    leases: int
    watches: int
    stored_size: int
    input_size: int
    answers_size: int


class Totals(msgspec.Struct):
    """What there was since the start.

    Attributes:
        requests: taken.
        received_size: bytes that came.
        sent_size: bytes of the answers.
    """

    requests: int
    received_size: int
    sent_size: int


class Rates(msgspec.Struct):
    """What there is in a second, counted over the last ``over_s``."""

    over_s: float
    requests_per_s: float
    received_size_per_s: float
    sent_size_per_s: float


class Bound(msgspec.Struct):
    """How near a limit is."""

    used: int
    limit: int
