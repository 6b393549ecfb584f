"""The verbs as a session means them: what is done, what waits, and the frames that answer.

Rules:

- Every request but CANCEL and UNWATCH is answered once: OK, EXPIRED, REFUSED or LOST. What cannot be applied is
  REFUSED, nothing has changed, and the connection goes on.
- The answer to a write, a refusal too, is kept before it is sent; a request that comes again is answered from there.
- GET and MULTI_GET wait for keys, QUEUE_POP for an item, WAIT for names, BARRIER for a count. A key that a GET has
  waited for, and an item, go into the reply in the step in which they come.

Theory of operation. ``handlers`` says for each verb how it is applied; one that waits says besides how it is cancelled
and how it is dropped. Other parts of the server put their verbs in there (``register``), and what is to be done when a
session loses its connection or ends (``on_detach``, ``on_end``)::

    take(session, request) --NEW--> handlers[SET].apply --> answer(...)
                           --NEW--> handlers[GET].apply --> wait(...)   pending, waiter -7
                                           ground.on_release(-7) ---------> resolve[GET] --> answer(...)
                           --CANCEL id--------> handlers[GET].cancel -----> answer(EXPIRED, ...)
    detach(session)        --------------------> handlers[GET].drop          the client sends it again

What this file does not know: connections but by their number, handshakes, time but ``ground.now``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

from rallypoint.protocol.codec import I64, U64, Request, RequestError
from rallypoint.protocol.session.codec import (
    encode_empty,
    encode_number,
    encode_refusal,
    encode_reply,
    encode_reply_head,
    encode_stored_head,
)
from rallypoint.protocol.session.server import SessionRequest
from rallypoint.protocol.session.spec import REPLY_FRAME_SIZE_MAX, SESSION_VERBS, SessionVerb, Status
from rallypoint.protocol.spec import NOT_READY, READY, CloseReason
from rallypoint.server.changes import Answer
from rallypoint.server.ground import COPIED_SIZE_MAX, Ground
from rallypoint.server.keyspace import KeyspaceError
from rallypoint.server.sessions import Meaning, Pending, Session, Sessions
from rallypoint.server.vocabulary import Reply

__all__ = ["SessionVerbs", "VerbHandler"]

_Apply: TypeAlias = Callable[[Session, int, Request], None]
_OfPending: TypeAlias = Callable[[Session, int, Pending], None]

_IS_WRITE = {int(verb): spec.is_write for verb, spec in SESSION_VERBS.items()}
_IS_DEFERRED = {int(verb): spec.is_deferred for verb, spec in SESSION_VERBS.items()}


class VerbHandler(NamedTuple):
    """What a verb does, each with the session and the id of the request.

    Attributes:
        apply: does it; ends in ``answer``, or puts a ``Pending`` into ``session.pending``. A ``RequestError`` or a
            ``KeyspaceError`` out of it is answered REFUSED.
        cancel: for a verb that waits: ends the wait (it is out of ``pending`` already) and answers EXPIRED.
        drop: for a verb that waits: ends the wait (it is out of ``pending`` already) and answers nothing.
        stays: the wait outlives the connection: it is dropped only when the session ends.
    """

    apply: _Apply
    cancel: _OfPending | None = None
    drop: _OfPending | None = None
    stays: bool = False


class SessionVerbs:
    """The verbs of one server's sessions.

    Args:
        ground: what they work on.
        sessions: whose they are.
        forbids: says why an identity may not do what it asks for, see ``access.Gate.forbids``; ``None`` without rules.

    Attributes:
        handlers: by verb.
        on_detach: called with each session that loses its connection, when its waits are dropped.
        on_end: called with each session that ends, when all its waits are dropped and before it is forgotten.
        produced: bytes sent in answers since it was last set to 0: to whoever asks, for the bound on output.

    Threads: none but the caller's.
    """

    def __init__(
        self,
        ground: Ground,
        sessions: Sessions,
        forbids: Callable[[bytes, Request], str | None] | None = None,
    ) -> None:
        self._ground = ground
        self._keyspace = ground.keyspace
        self._sessions = sessions
        self._forbids = forbids
        self._waiting: dict[int, tuple[Session, int]] = {}
        self._last_waiter = 0
        self.produced = 0
        self.on_detach: list[Callable[[Session], None]] = []
        self.on_end: list[Callable[[Session], None]] = []
        self.handlers: dict[int, VerbHandler] = {}
        ground.on_release = self._released
        for verb in _AT_ONCE:
            self.register(verb, VerbHandler(getattr(self, f"_{verb.name.lower()}")))
        self._resolve: dict[int, Callable[[Session, int, Request], None]] = {
            SessionVerb.GET: self._get,
            SessionVerb.MULTI_GET: self._multi_get,
            SessionVerb.QUEUE_POP: self._queue_pop_called,
            SessionVerb.WAIT: self._answer_empty,
            SessionVerb.BARRIER: self._answer_empty,
        }
        self.register(SessionVerb.GET, VerbHandler(self._get, self._expire_keys, self._drop_keys))
        self.register(SessionVerb.MULTI_GET, VerbHandler(self._multi_get, self._expire_keys, self._drop_keys))
        self.register(SessionVerb.WAIT, VerbHandler(self._wait, self._expire_names, self._drop_names))
        self.register(SessionVerb.QUEUE_POP, VerbHandler(self._queue_pop, self._expire_item, self._drop_item))
        self.register(SessionVerb.BARRIER, VerbHandler(self._barrier, self._expire_count, self._drop_names, stays=True))

    def register(self, verb: SessionVerb, handler: VerbHandler) -> None:
        """Say what a verb does."""
        self.handlers[verb] = handler

    # --- requests ----------------------------------------------------------------------------------------

    def take(self, session: Session, asked: SessionRequest) -> None:
        """Apply a request, or answer it again: anything but HELLO, PROVE and BYE."""
        request_id, done, request = asked
        verb = request[0]
        if verb == SessionVerb.CANCEL:
            self._cancel(session, request[1])
            return
        is_write = _IS_WRITE[verb]
        meaning = self._sessions.take(session, request_id, done, is_write=is_write)
        if meaning is Meaning.NEW:
            self._apply(session, request_id, request)
        elif meaning is Meaning.ANSWERED:
            answer = session.answers[request_id][0]
            assert answer is not None
            self._send(session, answer.head, answer.body)
        elif meaning is Meaning.COUNTED:
            self._await_count(session, request_id, request)

    def answer(
        self, session: Session, request_id: int, verb: int, head: bytes, body: bytes = b"", *, is_shared: bool = False
    ) -> None:
        """Answer a request: whatever it waits for must be out of ``session.pending``.

        Args:
            session: whose request it is, with or without a connection.
            request_id: of the request.
            verb: of the request.
            head: the frame, or its beginning.
            body: the rest, which is not copied if it is large.
            is_shared: the body goes to many sessions as one object.
        """
        if _IS_WRITE[verb]:
            self._sessions.keep(session, request_id, Answer(head, body), is_shared=is_shared)
        self._send(session, head, body)

    def refuse(self, session: Session, request_id: int, verb: int, reason: CloseReason, sentence: str) -> None:
        """Answer a request REFUSED."""
        self.answer(session, request_id, verb, encode_refusal(request_id, reason, sentence))

    # --- ends --------------------------------------------------------------------------------------------

    def detach(self, session: Session) -> None:
        """Take note that a session's connection is gone: drop what its client will ask for again."""
        for request_id, pending in list(session.pending.items()):
            if not self.handlers[pending.request[0]].stays:
                self._drop(session, request_id)
        self._give_back_calls(session)
        for call in self.on_detach:
            call(session)
        self._sessions.detach(session, self._ground.now)

    def end(self, session: Session) -> None:
        """End a session: what it waits for is dropped, and whoever must know is told."""
        for request_id in list(session.pending):
            self._drop(session, request_id)
        self._give_back_calls(session)
        for call in self.on_end:
            call(session)
        self._sessions.end(session)

    def _drop(self, session: Session, request_id: int) -> None:
        pending = session.pending.pop(request_id)
        drop = self.handlers[pending.request[0]].drop
        if drop is not None:
            drop(session, request_id, pending)

    def _give_back_calls(self, session: Session) -> None:
        calls = list(session.calls)
        session.calls.clear()
        for waiter in calls:
            self._ground.abandon(waiter)

    # --- how requests are applied ------------------------------------------------------------------------

    def _apply(self, session: Session, request_id: int, request: Request) -> None:
        verb = request[0]
        handler = self.handlers.get(verb)
        why = self._sessions.refusal(session, is_write=_IS_WRITE[verb], is_deferred=_IS_DEFERRED[verb])
        if why is not None:  # not kept: that would be one more
            self._send(session, encode_refusal(request_id, CloseReason.TOO_MANY_PENDING, why))
            return
        if handler is None:
            sentence = f"this server does not know {SessionVerb(verb).name}"
            self.refuse(session, request_id, verb, CloseReason.UNKNOWN_VERB, sentence)
            return
        if self._forbids is not None and (why := self._forbids(session.identity, request)) is not None:
            self.refuse(session, request_id, verb, CloseReason.FORBIDDEN, why)
            return
        try:
            handler.apply(session, request_id, request)
        except (RequestError, KeyspaceError) as refusal:
            self.refuse(session, request_id, verb, refusal.reason, str(refusal))

    def _cancel(self, session: Session, request_id: int) -> None:
        pending = session.pending.get(request_id)
        if pending is None:
            return
        cancel = self.handlers[pending.request[0]].cancel
        if cancel is not None:
            del session.pending[request_id]
            cancel(session, request_id, pending)

    def _send(self, session: Session, head: bytes, body: bytes = b"") -> None:
        peer = session.peer
        if peer is None:
            return
        self.produced += len(head) + len(body)
        if len(body) <= COPIED_SIZE_MAX:
            self._ground.effects.append(Reply(peer, head + body))
        else:
            self._ground.effects += (Reply(peer, head), Reply(peer, body))

    def _answer_empty(self, session: Session, request_id: int, request: Request) -> None:
        self.answer(session, request_id, request[0], encode_empty(request_id))

    def _answer_number(self, session: Session, request_id: int, request: Request, number: int) -> None:
        self.answer(session, request_id, request[0], encode_number(request_id, number))

    def _answer_stored(self, session: Session, request_id: int, request: Request, value: bytes) -> None:
        self.answer(session, request_id, request[0], encode_stored_head(request_id, len(value)), value)

    def _answer_pieces(self, session: Session, request_id: int, pieces: list[bytes]) -> None:
        """Answer a read OK with fields in pieces."""
        size = sum(map(len, pieces))
        if size > REPLY_FRAME_SIZE_MAX:
            sentence = f"the reply would be {size} bytes long, the limit is {REPLY_FRAME_SIZE_MAX}"
            raise RequestError(CloseReason.REPLY_TOO_LARGE, sentence)
        pieces[0] = encode_reply_head(Status.OK, request_id, size) + pieces[0]
        peer = session.peer
        if peer is None:
            return
        self.produced += size
        small: list[bytes] = []
        for piece in pieces:
            if len(piece) <= COPIED_SIZE_MAX:
                small.append(piece)
            else:
                if small:
                    self._ground.effects.append(Reply(peer, b"".join(small)))
                    small = []
                self._ground.effects.append(Reply(peer, piece))
        if small:
            self._ground.effects.append(Reply(peer, b"".join(small)))

    # --- verbs that are answered at once -----------------------------------------------------------------

    def _set(self, session: Session, request_id: int, request: Request) -> None:
        _, key, value = request
        if self._keyspace.set(key, value):
            self._ground.created(key)
        self._answer_number(session, request_id, request, self._keyspace.revision_of(key))

    def _compare_set(self, session: Session, request_id: int, request: Request) -> None:
        _, key, expected, desired = request
        current, is_new = self._keyspace.compare_set(key, expected, desired)
        if is_new:
            self._ground.created(key)
        self._answer_stored(session, request_id, request, current)

    def _add(self, session: Session, request_id: int, request: Request) -> None:
        _, key, delta = request
        total, is_new = self._keyspace.add(key, delta)
        if is_new:
            self._ground.created(key)
        self._answer_number(session, request_id, request, total)

    def _check(self, session: Session, request_id: int, request: Request) -> None:
        answer = NOT_READY if self._keyspace.missing(request[1]) else READY
        self.answer(session, request_id, request[0], encode_reply_head(Status.OK, request_id, 1) + answer)

    def _getnumkeys(self, session: Session, request_id: int, request: Request) -> None:
        self._answer_number(session, request_id, request, len(self._keyspace))

    def _delete_key(self, session: Session, request_id: int, request: Request) -> None:
        self._answer_number(session, request_id, request, self._ground.delete(request[1]))

    def _append(self, session: Session, request_id: int, request: Request) -> None:
        _, key, value = request
        if self._keyspace.append(key, value):
            self._ground.created(key)
        self._answer_number(session, request_id, request, self._keyspace.revision_of(key))

    def _multi_set(self, session: Session, request_id: int, request: Request) -> None:
        for key in self._keyspace.multi_set(request[1]):
            self._ground.created(key)
        self._answer_number(session, request_id, request, self._keyspace.revision)

    def _ping(self, session: Session, request_id: int, request: Request) -> None:
        self._send(session, encode_reply(Status.OK, SessionVerb.PING, request_id, request[1]))

    def _queue_push(self, session: Session, request_id: int, request: Request) -> None:
        self._answer_number(session, request_id, request, self._ground.push(request[1], request[2]))

    def _queue_len(self, session: Session, request_id: int, request: Request) -> None:
        self._answer_number(session, request_id, request, self._keyspace.queue_length(request[1]))

    def _list_keys(self, session: Session, request_id: int, request: Request) -> None:  # noqa: ARG002 - no fields
        self._answer_pieces(session, request_id, [b"", self._ground.listing()])

    def _read(self, session: Session, request_id: int, request: Request) -> None:
        key = request[1]
        value = self._keyspace.get(key) or b""
        head = I64.pack(self._keyspace.revision_of(key)) + U64.pack(len(value))
        self._answer_pieces(session, request_id, [head, value])

    def _swap(self, session: Session, request_id: int, request: Request) -> None:
        _, key, expected, value, lease = request
        if expected < -1:
            raise RequestError(CloseReason.BAD_ARGUMENT, f"SWAP expects the revision {expected}: it is -1 or above")
        is_swapped, is_new = self._keyspace.swap(key, expected, value, lease)
        if is_new:
            self._ground.created(key)
        revision = self._keyspace.revision_of(key)
        self.answer(
            session, request_id, request[0], encode_reply(Status.OK, SessionVerb.SWAP, request_id, is_swapped, revision)
        )

    def _read_prefix(self, session: Session, request_id: int, request: Request) -> None:
        keys = self._keyspace.keys_with(request[1])
        pieces = [I64.pack(len(keys))]
        for key in keys:
            value = self._keyspace.get(key)
            assert value is not None
            pieces += (
                U64.pack(len(key)) + key + I64.pack(self._keyspace.revision_of(key)) + U64.pack(len(value)),
                value,
            )
        self._answer_pieces(session, request_id, pieces)

    def _list_prefix(self, session: Session, request_id: int, request: Request) -> None:
        keys = self._keyspace.keys_with(request[1])
        pieces = [I64.pack(len(keys))]
        for key in keys:
            pieces += (U64.pack(len(key)), key)
        self._answer_pieces(session, request_id, pieces)

    def _delete_prefix(self, session: Session, request_id: int, request: Request) -> None:
        keys = self._keyspace.keys_with(request[1])
        for key in keys:
            self._ground.delete(key)
        self._answer_number(session, request_id, request, len(keys))

    # --- verbs that wait ---------------------------------------------------------------------------------

    def _pend(self, session: Session, request_id: int, request: Request) -> int:
        """Note that a request waits; give it the number of a waiter."""
        self._last_waiter -= 1
        waiter = self._last_waiter
        self._waiting[waiter] = (session, request_id)
        session.pending[request_id] = Pending(request, self._ground.now, waiter)
        return waiter

    def _released(self, waiter: int) -> None:
        """Answer a request whose wait is over."""
        session, request_id = self._waiting.pop(waiter)
        request = session.pending.pop(request_id).request
        name = self._ground.waiters.called_to(waiter)
        if name is not None:
            session.calls[waiter] = name
        try:
            self._resolve[request[0]](session, request_id, request)
        except RequestError as refusal:
            self.refuse(session, request_id, request[0], refusal.reason, str(refusal))

    def _check_names(self, count: int) -> None:
        total, limit = self._ground.names_held + count, self._ground.limits.waited_names_max
        if total > limit:
            sentence = f"all peers would wait for {total} names, the limit is {limit}"
            raise RequestError(CloseReason.TOO_MANY_WAITED, sentence)

    def _get(self, session: Session, request_id: int, request: Request) -> None:
        value = self._keyspace.get(request[1])
        if value is None:
            self._wait_for_keys(session, request_id, request, (request[1],))
        else:
            self._answer_stored(session, request_id, request, value)

    def _multi_get(self, session: Session, request_id: int, request: Request) -> None:
        pieces: list[bytes] = [b""]
        for key in request[1]:
            value = self._keyspace.get(key)
            if value is None:
                self._wait_for_keys(session, request_id, request, request[1])
                return
            pieces += (U64.pack(len(value)), value)
        self._answer_pieces(session, request_id, pieces)

    def _wait_for_keys(self, session: Session, request_id: int, request: Request, keys: Iterable[bytes]) -> None:
        names = dict.fromkeys(keys)
        self._check_names(len(names))
        missing = sum(not self._keyspace.has_key(key) for key in names)
        self._ground.readers.wait(self._pend(session, request_id, request), names, missing)

    def _wait(self, session: Session, request_id: int, request: Request) -> None:
        names = dict.fromkeys(request[1])
        missing = self._keyspace.missing(names)
        if missing:
            self._check_names(len(names))
            self._ground.waiters.wait(self._pend(session, request_id, request), names, missing)
        else:
            self._answer_empty(session, request_id, request)

    def _queue_pop(self, session: Session, request_id: int, request: Request) -> None:
        name = request[1]
        for waiter, called_to in session.calls.items():
            if called_to == name:
                del session.calls[waiter]
                self._ground.waiters.popped(waiter, name)
                break
        item = self._ground.pop(name)[1]
        if item is None:
            self._ground.wait_for_item(self._pend(session, request_id, request), name)
        else:
            self._answer_stored(session, request_id, request, item)

    def _queue_pop_called(self, session: Session, request_id: int, request: Request) -> None:
        item = self._keyspace.pop(request[1])[1]
        assert item is not None
        self._answer_stored(session, request_id, request, item)

    def _barrier(self, session: Session, request_id: int, request: Request) -> None:
        count = self._ground.arrive(request[1])
        if count < request[2]:
            self._sessions.keep(session, request_id, None)
            self._await_count(session, request_id, request)
        else:
            self._answer_empty(session, request_id, request)

    def _await_count(self, session: Session, request_id: int, request: Request) -> None:
        """Wait at a barrier at which the request has counted already."""
        _, key, world_size = request
        if self._keyspace.count(key) < world_size:
            self._ground.waiters.wait_barrier(self._pend(session, request_id, request), key, world_size)
        else:
            self._answer_empty(session, request_id, request)

    # --- waits that end without what they waited for -----------------------------------------------------

    def _expire(self, session: Session, request_id: int, verb: Any, missing: list[bytes]) -> None:
        self.answer(session, request_id, verb, encode_reply(Status.EXPIRED, SessionVerb(verb), request_id, missing))

    def _expire_keys(self, session: Session, request_id: int, pending: Pending) -> None:
        self._drop_keys(session, request_id, pending)
        verb, asked = pending.request
        keys = (asked,) if verb == SessionVerb.GET else dict.fromkeys(asked)
        self._expire(session, request_id, verb, [key for key in keys if not self._keyspace.has_key(key)])

    def _expire_names(self, session: Session, request_id: int, pending: Pending) -> None:
        self._drop_names(session, request_id, pending)
        verb, names = pending.request
        self._expire(session, request_id, verb, [name for name in dict.fromkeys(names) if name not in self._keyspace])

    def _expire_item(self, session: Session, request_id: int, pending: Pending) -> None:
        self._drop_item(session, request_id, pending)
        self._expire(session, request_id, pending.request[0], [pending.request[1]])

    def _expire_count(self, session: Session, request_id: int, pending: Pending) -> None:
        self._drop_names(session, request_id, pending)
        self._expire(session, request_id, pending.request[0], [pending.request[1]])

    def _drop_keys(self, session: Session, request_id: int, pending: Pending) -> None:  # noqa: ARG002 - all take these
        del self._waiting[pending.waiter]
        self._ground.readers.forget(pending.waiter)

    def _drop_names(self, session: Session, request_id: int, pending: Pending) -> None:  # noqa: ARG002 - all take these
        del self._waiting[pending.waiter]
        self._ground.abandon(pending.waiter)

    def _drop_item(self, session: Session, request_id: int, pending: Pending) -> None:  # noqa: ARG002 - all take these
        del self._waiting[pending.waiter]
        self._ground.leave_queue(pending.waiter, pending.request[1])


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
