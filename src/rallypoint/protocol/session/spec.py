"""The session dialect as a table: frames, verbs, layouts, limits, all of them data.

Codecs walk this table, ``docs/reference/wire.md`` is made from it, and so is the compiled twin's. Nothing here decides
anything.

The wire in seven sentences. A connection opens with the four bytes ``OPENING``; everything after them is frames, both
ways. A client's frame is ``u32 size · u8 verb · u64 id · u64 done · fields``, a server's ``u32 size · u8 status ·
u64 id · fields``; ``size`` counts what follows it, and all integers are little-endian without padding. The first frame
is HELLO; if the server answers CHALLENGE, PROVE follows; after that come requests, each with an id that the client
gives out in rising order, from 1 on, for the whole life of its session. Every request but CANCEL and UNWATCH gets
exactly one reply, in any order; a watch gets events besides. ``done`` tells the server that the client holds the
replies to all its writes with ids below it: up to there the server forgets its answers. After a connection is lost,
a client opens another, says HELLO with its session's id, and sends again, in order and with their old ids, all requests
that were not answered; what the server has applied already is answered from its memory and not applied again.

Verbs 1 to 18 are those of the c10d dialect (``protocol.spec``) with the same request layouts, except that all are
answered, and that GET, MULTI_GET and QUEUE_POP wait until what they read is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum, unique
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = [
    "CLOSING_ID",
    "GROUP_SIZE_MAX",
    "HELLO_SIZE_MAX",
    "LABEL_SIZE_MAX",
    "LEASE_TTL_MS_MAX",
    "NONCE_SIZE",
    "NO_REVISION",
    "OPENING",
    "PROOF_SIZE",
    "REPLY_FRAME_SIZE_MAX",
    "SESSION_ID_SIZE",
    "SESSION_TIMEOUT_MS_MAX",
    "SESSION_VERBS",
    "VERSION",
    "EventKind",
    "Field",
    "SessionVerb",
    "SessionVerbSpec",
    "Status",
]

OPENING: Final = b"RPS1"
"""What a connection of this dialect begins with; c10d begins with 0x00, TLS with 0x16."""

VERSION: Final = 1
"""The version of this table that HELLO names."""

SESSION_ID_SIZE: Final = 16
"""Bytes of a session's id, also of the ids of a server's life and of its data."""

NONCE_SIZE: Final = 16
"""Bytes of either side's nonce."""

PROOF_SIZE: Final = 32
"""Bytes of a proof: HMAC-SHA256."""

LABEL_SIZE_MAX: Final = 256
"""Bytes of an identity, and of the label by which a client or a member is called in errors."""

HELLO_SIZE_MAX: Final = 4096
"""Bytes of a frame until the handshake is done."""

REPLY_FRAME_SIZE_MAX: Final = 1 << 30
"""Bytes of one reply; a request whose reply would be larger is refused."""

GROUP_SIZE_MAX: Final = 1 << 20
"""Members of one barrier or exchange."""

SESSION_TIMEOUT_MS_MAX: Final = 24 * 3600 * 1000
"""The longest time, in milliseconds, that a session may ask to outlive its connection by."""

LEASE_TTL_MS_MAX: Final = 365 * 24 * 3600 * 1000
"""The longest time to live of a lease, in milliseconds."""

NO_REVISION: Final = 0
"""The revision of a key that is absent."""

CLOSING_ID: Final = 0
"""The request id of what belongs to no request: the handshake's replies and CLOSING."""


@unique
class SessionVerb(IntEnum):
    """The byte that says what a client's frame asks for."""

    SET = 1
    COMPARE_SET = 2
    GET = 3
    ADD = 4
    CHECK = 5
    WAIT = 6
    GETNUMKEYS = 7
    DELETE_KEY = 8
    APPEND = 9
    MULTI_GET = 10
    MULTI_SET = 11
    PING = 13
    QUEUE_PUSH = 14
    QUEUE_POP = 15
    QUEUE_LEN = 16
    LIST_KEYS = 17
    BARRIER = 18
    HELLO = 32
    PROVE = 33
    BYE = 34
    CANCEL = 35
    READ = 36
    SWAP = 37
    READ_PREFIX = 38
    LIST_PREFIX = 39
    DELETE_PREFIX = 40
    LEASE_GRANT = 41
    LEASE_RENEW = 42
    LEASE_REVOKE = 43
    WATCH = 44
    UNWATCH = 45
    MEET = 46
    EXCHANGE = 47
    STATUS = 48


@unique
class Status(IntEnum):
    """The byte that says what a server's frame is."""

    OK = 0
    """The request was applied; the fields are its verb's."""
    EXPIRED = 1
    """The request was cancelled while it waited, and nothing came of it; the fields say what was missing."""
    REFUSED = 2
    """The request was not applied; the fields are a reason code and one sentence. The connection goes on."""
    LOST = 3
    """A member of the barrier or exchange is known to be gone; the fields name those that are."""
    EVENT = 4
    """Something happened to what the request ``id`` watches."""
    CHALLENGE = 5
    """The server wants a proof; the field is its nonce."""
    CLOSING = 6
    """The last frame of a connection; the fields are a reason code and one sentence."""


@unique
class EventKind(IntEnum):
    """What happened to a watched key."""

    SET = 0
    DELETED = 1
    MISSED = 2
    """Changes were dropped, or came while the connection was down: read again. Key and value are empty."""


@unique
class Field(Enum):
    """What one field is. The value is its Shape."""

    U8 = "u8"
    U32 = "u32"
    I64 = "i64"
    KEY = "u64 size <= KEY_SIZE_MAX · bytes"
    VALUE = "u64 size <= VALUE_SIZE_MAX · bytes"
    KEYS = "u64 n <= KEY_COUNT_MAX · n * KEY"
    PAIRS = "u64 n <= KEY_COUNT_MAX · n * (KEY · VALUE)"
    # Replies only.
    STORED = "u64 size · bytes"
    STORED_EACH = "one STORED for each key of the request, or for each member of the exchange by its rank"
    LISTED = "i64 n · n * KEY"
    ENTRIES = "i64 n · n * (KEY · i64 revision · STORED)"
    MEMBERS = "i64 n · n * (u32 rank · KEY label · i64 milliseconds since its arrival or end, -1 if never seen)"


class SessionVerbSpec(NamedTuple):
    """One row of the table.

    Attributes:
        request: the fields after the header.
        reply: the fields of an OK.
        is_write: it changes what is stored, so its answer is kept until the client's ``done`` passes it.
        is_deferred: its OK may be long in coming, and CANCEL ends the wait for it.
    """

    request: tuple[Field, ...]
    reply: tuple[Field, ...]
    is_write: bool = False
    is_deferred: bool = False


def _write(request: tuple[Field, ...], reply: tuple[Field, ...]) -> SessionVerbSpec:
    return SessionVerbSpec(request, reply, is_write=True)


_KEY, _VALUE, _I64, _U32, _U8 = Field.KEY, Field.VALUE, Field.I64, Field.U32, Field.U8

SESSION_VERBS: Final[Mapping[SessionVerb, SessionVerbSpec]] = MappingProxyType(
    {
        # Revision of the write.
        SessionVerb.SET: _write((_KEY, _VALUE), (_I64,)),
        # As in c10d: what is there now.
        SessionVerb.COMPARE_SET: _write((_KEY, _VALUE, _VALUE), (Field.STORED,)),
        SessionVerb.GET: SessionVerbSpec((_KEY,), (Field.STORED,), is_deferred=True),
        SessionVerb.ADD: _write((_KEY, _I64), (_I64,)),
        # READY or NOT_READY.
        SessionVerb.CHECK: SessionVerbSpec((Field.KEYS,), (_U8,)),
        SessionVerb.WAIT: SessionVerbSpec((Field.KEYS,), (), is_deferred=True),
        SessionVerb.GETNUMKEYS: SessionVerbSpec((), (_I64,)),
        # How many were removed.
        SessionVerb.DELETE_KEY: _write((_KEY,), (_I64,)),
        SessionVerb.APPEND: _write((_KEY, _VALUE), (_I64,)),
        SessionVerb.MULTI_GET: SessionVerbSpec((Field.KEYS,), (Field.STORED_EACH,), is_deferred=True),
        SessionVerb.MULTI_SET: _write((Field.PAIRS,), (_I64,)),
        SessionVerb.PING: SessionVerbSpec((_U32,), (_U32,)),
        # Length of the queue after the push.
        SessionVerb.QUEUE_PUSH: _write((_KEY, _VALUE), (_I64,)),
        SessionVerb.QUEUE_POP: SessionVerbSpec((_KEY,), (Field.STORED,), is_write=True, is_deferred=True),
        SessionVerb.QUEUE_LEN: SessionVerbSpec((_KEY,), (_I64,)),
        SessionVerb.LIST_KEYS: SessionVerbSpec((), (Field.LISTED,)),
        # c10d's barrier: counts in the key, world size; a name serves once.
        SessionVerb.BARRIER: SessionVerbSpec((_KEY, _I64), (), is_write=True, is_deferred=True),
        # Version · session's id, empty for a new one · identity, empty if the job has one token · label · nonce ·
        # milliseconds that the session is to outlive its connection by.  OK: session's id · 1 if resumed · id of the
        # server's data · id of the server's life · proof, empty without a token · the milliseconds granted · revision.
        SessionVerb.HELLO: SessionVerbSpec(
            (_U32, _KEY, _KEY, _KEY, _KEY, _I64), (_KEY, _U8, _KEY, _KEY, _KEY, _I64, _I64)
        ),
        # Proof. OK: as HELLO's.
        SessionVerb.PROVE: SessionVerbSpec((_KEY,), (_KEY, _U8, _KEY, _KEY, _KEY, _I64, _I64)),
        # Ends the session, with its leases and waits.
        SessionVerb.BYE: SessionVerbSpec((), ()),
        # Id of a request that waits: it is answered EXPIRED, if it has not been answered. No reply of its own.
        SessionVerb.CANCEL: SessionVerbSpec((_I64,), ()),
        # Revision, NO_REVISION if absent · value. Does not wait.
        SessionVerb.READ: SessionVerbSpec((_KEY,), (_I64, Field.STORED)),
        # Key · the revision that it must have, NO_REVISION absent, -1 any · value · lease, 0 for none.
        # OK: 1 if swapped · the revision now.
        SessionVerb.SWAP: _write((_KEY, _I64, _VALUE, _I64), (_U8, _I64)),
        SessionVerb.READ_PREFIX: SessionVerbSpec((_KEY,), (Field.ENTRIES,)),
        SessionVerb.LIST_PREFIX: SessionVerbSpec((_KEY,), (Field.LISTED,)),
        SessionVerb.DELETE_PREFIX: _write((_KEY,), (_I64,)),
        # Milliseconds to live, 0 as long as the session. OK: the lease, above 0, also a fencing token: they rise.
        SessionVerb.LEASE_GRANT: _write((_I64,), (_I64,)),
        # OK: milliseconds until it ends unless renewed.
        SessionVerb.LEASE_RENEW: SessionVerbSpec((_I64,), (_I64,)),
        # Deletes its keys. OK: how many there were.
        SessionVerb.LEASE_REVOKE: _write((_I64,), (_I64,)),
        # Key · 1 if it is a prefix · revision up to which the client knows, -1 for now. OK: the revision now. Events
        # under this request's id follow: u8 kind · KEY key · STORED value · I64 revision.
        SessionVerb.WATCH: SessionVerbSpec((_KEY, _U8, _I64), (_I64,)),
        # Id of the WATCH. No reply.
        SessionVerb.UNWATCH: SessionVerbSpec((_I64,), ()),
        # Name · rank · how many members · label. OK: the generation that has met, from 1 on.
        SessionVerb.MEET: SessionVerbSpec((_KEY, _U32, _U32, _KEY), (_I64,), is_write=True, is_deferred=True),
        # Name · rank · how many members · label · value. OK: generation · every member's value by rank.
        SessionVerb.EXCHANGE: SessionVerbSpec(
            (_KEY, _U32, _U32, _KEY, _VALUE), (_I64, Field.STORED_EACH), is_write=True, is_deferred=True
        ),
        # A JSON object of what is asked for: empty for an overview, "peers", "sessions", "barriers", "leases", or
        # "keys/" and a prefix.
        SessionVerb.STATUS: SessionVerbSpec((_KEY,), (Field.STORED,)),
    }
)
"""The wire: verb -> layouts and rules.

EXPIRED has ``LISTED`` missing names, for a queue its name, for BARRIER its name; for MEET and EXCHANGE ``MEMBERS``
missing and ``MEMBERS`` waiting. LOST has ``MEMBERS`` gone. REFUSED and CLOSING have ``KEY`` reason code · ``KEY``
sentence, the code being a ``CloseReason``'s value. CHALLENGE has ``KEY`` nonce. EVENT has ``U8`` kind · ``KEY`` key ·
``STORED`` value · ``I64`` revision.
"""
