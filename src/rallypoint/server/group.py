"""One barrier or exchange: its seats, what is known of them, and the words in which the table of groups speaks.

Rules:

- Members are named first come first for those who wait, by rank for those who are missing, in the order of their end
  for those who are gone; not more than ``MEMBERS_NAMED_MAX`` of each.
- Whom ``look`` has found is named until somebody arrives; in a large group until as many have arrived that the cost of
  looking again is theirs.

Theory of operation. Members that share a deadline give up one after another. Each would find those before it missing;
the last would be told that all are. So the picture stays as it was taken for the first of them, only those that have
arrived since are taken out::

    arrive, arrive, arrive, cancel -> look: missing [3], cancel -> [3], cancel -> [3], arrive, cancel -> look: ...

What this file does not know: other groups, limits, sessions' ends.
"""

from __future__ import annotations

from itertools import islice
from typing import NamedTuple, TypeAlias

from rallypoint.protocol.session.spec import MEMBERS_NAMED_MAX
from rallypoint.protocol.spec import CloseReason

__all__ = [
    "Arrival",
    "Expired",
    "Forgotten",
    "Group",
    "GroupView",
    "Lost",
    "Member",
    "Met",
    "Outcome",
    "Refused",
    "Seat",
    "Seated",
]

Member: TypeAlias = tuple[int, bytes, int]
"""Rank, label, and the milliseconds since its arrival or end, -1 if it was never seen."""


class Arrival(NamedTuple):
    """A member comes.

    Attributes:
        kind: MEET or EXCHANGE.
        name: of the group.
        rank: its place, below ``size``.
        size: how many members there are.
        label: what it is called in errors.
        value: what it gives; empty for MEET.
        session: the number of its session.
        request: the id of its request, above 0.
    """

    kind: int
    name: bytes
    rank: int
    size: int
    label: bytes
    value: bytes
    session: int
    request: int


class Seated(NamedTuple):
    """A member of a generation that has met, with the request that it waits for."""

    session: int
    request: int
    label: bytes


class Met(NamedTuple):
    """All are here. ``members`` and ``values`` are by rank; ``values`` is empty for MEET."""

    kind: int
    name: bytes
    generation: int
    members: list[Seated]
    values: list[bytes]


class Lost(NamedTuple):
    """These requests wait in vain: some members are gone, the first of them ``(rank, label, milliseconds)``."""

    waiting: list[tuple[int, int]]
    gone: list[Member]


class Refused(NamedTuple):
    """This request is not a member, or no longer."""

    session: int
    request: int
    reason: CloseReason
    sentence: str


class Forgotten(NamedTuple):
    """Nothing is known any more of the group's last generation."""

    kind: int
    name: bytes


Outcome: TypeAlias = Met | Lost | Refused | Forgotten


class Expired(NamedTuple):
    """Who is missing and who waits, ``(rank, label, milliseconds)`` each: not more than ``MEMBERS_NAMED_MAX``.

    The milliseconds are since the member's arrival or end, -1 if it was never seen.
    """

    missing: list[Member]
    waiting: list[Member]


class GroupView(NamedTuple):
    """A group in which somebody waits, or has waited. ``arrived`` is how many wait now."""

    kind: int
    name: bytes
    generation: int
    size: int
    arrived: int
    members: Expired
    gone: list[Member]


class Seat:
    """One member's place. ``request`` is 0 unless it waits, ``met`` the last generation in which it took part."""

    __slots__ = ("group", "label", "met", "rank", "request", "session", "since", "value")

    def __init__(self, group: Group, rank: int, session: int) -> None:
        self.group = group
        self.rank = rank
        self.session = session
        self.label = b""
        self.value = b""
        self.request = 0
        self.met = 0
        self.since = 0.0


class Group:
    """One group.

    Attributes:
        mates: how many of those who wait took part in the last generation.
        horizon: the youngest session at the last loss.
        values_size: bytes of the values of those who wait.
        missing, waiting: the members last named, ``None`` for ``missing`` if nobody has been.
        fresh: arrivals since then.
    """

    __slots__ = (
        "arrived",
        "fresh",
        "generation",
        "gone",
        "horizon",
        "kind",
        "mates",
        "missing",
        "name",
        "others",
        "size",
        "values_size",
        "waiting",
    )

    def __init__(self, kind: int, name: bytes, size: int) -> None:
        self.kind = kind
        self.name = name
        self.size = size
        self.generation = 0
        self.arrived: dict[int, Seat] = {}
        self.others: dict[int, Seat] = {}
        self.gone: dict[int, Seat] = {}
        self.mates = 0
        self.horizon = 0
        self.values_size = 0
        self.missing: list[tuple[int, bytes, float | None]] | None = None
        self.waiting: list[tuple[int, bytes, float]] = []
        self.fresh = 0

    def seat(self, rank: int) -> Seat | None:
        """Give what is known of a place."""
        return self.arrived.get(rank) or self.others.get(rank) or self.gone.get(rank)

    def is_mate(self, seat: Seat) -> bool:
        """Tell whether a seat took part in the last generation."""
        return 0 < seat.met == self.generation

    def look(self) -> None:
        """Remember who is missing and who waits, unless that is known well enough."""
        arrived = self.arrived
        if self.missing is not None and self.fresh * MEMBERS_NAMED_MAX < max(len(arrived), 1):
            self.missing = [entry for entry in self.missing if entry[0] not in arrived]
            if self.missing:
                return
        absent = islice((rank for rank in range(self.size) if rank not in arrived), MEMBERS_NAMED_MAX)
        self.missing = []
        for rank in absent:
            seat = self.others.get(rank) or self.gone.get(rank)
            self.missing.append((rank, b"", None) if seat is None else (rank, seat.label, seat.since))
        self.waiting = [(seat.rank, seat.label, seat.since) for seat in islice(arrived.values(), MEMBERS_NAMED_MAX + 1)]
        self.fresh = 0

    def named(self, but: int, now: float) -> Expired:
        """Give those whom ``look`` has found, the member of rank ``but`` left out."""
        missing = [(rank, label, _since_ms(since, now)) for rank, label, since in self.missing or () if rank != but]
        waiting = [(rank, label, _since_ms(since, now)) for rank, label, since in self.waiting if rank != but]
        return Expired(missing, waiting[:MEMBERS_NAMED_MAX])

    def named_gone(self, now: float) -> list[Member]:
        """Give those who are gone."""
        first = islice(self.gone.values(), MEMBERS_NAMED_MAX)
        return [(seat.rank, seat.label, _since_ms(seat.since, now)) for seat in first]


def _since_ms(since: float | None, now: float) -> int:
    return -1 if since is None else max(int((now - since) * 1000), 0)
