"""What a session's requests do to keys and queues when they need not wait.

Rules:

- Each is applied as c10d's of the same name is, and answered with what is so afterwards.
- A request is checked whole before anything changes; what is refused is raised.

What this file does not know: connections, what waits, who may do what, what time it is.
"""

from __future__ import annotations

from collections.abc import Callable

from rallypoint.protocol.codec import I64, U64, Request, RequestError
from rallypoint.protocol.session.codec import encode_reply, encode_reply_head
from rallypoint.protocol.session.spec import DELETED_KEYS_MAX, SessionVerb, Status
from rallypoint.protocol.spec import NOT_READY, READY, CloseReason
from rallypoint.server.ground import Ground
from rallypoint.server.session_verbs import SessionVerbs, VerbHandler
from rallypoint.server.sessions import Session

__all__ = ["KeyVerbs"]


class KeyVerbs:
    """The verbs on keys and queues that are answered at once; making it registers them.

    Args:
        ground: what they work on.
        verbs: where they are registered.

    Attributes:
        check_lease: raises ``RequestError`` if a session may not put a key under a lease.
    """

    def __init__(self, ground: Ground, verbs: SessionVerbs) -> None:
        self._ground = ground
        self._keyspace = ground.keyspace
        self._verbs = verbs
        self.check_lease: Callable[[Session, int], None] = _no_such_lease
        for verb in _AT_ONCE:
            verbs.register(verb, VerbHandler(getattr(self, f"_{verb.name.lower()}")))

    def _set(self, session: Session, request_id: int, request: Request) -> None:
        _, key, value = request
        if self._keyspace.set(key, value):
            self._ground.created(key)
        self._verbs.answer_number(session, request_id, request, self._keyspace.revision_of(key))

    def _compare_set(self, session: Session, request_id: int, request: Request) -> None:
        _, key, expected, desired = request
        current, is_new = self._keyspace.compare_set(key, expected, desired)
        if is_new:
            self._ground.created(key)
        self._verbs.answer_stored(session, request_id, request, current)

    def _add(self, session: Session, request_id: int, request: Request) -> None:
        _, key, delta = request
        total, is_new = self._keyspace.add(key, delta)
        if is_new:
            self._ground.created(key)
        self._verbs.answer_number(session, request_id, request, total)

    def _check(self, session: Session, request_id: int, request: Request) -> None:
        answer = NOT_READY if self._keyspace.missing(request[1]) else READY
        self._verbs.answer(session, request_id, request[0], encode_reply_head(Status.OK, request_id, 1) + answer)

    def _getnumkeys(self, session: Session, request_id: int, request: Request) -> None:
        self._verbs.answer_number(session, request_id, request, len(self._keyspace))

    def _delete_key(self, session: Session, request_id: int, request: Request) -> None:
        self._verbs.answer_number(session, request_id, request, self._ground.delete(request[1]))

    def _append(self, session: Session, request_id: int, request: Request) -> None:
        _, key, value = request
        if self._keyspace.append(key, value):
            self._ground.created(key)
        self._verbs.answer_number(session, request_id, request, self._keyspace.revision_of(key))

    def _multi_set(self, session: Session, request_id: int, request: Request) -> None:
        for key in self._keyspace.multi_set(request[1]):
            self._ground.created(key)
        self._verbs.answer_number(session, request_id, request, self._keyspace.revision)

    def _ping(self, session: Session, request_id: int, request: Request) -> None:
        self._verbs.send(session, encode_reply(Status.OK, SessionVerb.PING, request_id, request[1]))

    def _queue_push(self, session: Session, request_id: int, request: Request) -> None:
        self._verbs.answer_number(session, request_id, request, self._ground.push(request[1], request[2]))

    def _queue_len(self, session: Session, request_id: int, request: Request) -> None:
        self._verbs.answer_number(session, request_id, request, self._keyspace.queue_length(request[1]))

    def _list_keys(self, session: Session, request_id: int, request: Request) -> None:  # noqa: ARG002 - no fields
        self._verbs.answer_pieces(session, request_id, [b"", self._ground.listing()])

    def _read(self, session: Session, request_id: int, request: Request) -> None:
        key = request[1]
        value = self._keyspace.get(key) or b""
        head = I64.pack(self._keyspace.revision_of(key)) + U64.pack(len(value))
        self._verbs.answer_pieces(session, request_id, [head, value])

    def _swap(self, session: Session, request_id: int, request: Request) -> None:
        _, key, expected, value, lease = request
        if expected < -1:
            raise RequestError(CloseReason.BAD_ARGUMENT, f"SWAP expects the revision {expected}: it is -1 or above")
        if lease:
            self.check_lease(session, lease)
        is_swapped, is_new = self._keyspace.swap(key, expected, value, lease)
        if is_new:
            self._ground.created(key)
        revision = self._keyspace.revision_of(key)
        self._verbs.answer(
            session, request_id, request[0], encode_reply(Status.OK, SessionVerb.SWAP, request_id, is_swapped, revision)
        )

    def _read_prefix(self, session: Session, request_id: int, request: Request) -> None:
        keys = self._keys_with(request[1])
        pieces = [I64.pack(len(keys))]
        for key in keys:
            value = self._keyspace.get(key)
            assert value is not None
            pieces += (
                U64.pack(len(key)) + key + I64.pack(self._keyspace.revision_of(key)) + U64.pack(len(value)),
                value,
            )
        self._verbs.answer_pieces(session, request_id, pieces)

    def _list_prefix(self, session: Session, request_id: int, request: Request) -> None:
        keys = self._keys_with(request[1])
        pieces = [I64.pack(len(keys))]
        for key in keys:
            pieces += (U64.pack(len(key)), key)
        self._verbs.answer_pieces(session, request_id, pieces)

    def _keys_with(self, prefix: bytes) -> list[bytes]:
        limit = self._ground.limits.prefix_keys_max
        keys = self._keyspace.keys_with(prefix, limit + 1)
        if len(keys) > limit:
            sentence = f"more than {limit} keys begin so, which is the limit of one reply"
            raise RequestError(CloseReason.REPLY_TOO_LARGE, sentence)
        return keys

    def _delete_prefix(self, session: Session, request_id: int, request: Request) -> None:
        keys = self._keyspace.keys_with(request[1], DELETED_KEYS_MAX)
        for key in keys:
            self._ground.delete(key)
        self._verbs.answer_number(session, request_id, request, len(keys))


def _no_such_lease(session: Session, lease: int) -> None:  # noqa: ARG001 - where there are leases, it matters whose
    raise RequestError(CloseReason.NO_SUCH_LEASE, f"there is no lease {lease}")


_AT_ONCE = (
    SessionVerb.SET,
    SessionVerb.COMPARE_SET,
    SessionVerb.ADD,
    SessionVerb.CHECK,
    SessionVerb.GETNUMKEYS,
    SessionVerb.DELETE_KEY,
    SessionVerb.APPEND,
    SessionVerb.MULTI_SET,
    SessionVerb.PING,
    SessionVerb.QUEUE_PUSH,
    SessionVerb.QUEUE_LEN,
    SessionVerb.LIST_KEYS,
    SessionVerb.READ,
    SessionVerb.SWAP,
    SessionVerb.READ_PREFIX,
    SessionVerb.LIST_PREFIX,
    SessionVerb.DELETE_PREFIX,
)
