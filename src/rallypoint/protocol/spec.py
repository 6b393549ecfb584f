"""The c10d wire as a table: verbs, layouts, limits and the words for a refusal, all of them data.

Codecs walk this table by layout, and so does whatever is generated from it or checked against it. Nothing here
decides anything.

The wire in five sentences. One TCP connection, both directions independent, no framing: a request is one verb
byte and then the fields of the verb's layout, and its length is known only by walking them. All integers are
little-endian without padding. There is no request id, no version and no error reply: the only way to refuse is
to close. Replies come in the order of the requests, except those of WAIT and BARRIER, which come when they
come. The first five bytes of a connection must be VALIDATE with the magic.

Source: bytes captured from a torch 2.13.0 server (``tests/support/vectors.jsonl``).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum, unique
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = [
    "CANCELLED",
    "GO_ON",
    "KEY_COUNT_MAX",
    "KEY_SIZE_MAX",
    "LISTED_COUNT_MAX",
    "MAGIC",
    "NOT_READY",
    "READY",
    "REPLY_SIZE_MAX",
    "REQUEST_SIZE_MAX",
    "VALUE_SIZE_MAX",
    "VALUE_STORED_SIZE_MAX",
    "VERBS",
    "CloseReason",
    "Kind",
    "Verb",
    "VerbSpec",
]

MAGIC: Final = 0x3C85F7CE
"""What VALIDATE carries; on the wire ``00 ce f7 85 3c``."""

KEY_SIZE_MAX: Final = 8192
"""Bytes of one key on the wire. torch puts a ``/`` in front of a user's key, which leaves 8191 to the user."""

VALUE_SIZE_MAX: Final = 8 * 1024 * 1024
"""Bytes of one value in a request."""

KEY_COUNT_MAX: Final = 131_072
"""Items of one list in a request."""

REQUEST_SIZE_MAX: Final = 256 * 1024 * 1024
"""Bytes of one whole request. torch has no such limit: a list may reach 1 TiB there."""

VALUE_STORED_SIZE_MAX: Final = 256 * 1024 * 1024
"""Bytes of one value in the store; APPEND may grow a value past ``VALUE_SIZE_MAX``, but not past this."""

REPLY_SIZE_MAX: Final = 1024 * 1024 * 1024
"""Bytes that a client believes one value of a reply to have. A torch server puts no limit on stored values."""

LISTED_COUNT_MAX: Final = 1 << 28
"""Keys that a client believes a LIST_KEYS reply to have."""

READY: Final = b"\x00"
"""CHECK: all keys are present."""

NOT_READY: Final = b"\x01"
"""CHECK: at least one key is absent."""

GO_ON: Final = b"\x00"
"""WAIT and BARRIER: released."""

CANCELLED: Final = b"\x01"
"""CANCEL_WAIT: whatever this connection waited for is forgotten."""


@unique
class Verb(IntEnum):
    """The operation byte that opens a request."""

    VALIDATE = 0
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
    CANCEL_WAIT = 12
    PING = 13
    QUEUE_PUSH = 14
    QUEUE_POP = 15
    QUEUE_LEN = 16
    LIST_KEYS = 17
    BARRIER = 18


@unique
class Kind(Enum):
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
    STORED_EACH = "one STORED for each key of the request, no count in front"
    POPPED = "i64 length before the pop · STORED if it was above 0"
    LISTED = "i64 n · n * KEY"


class VerbSpec(NamedTuple):
    """One row of the table.

    Attributes:
        request: the fields after the verb byte.
        reply: the fields of the reply; empty if the request has none.
        is_deferred: the reply may come later than replies to requests sent after this one.
    """

    request: tuple[Kind, ...]
    reply: tuple[Kind, ...]
    is_deferred: bool = False


VERBS: Final[Mapping[Verb, VerbSpec]] = MappingProxyType(
    {
        Verb.VALIDATE: VerbSpec((Kind.U32,), ()),
        Verb.SET: VerbSpec((Kind.KEY, Kind.VALUE), ()),
        Verb.COMPARE_SET: VerbSpec((Kind.KEY, Kind.VALUE, Kind.VALUE), (Kind.STORED,)),
        Verb.GET: VerbSpec((Kind.KEY,), (Kind.STORED,)),
        Verb.ADD: VerbSpec((Kind.KEY, Kind.I64), (Kind.I64,)),
        Verb.CHECK: VerbSpec((Kind.KEYS,), (Kind.U8,)),
        Verb.WAIT: VerbSpec((Kind.KEYS,), (Kind.U8,), is_deferred=True),
        Verb.GETNUMKEYS: VerbSpec((), (Kind.I64,)),
        Verb.DELETE_KEY: VerbSpec((Kind.KEY,), (Kind.I64,)),
        Verb.APPEND: VerbSpec((Kind.KEY, Kind.VALUE), ()),
        Verb.MULTI_GET: VerbSpec((Kind.KEYS,), (Kind.STORED_EACH,)),
        Verb.MULTI_SET: VerbSpec((Kind.PAIRS,), ()),
        Verb.CANCEL_WAIT: VerbSpec((), (Kind.U8,)),
        Verb.PING: VerbSpec((Kind.U32,), (Kind.U32,)),
        Verb.QUEUE_PUSH: VerbSpec((Kind.KEY, Kind.VALUE), ()),
        Verb.QUEUE_POP: VerbSpec((Kind.KEY,), (Kind.POPPED,)),
        Verb.QUEUE_LEN: VerbSpec((Kind.KEY,), (Kind.I64,)),
        Verb.LIST_KEYS: VerbSpec((), (Kind.LISTED,)),
        Verb.BARRIER: VerbSpec((Kind.KEY, Kind.I64), (Kind.U8,), is_deferred=True),
    }
)
"""The wire: verb -> layouts of request and reply."""


@unique
class CloseReason(Enum):
    """Why a server closes a connection: the wire's only refusal, so the words for it are part of the wire."""

    BAD_HANDSHAKE = "bad_handshake"
    """The connection did not open with VALIDATE and the magic."""
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    """VALIDATE did not come in time."""
    TOO_MANY_CONNECTIONS = "too_many_connections"
    UNKNOWN_VERB = "unknown_verb"
    """A verb byte of 19 or more, or a second VALIDATE."""
    FIELD_TOO_LARGE = "field_too_large"
    """A key, a value or a list is longer than its limit; seen as soon as the length field is."""
    REQUEST_TOO_LARGE = "request_too_large"
    """One request is longer than the limit, though no field is."""
    INPUT_TOTAL = "input_total"
    """Begun requests of all peers hold too much memory, and this peer's the most."""
    TOO_MANY_WAITED = "too_many_waited"
    """WAIT would make all names that all peers wait for together pass their limit."""
    NOT_A_NUMBER = "not_a_number"
    """ADD or BARRIER on a value that is no decimal number of 64 bits."""
    STORED_VALUE_TOO_LARGE = "stored_value_too_large"
    """APPEND would grow a value past its limit."""
    STORE_FULL = "store_full"
    """A write would make all stored keys and values together pass their limit."""

    # Of the session dialect, some of them also as the code of a refused request.
    BAD_FRAME = "bad_frame"
    """A frame that is no request: too short, too long, bytes left over, an id that does not rise."""
    UNKNOWN_VERSION = "unknown_version"
    AUTHENTICATION_REQUIRED = "authentication_required"
    """The server has a token, and the peer speaks a dialect that cannot prove to have it."""
    AUTHENTICATION_FAILED = "authentication_failed"
    FORBIDDEN = "forbidden"
    """The peer's identity may not do this to this key."""
    TOO_MANY_FROM_ADDRESS = "too_many_from_address"
    """So many peers from one address are there already."""
    TOO_MANY_HANDSHAKES = "too_many_handshakes"
    """Too many handshakes are under way, and this one is the oldest of them."""
    OUTPUT_TOTAL = "output_total"
    """Unread replies of all peers hold too much memory, and this peer's the most."""
    TAKEN_OVER = "taken_over"
    """The session, or the place in a group, belongs to another connection now."""
    TOO_MANY_SESSIONS = "too_many_sessions"
    TOO_MANY_PENDING = "too_many_pending"
    """Too many requests of one session wait, or too many answers have not been acknowledged."""
    REPLY_TOO_LARGE = "reply_too_large"
    NO_SUCH_LEASE = "no_such_lease"
    TOO_MANY_LEASES = "too_many_leases"
    TOO_MANY_WATCHES = "too_many_watches"
    TOO_MANY_GROUPS = "too_many_groups"
    GROUP_MISMATCH = "group_mismatch"
    """Members of one barrier or exchange do not agree on how many they are, or a rank is outside of that."""
    BAD_ARGUMENT = "bad_argument"
    """A field of a well-formed request has a value that means nothing."""
    ENDED = "ended"
    """The client said BYE, or the server stops."""
