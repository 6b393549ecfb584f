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

from rallypoint.protocol.spec import Kind, Verb

__all__ = [
    "CLOSING_ID",
    "DELETED_KEYS_MAX",
    "EXPIRED_FIELDS",
    "GROUP_SIZE_MAX",
    "HELLO_SIZE_MAX",
    "LABEL_SIZE_MAX",
    "LEASE_TTL_MS_MAX",
    "MEMBERS_NAMED_MAX",
    "NONCE_SIZE",
    "NO_REVISION",
    "OPENING",
    "PROOF_SIZE",
    "REPLY_FRAME_SIZE_MAX",
    "SESSION_ID_SIZE",
    "SESSION_TIMEOUT_MS_MAX",
    "SESSION_VERBS",
    "STATUS_FIELDS",
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

DELETED_KEYS_MAX: Final = 4096
"""Keys that one DELETE_PREFIX removes; who is answered so many asks again."""

GROUP_SIZE_MAX: Final = 1 << 20
"""Members of one barrier or exchange."""

MEMBERS_NAMED_MAX: Final = 128
"""Members that one EXPIRED or LOST names of each kind; where it names that many, there may be more."""

SESSION_TIMEOUT_MS_MAX: Final = 24 * 3600 * 1000
"""The longest time, in milliseconds, that a session may ask to outlive its connection by."""

LEASE_TTL_MS_MAX: Final = 365 * 24 * 3600 * 1000
"""The longest time to live of a lease, in milliseconds."""

NO_REVISION: Final = 0
"""The revision of a key that is absent."""

CLOSING_ID: Final = 0
"""The request id of what belongs to no request: HELLO, PROVE, CANCEL and UNWATCH, the handshake's replies, CLOSING."""


@unique
class SessionVerb(IntEnum):
    """The byte that says what a client's frame asks for."""

    SET = Verb.SET.value
    COMPARE_SET = Verb.COMPARE_SET.value
    GET = Verb.GET.value
    ADD = Verb.ADD.value
    CHECK = Verb.CHECK.value
    WAIT = Verb.WAIT.value
    GETNUMKEYS = Verb.GETNUMKEYS.value
    DELETE_KEY = Verb.DELETE_KEY.value
    APPEND = Verb.APPEND.value
    MULTI_GET = Verb.MULTI_GET.value
    MULTI_SET = Verb.MULTI_SET.value
    PING = Verb.PING.value
    QUEUE_PUSH = Verb.QUEUE_PUSH.value
    QUEUE_POP = Verb.QUEUE_POP.value
    QUEUE_LEN = Verb.QUEUE_LEN.value
    LIST_KEYS = Verb.LIST_KEYS.value
    BARRIER = Verb.BARRIER.value
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
    """What one field is. The value is its Shape: c10d's, where both have one of this name."""

    U8 = Kind.U8.value
    U32 = Kind.U32.value
    I64 = Kind.I64.value
    KEY = Kind.KEY.value
    VALUE = Kind.VALUE.value
    KEYS = Kind.KEYS.value
    PAIRS = Kind.PAIRS.value
    # Replies only.
    STORED = Kind.STORED.value
    STORED_EACH = "one STORED for each key of the request, or for each member of the exchange by its rank"
    LISTED = Kind.LISTED.value
    ENTRIES = "i64 n · n * (KEY · i64 revision · STORED)"
    MEMBERS = "i64 n · n * (u32 rank · KEY label · i64 milliseconds since its arrival or end, -1 if never seen)"


class SessionVerbSpec(NamedTuple):
    """One row of the table.

    Attributes:
        request: the fields after the header.
        reply: the fields of an OK.
        is_write: it changes what is stored, so its answer is kept until the client's ``done`` passes it.
        is_deferred: its OK may be long in coming, and CANCEL ends the wait for it.
        is_answered: it gets a reply.
        names: what the fields are, request's and reply's, for people.
        purpose: what it does, one or two sentences for people.
    """

    request: tuple[Field, ...]
    reply: tuple[Field, ...]
    is_write: bool
    is_deferred: bool
    is_answered: bool
    names: tuple[tuple[str, ...], tuple[str, ...]]
    purpose: str


def _row(
    request: str, reply: str | None, purpose: str, is_write: bool = False, is_deferred: bool = False
) -> SessionVerbSpec:
    """Make a row of ``FIELD what it is, ...`` twice."""
    taken, given = _fields(request), _fields(reply or "")
    return SessionVerbSpec(
        tuple(Field[kind] for kind, _ in taken),
        tuple(Field[kind] for kind, _ in given),
        is_write,
        is_deferred,
        reply is not None,
        (tuple(name for _, name in taken), tuple(name for _, name in given)),
        purpose,
    )


def _fields(text: str) -> list[tuple[str, str]]:
    return [(kind, name) for kind, _, name in (part.partition(" ") for part in text.split(", ") if part)]


_WELCOME = (
    "KEY session id, U8 1 if it was resumed, KEY id of the data, KEY id of this life of the server, "
    "KEY proof or empty without a token, I64 milliseconds granted, I64 revision"
)

SESSION_VERBS: Final[Mapping[SessionVerb, SessionVerbSpec]] = MappingProxyType(
    {
        SessionVerb.SET: _row("KEY key, VALUE value", "I64 revision", "Stores a value.", is_write=True),
        SessionVerb.COMPARE_SET: _row(
            "KEY key, VALUE expected, VALUE desired",
            "STORED value now",
            "Stores ``desired`` if the key has ``expected``, or is absent and that is empty; answers as in c10d.",
            is_write=True,
        ),
        SessionVerb.GET: _row("KEY key", "STORED value", "Reads a value, waiting for its key.", is_deferred=True),
        SessionVerb.ADD: _row("KEY key, I64 amount", "I64 sum", "Adds to a number in decimal text.", is_write=True),
        SessionVerb.CHECK: _row("KEYS keys", "U8 READY or NOT_READY", "Tells whether all names are present."),
        SessionVerb.WAIT: _row("KEYS keys", "", "Waits until all names are present.", is_deferred=True),
        SessionVerb.GETNUMKEYS: _row("", "I64 number", "Counts the keys."),
        SessionVerb.DELETE_KEY: _row("KEY key", "I64 how many were removed", "Removes a key.", is_write=True),
        SessionVerb.APPEND: _row("KEY key, VALUE value", "I64 revision", "Adds to a value's end.", is_write=True),
        SessionVerb.MULTI_GET: _row(
            "KEYS keys", "STORED_EACH values", "Reads several values, waiting for all their keys.", is_deferred=True
        ),
        SessionVerb.MULTI_SET: _row(
            "PAIRS keys and values", "I64 revision", "Stores several values, all or none.", is_write=True
        ),
        SessionVerb.PING: _row("U32 number", "U32 the same", "Does nothing."),
        SessionVerb.QUEUE_PUSH: _row(
            "KEY queue, VALUE item", "I64 length after", "Puts an item at a queue's end.", is_write=True
        ),
        SessionVerb.QUEUE_POP: _row(
            "KEY queue",
            "STORED item",
            "Takes a queue's oldest item, waiting for one.",
            is_write=True,
            is_deferred=True,
        ),
        SessionVerb.QUEUE_LEN: _row("KEY queue", "I64 length", "Counts a queue's items."),
        SessionVerb.LIST_KEYS: _row("", "LISTED keys", "Names all keys."),
        SessionVerb.BARRIER: _row(
            "KEY key, I64 world size",
            "",
            "c10d's barrier: counts in the key, waits until the count is the world size; a name serves once.",
            is_write=True,
            is_deferred=True,
        ),
        SessionVerb.HELLO: _row(
            "U32 version, KEY session id or empty for a new one, KEY identity or empty, KEY label, KEY nonce, "
            "I64 milliseconds that the session is to outlive its connection by",
            _WELCOME,
            "Begins a session or goes on with one. A server with a token answers CHALLENGE.",
        ),
        SessionVerb.PROVE: _row("KEY proof", _WELCOME, "Proves that the client has the token."),
        SessionVerb.BYE: _row("", "", "Ends the session, with its leases and waits."),
        SessionVerb.CANCEL: _row(
            "I64 request id", None, "Ends a wait: the request is answered EXPIRED if it has not been answered."
        ),
        SessionVerb.READ: _row(
            "KEY key", "I64 revision or NO_REVISION, STORED value", "Reads a value as it is now, without waiting."
        ),
        SessionVerb.SWAP: _row(
            "KEY key, I64 revision it must have or -1 for any, VALUE value, I64 lease or 0",
            "U8 1 if swapped, I64 revision now",
            "Stores a value if the key has not changed; NO_REVISION means that it must be absent. With a lease, the "
            "key is deleted when that ends.",
            is_write=True,
        ),
        SessionVerb.READ_PREFIX: _row("KEY prefix", "ENTRIES entries", "Reads all keys that begin so."),
        SessionVerb.LIST_PREFIX: _row("KEY prefix", "LISTED keys", "Names all keys that begin so."),
        SessionVerb.DELETE_PREFIX: _row(
            "KEY prefix",
            "I64 how many were removed",
            "Removes the keys that begin so, the first 4096 of them at one time: who is answered so many asks again.",
            is_write=True,
        ),
        SessionVerb.LEASE_GRANT: _row(
            "I64 milliseconds to live or 0 as long as the session",
            "I64 lease",
            "Grants a lease. Its number is above 0 and above all before: it is also a fencing token.",
            is_write=True,
        ),
        SessionVerb.LEASE_RENEW: _row("I64 lease", "I64 milliseconds until it ends", "Has a lease live on."),
        SessionVerb.LEASE_REVOKE: _row(
            "I64 lease", "I64 how many keys went with it", "Ends a lease; its keys are deleted.", is_write=True
        ),
        SessionVerb.WATCH: _row(
            "KEY key, U8 1 if it is a prefix, I64 revision that the client has seen or -1 for now",
            "I64 revision now",
            "Asks for an EVENT under this request's id for each change from now on.",
        ),
        SessionVerb.UNWATCH: _row("I64 request id of the WATCH", None, "Ends a watch."),
        SessionVerb.MEET: _row(
            "KEY name, U32 rank, U32 how many members, KEY label",
            "I64 generation",
            "A barrier: answers all when the last has come. Generations count from 1; a name serves for ever.",
            is_write=True,
            is_deferred=True,
        ),
        SessionVerb.EXCHANGE: _row(
            "KEY name, U32 rank, U32 how many members, KEY label, VALUE value",
            "I64 generation, STORED_EACH values by rank",
            "As MEET, and everybody gets what everybody gave.",
            is_write=True,
            is_deferred=True,
        ),
        SessionVerb.STATUS: _row(
            "KEY section",
            "STORED JSON",
            "Describes the server: empty for an overview, ``peers``, ``sessions``, ``barriers``, ``leases``, "
            "``watches``, ``refusals``, or ``keys/`` or ``values/`` and a prefix.",
        ),
    }
)
"""The wire: verb -> layouts and rules."""

EXPIRED_FIELDS: Final[Mapping[SessionVerb, tuple[Field, ...]]] = MappingProxyType(
    {
        verb: (Field.MEMBERS, Field.MEMBERS) if verb >= SessionVerb.MEET else (Field.LISTED,)
        for verb, row in SESSION_VERBS.items()
        if row.is_deferred
    }
)
"""What EXPIRED says: the missing names (a queue's, a barrier's own); for groups the missing members, those waiting."""

STATUS_FIELDS: Final[Mapping[Status, tuple[Field, ...]]] = MappingProxyType(
    {
        Status.REFUSED: (Field.KEY, Field.KEY),
        Status.LOST: (Field.MEMBERS,),
        Status.EVENT: (Field.U8, Field.KEY, Field.STORED, Field.I64),
        Status.CHALLENGE: (Field.KEY,),
        Status.CLOSING: (Field.KEY, Field.KEY),
    }
)
"""What the other statuses say: reason code (a ``CloseReason``'s value) and sentence; members gone; kind, key, value and
revision; nonce; reason code and sentence."""
