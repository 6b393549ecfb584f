"""The layout of a server's status documents: what ``store.status(section)`` and ``rallypoint status --json`` give.

``version`` is that of this layout. Fields may be added within a version, so readers ignore those they do not know.
Times are ages and durations in seconds on the server's clock, sizes are bytes, names of keys are as users write them.
"""

from __future__ import annotations

from typing import Final, TypeAlias

import msgspec

from rallypoint.observe.figures import Bound, Now, Rates, Totals

__all__ = [
    "SECTIONS",
    "VERSION",
    "BarrierEntry",
    "Barriers",
    "Bound",
    "Document",
    "KeyEntry",
    "Keys",
    "LeaseEntry",
    "Leases",
    "MemberEntry",
    "Now",
    "Overview",
    "PeerEntry",
    "Peers",
    "Rates",
    "RefusalEntry",
    "Refusals",
    "SessionEntry",
    "Sessions",
    "Totals",
    "WaitEntry",
    "WatchEntry",
    "Watches",
    "read",
]

VERSION: Final = 1
"""The version of this layout."""


class Document(msgspec.Struct):
    """What all documents have.

    Attributes:
        version: of the layout.
        section: what the document is about.
    """

    version: int
    section: str


class _List(Document):
    """A document with a list.

    Attributes:
        total: how many entries there are.
        left_out: how many of them the list does not show.
    """

    total: int
    left_out: int


# --- overview --------------------------------------------------------------------------------------------


class Overview(Document):
    """The server in numbers.

    Attributes:
        rallypoint: the package's version.
        twin: ``python`` or ``native``.
        dialects: what it speaks.
        life: the id of this life of the server.
        data: the id of what it holds: the same after a restart that has lost nothing.
        uptime_s: since when it serves.
        now: what there is.
        totals: what there was.
        rates: what there is in a second.
        closed: connections that the server has closed since the start, by reason.
        limits: by the names of ``rallypoint.server.limits``.
    """

    rallypoint: str
    twin: str
    dialects: list[str]
    life: str
    data: str
    uptime_s: float
    now: Now
    totals: Totals
    rates: Rates
    closed: dict[str, int]
    limits: dict[str, Bound]


# --- who is there ----------------------------------------------------------------------------------------


class WaitEntry(msgspec.Struct):
    """What somebody waits for.

    Attributes:
        verb: of the request that waits.
        names: the keys, the queue or the barrier.
        names_left_out: how many there are besides.
        since_s: for how long.
    """

    verb: str
    names: list[str]
    names_left_out: int
    since_s: float


class PeerEntry(msgspec.Struct):
    """One connection.

    Attributes:
        peer: its number.
        dialect: ``c10d``, ``session``, or empty before its first byte.
        is_validated: its handshake is done.
        address: where it comes from.
        identity: whom it has proven to be.
        label: what it calls itself.
        session: the number of its session.
        age_s: for how long it has been there.
        received_size: bytes that came from it.
        sent_size: bytes of the answers that it has caused.
        input_size: bytes of begun requests.
        is_paused: its output is to be sent first.
        waits: the first of what it waits for.
    """

    peer: int
    dialect: str
    is_validated: bool
    address: str
    identity: str
    label: str
    session: int | None
    age_s: float
    received_size: int
    sent_size: int
    input_size: int
    is_paused: bool
    waits: list[WaitEntry]


class Peers(_List):
    """All connections."""

    peers: list[PeerEntry]


class SessionEntry(msgspec.Struct):
    """One session.

    Attributes:
        session: its number in this life of the server.
        identity: whom its client has proven to be.
        label: what its client calls itself.
        peer: its connection; ``None`` while it has none.
        age_s: for how long it has been there.
        timeout_s: how long it outlives its connection.
        ends_in_s: when it ends without one; ``None`` while it has one.
        answers: kept for it.
        answers_size: their bytes.
        pending: requests that wait.
        waits: the first of them.
    """

    session: int
    identity: str
    label: str
    peer: int | None
    age_s: float
    timeout_s: float
    ends_in_s: float | None
    answers: int
    answers_size: int
    pending: int
    waits: list[WaitEntry]


class Sessions(_List):
    """All sessions."""

    sessions: list[SessionEntry]


# --- what they share -------------------------------------------------------------------------------------


class MemberEntry(msgspec.Struct):
    """One member of a barrier or an exchange; ``since_s``: since it came or was lost, ``None`` if it was never seen."""

    rank: int
    label: str
    since_s: float | None


class BarrierEntry(msgspec.Struct):
    """One barrier or exchange.

    Attributes:
        kind: ``barrier``, ``exchange``, or ``c10d`` for a BARRIER, whose members have no ranks.
        name: its name.
        generation: the last that has met.
        members: how many it has.
        arrived: how many are there.
        missing: the first of those who are not.
        waiting: the first of those who are.
        gone: the first of those who are known to be gone.
    """

    kind: str
    name: str
    generation: int
    members: int
    arrived: int
    missing: list[MemberEntry]
    waiting: list[MemberEntry]
    gone: list[MemberEntry]


class Barriers(_List):
    """All barriers and exchanges."""

    barriers: list[BarrierEntry]


class LeaseEntry(msgspec.Struct):
    """One lease; without ``ttl_s`` and ``left_s`` it ends with its session."""

    lease: int
    session: int
    identity: str
    ttl_s: float | None
    left_s: float | None
    keys: int


class Leases(_List):
    """All leases."""

    leases: list[LeaseEntry]


class WatchEntry(msgspec.Struct):
    """One watch: whose it is, and how many events are kept for it."""

    session: int
    key: str
    is_prefix: bool
    kept: int
    has_missed: bool


class Watches(_List):
    """All watches."""

    watches: list[WatchEntry]


class RefusalEntry(msgspec.Struct):
    """A connection that the server has closed: how long ago, where it came from, why."""

    age_s: float
    address: str
    reason: str
    detail: str


class Refusals(_List):
    """The connections closed last, the last one first."""

    refusals: list[RefusalEntry]


class KeyEntry(msgspec.Struct, omit_defaults=True):
    """One key or one queue.

    Attributes:
        key: its name.
        size: bytes of its value or its items.
        revision: of the change that wrote it last; ``None`` for a queue.
        items: in a queue; ``None`` for a key.
        value: the beginning of its value in base64, if it was asked for.
    """

    key: str
    size: int
    revision: int | None = None
    items: int | None = None
    value: str | None = None


class Keys(_List):
    """All keys and queues with a prefix."""

    prefix: str
    keys: list[KeyEntry]


AnyDocument: TypeAlias = "Overview | Peers | Sessions | Barriers | Leases | Watches | Refusals | Keys"

SECTIONS: Final[dict[str, type[Document]]] = {
    "overview": Overview,
    "peers": Peers,
    "sessions": Sessions,
    "barriers": Barriers,
    "leases": Leases,
    "watches": Watches,
    "refusals": Refusals,
    "keys": Keys,
    "values": Keys,
}
"""The layout of each section."""


def read(document: object) -> Document:
    """Give a document as its Struct.

    Args:
        document: as ``store.status`` gives it.

    Raises:
        ValueError: it is none, or of a newer version; the sentence says which field is wrong.
    """
    head = msgspec.convert(document, Document)
    if head.version != VERSION:
        raise ValueError(f"the status has version {head.version}, this program reads version {VERSION}")
    kind = SECTIONS.get(head.section)
    if kind is None:
        raise ValueError(f"the status has the section {head.section!r}, this program reads {', '.join(SECTIONS)}")
    return msgspec.convert(document, kind)
