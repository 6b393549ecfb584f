"""What one c10d request is in the session dialect, and what the answers are in c10d again.

Most verbs have the same layout in both. Those that have not:

=========== ================================ ====================================================================
c10d        session dialect                  because
=========== ================================ ====================================================================
GET         READ                             c10d answers at once, a missing key with an empty value; GET waits here
MULTI_GET   MULTI_GET, withdrawn at once     as above; what was missing then is empty, and the others are read singly
QUEUE_POP   QUEUE_LEN, QUEUE_POP withdrawn   c10d answers at once, with the length before; QUEUE_POP waits here
CANCEL_WAIT CANCEL if there is a wait; PING  the PING's answer holds the place of c10d's, CANCEL has none
LIST_KEYS   LIST_PREFIX, in a key space      others' keys are nobody's business
GETNUMKEYS  LIST_PREFIX, in a key space      as above; they are counted here
=========== ================================ ====================================================================

A *slot* is one request's place in its peer's line: it knows the calls that it takes, is given their answers, and is
filled when it knows its reply. Most OKs have the fields of c10d's reply as they are there (``REPLY_AT``): whoever can
give these bytes as they came gives them, and nobody looks into them.

What this file does not know: peers, the order of replies, when a call is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from rallypoint.gateway.readings import Share
from rallypoint.gateway.spaces import KeySpace
from rallypoint.protocol.codec import I64, U32, U64, KeyList, Request
from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.protocol.spec import CANCELLED, GO_ON, CloseReason, Verb

__all__ = ["REPLY_AT", "Call", "Slot", "make_slot", "reason_of"]

_Fields: TypeAlias = tuple[Any, ...]
_Pieces: TypeAlias = tuple[bytes | memoryview, ...]

REPLY_AT: Final[Mapping[SessionVerb, int]] = MappingProxyType(
    {
        SessionVerb.READ: 8,  # behind the revision
        **dict.fromkeys((SessionVerb.COMPARE_SET, SessionVerb.ADD, SessionVerb.CHECK, SessionVerb.MULTI_GET), 0),
    }
)
"""Where in an OK's fields c10d's reply begins, which goes to their end; of verbs whose OK holds one."""

# A value up to this size is copied behind its length, as the server does it.
_COPIED_SIZE_MAX = 1024

_STALLING: Final = frozenset({Verb.GET, Verb.MULTI_GET, Verb.COMPARE_SET, Verb.QUEUE_POP, Verb.LIST_KEYS})

_OVERHEAD_SIZE = 64  # about what Python takes for one item of a request besides its text


class Call(NamedTuple):
    """One request upstream; ``is_withdrawn``: at once, if it is to wait."""

    verb: SessionVerb
    fields: _Fields
    is_withdrawn: bool = False


class Slot:
    """One request that is one call with the same fields, or all that they have in common.

    Args:
        request: the c10d request.

    Attributes:
        size: about how many bytes the request keeps.
        is_deferred: its reply does not keep those behind it.
        replaces_wait: its peer's wait ends with it.
        is_stalling: requests behind it are not sent upstream before it is filled: its reply may be of any size.
        pieces: the reply, ``None`` until it is known; empty for a request without one.
        refusal: why the peer is to be closed here instead.
        share: what equal reads have in common, of which one may serve all; ``None`` for a request of its own.
    """

    __slots__ = ("_request", "is_stalling", "pieces", "refusal", "share", "size")

    is_deferred = False
    replaces_wait = False

    def __init__(self, request: Request) -> None:
        self.size = _size_of(request)
        self.share: Share | None = None
        self.pieces: _Pieces | None = None
        self.refusal: tuple[CloseReason, str] | None = None
        self.is_stalling = request[0] in _STALLING
        self._request = request

    def begin(self) -> Sequence[Call]:
        """Give the first calls."""
        return (Call(_SAME[self._request[0]][0], self._request[1:]),)

    def take(self, number: int, status: Status | None, fields: _Fields) -> Sequence[Call]:  # noqa: ARG002 - the others' interface
        """Take the answer to a call, OK or EXPIRED.

        Args:
            number: which of this slot's calls, from 0 on.
            status: how it was answered; ``None`` for an OK that is given as ``REPLY_AT`` says.
            fields: the status's, or only the reply.

        Returns:
            Further calls.
        """
        self.pieces = fields if status is None else _SAME[self._request[0]][1](fields)
        return ()

    def refuse(self, reason: CloseReason, detail: str) -> None:
        """Fill it with the end of its peer, unless it is filled so already."""
        if self.refusal is None:
            self.refusal = (reason, detail)
            self.pieces = ()


class _Waiting(Slot):
    """WAIT and BARRIER; one that was cancelled is filled with nothing."""

    __slots__ = ()
    is_deferred = True
    replaces_wait = True

    def take(self, number: int, status: Status | None, fields: _Fields) -> Sequence[Call]:  # noqa: ARG002 - as above
        self.pieces = (GO_ON,) if status is Status.OK else ()
        return ()


class _Cancelling(Slot):
    __slots__ = ()
    replaces_wait = True

    def begin(self) -> Sequence[Call]:
        return (Call(SessionVerb.PING, (0,)),)

    def take(self, number: int, status: Status | None, fields: _Fields) -> Sequence[Call]:  # noqa: ARG002 - as above
        self.pieces = (CANCELLED,)
        return ()


class _Getting(Slot):
    __slots__ = ()

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.share = request


class _Popping(Slot):
    __slots__ = ("_length", "_popped")

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._length: int | None = None
        self._popped: tuple[bytes, ...] | None = None  # the item, or nothing

    def begin(self) -> Sequence[Call]:
        name = self._request[1]
        return (Call(SessionVerb.QUEUE_LEN, (name,)), Call(SessionVerb.QUEUE_POP, (name,), is_withdrawn=True))

    def take(self, number: int, status: Status | None, fields: _Fields) -> Sequence[Call]:
        if number == 0:
            self._length = max(1, fields[0])  # others may have pushed since
        else:
            self._popped = fields if status is Status.OK else ()
        if self._length is not None and self._popped is not None:
            self.pieces = (I64.pack(self._length), *_stored(self._popped[0])) if self._popped else (I64.pack(0),)
        return ()


class _Gathering(Slot):
    """MULTI_GET: all values at once; if some are missing, those that are there one by one."""

    __slots__ = ("_found", "_keys", "_wanted")

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self._keys: list[bytes] = request[1]
        if type(self._keys) is KeyList:
            self.share = (request[0], self._keys.wire)
        self._wanted: list[bytes] = []
        self._found: dict[bytes, bytes] = {}

    def begin(self) -> Sequence[Call]:
        return (Call(SessionVerb.MULTI_GET, (self._keys,), is_withdrawn=True),)

    def take(self, number: int, status: Status | None, fields: _Fields) -> Sequence[Call]:
        if number > 0:
            self._found[self._wanted[number - 1]] = bytes(fields[0][U64.size :]) if status is None else fields[1]
        elif status is None:
            self.pieces = fields
            return ()
        elif status is Status.OK:
            self.pieces = _each(fields[0])
            return ()
        else:
            self._found = dict.fromkeys(fields[0], b"")
            self._wanted = [key for key in dict.fromkeys(self._keys) if key not in self._found]
        if all(key in self._found for key in self._keys):
            self.pieces = _each([self._found[key] for key in self._keys])
        return () if number > 0 else [Call(SessionVerb.READ, (key,)) for key in self._wanted]


class _Listing(Slot):
    """LIST_KEYS of a key space."""

    __slots__ = ("_space",)

    def __init__(self, request: Request, space: KeySpace) -> None:
        super().__init__(request)
        self._space = space

    def begin(self) -> Sequence[Call]:
        if self._space.name:
            return (Call(SessionVerb.LIST_PREFIX, (self._space.prefix,)),)
        return super().begin()

    def take(self, number: int, status: Status | None, fields: _Fields) -> Sequence[Call]:  # noqa: ARG002 - as above
        self.pieces = _listed(([self._space.inward(key) for key in fields[0]],))
        return ()


class _Counting(_Listing):
    """GETNUMKEYS of a key space."""

    __slots__ = ()

    def take(self, number: int, status: Status | None, fields: _Fields) -> Sequence[Call]:  # noqa: ARG002 - as above
        self.pieces = _number((len(fields[0]) if self._space.name else fields[0],))
        return ()


_IN_SPACE: Final[Mapping[int, type[_Listing]]] = {Verb.LIST_KEYS: _Listing, Verb.GETNUMKEYS: _Counting}

_SPECIAL: Final[Mapping[int, type[Slot]]] = {
    Verb.WAIT: _Waiting,
    Verb.BARRIER: _Waiting,
    Verb.CANCEL_WAIT: _Cancelling,
    Verb.QUEUE_POP: _Popping,
    Verb.MULTI_GET: _Gathering,
    Verb.GET: _Getting,
}


def make_slot(request: Request, space: KeySpace | None = None) -> Slot:
    """Give the slot of a c10d request, whose keys are in a key space or as they are; VALIDATE has none."""
    if space is not None:
        request = space.translate(request)
        if (kind := _IN_SPACE.get(request[0])) is not None:
            return kind(request, space)
    return _SPECIAL.get(request[0], Slot)(request)


def reason_of(code: bytes) -> CloseReason:
    """Give the reason that a server's code stands for; ENDED for one that this version does not know."""
    try:
        return CloseReason(code.decode())
    except ValueError:
        return CloseReason.ENDED


def _size_of(request: Request) -> int:
    size = _OVERHEAD_SIZE
    for field in request[1:]:
        if isinstance(field, bytes):
            size += len(field)
        elif type(field) is KeyList:
            size += len(field.wire) + _OVERHEAD_SIZE * len(field)
        elif isinstance(field, list):
            size += sum(len(item) if isinstance(item, bytes) else len(item[0]) + len(item[1]) for item in field)
            size += _OVERHEAD_SIZE * len(field)
    return size


# --- replies ---------------------------------------------------------------------------------------------


def _stored(value: bytes) -> _Pieces:
    size = U64.pack(len(value))
    return (size + value,) if len(value) <= _COPIED_SIZE_MAX else (size, value)


def _each(values: Sequence[bytes]) -> _Pieces:
    return tuple(piece for value in values for piece in _stored(value))


def _nothing(_fields: _Fields) -> _Pieces:
    return ()


def _number(fields: _Fields) -> _Pieces:
    return (I64.pack(fields[0]),)


def _listed(fields: _Fields) -> _Pieces:
    keys = fields[0]
    return (b"".join((I64.pack(len(keys)), *(piece for key in keys for piece in (U64.pack(len(key)), key)))),)


_SAME: Final[Mapping[int, tuple[SessionVerb, Callable[[_Fields], _Pieces]]]] = MappingProxyType(
    {
        Verb.SET: (SessionVerb.SET, _nothing),
        Verb.COMPARE_SET: (SessionVerb.COMPARE_SET, lambda fields: _stored(fields[0])),
        Verb.GET: (SessionVerb.READ, lambda fields: _stored(fields[1])),
        Verb.ADD: (SessionVerb.ADD, _number),
        Verb.CHECK: (SessionVerb.CHECK, lambda fields: (bytes((fields[0],)),)),
        Verb.WAIT: (SessionVerb.WAIT, _nothing),
        Verb.GETNUMKEYS: (SessionVerb.GETNUMKEYS, _number),
        Verb.DELETE_KEY: (SessionVerb.DELETE_KEY, _number),
        Verb.APPEND: (SessionVerb.APPEND, _nothing),
        Verb.MULTI_SET: (SessionVerb.MULTI_SET, _nothing),
        Verb.PING: (SessionVerb.PING, lambda fields: (U32.pack(fields[0]),)),
        Verb.QUEUE_PUSH: (SessionVerb.QUEUE_PUSH, _nothing),
        Verb.QUEUE_LEN: (SessionVerb.QUEUE_LEN, _number),
        Verb.LIST_KEYS: (SessionVerb.LIST_KEYS, _listed),
        Verb.BARRIER: (SessionVerb.BARRIER, _nothing),
    }
)
