"""A session's requests: each applied once, answered once, and ended with its connection or its session.

Rules:

- Every request but CANCEL and UNWATCH is answered once: OK, EXPIRED, REFUSED or LOST. What cannot be applied is
  REFUSED, nothing has changed, and the connection goes on.
- The answer to a write, a refusal too, is kept before it is sent; a request that comes again is answered from there.
- What a verb does stands elsewhere: in ``session_keys`` for keys and queues, in ``session_waits`` for what waits for
  them. Each part of the server puts its verbs into ``handlers`` (``register``), and what it does when a session loses
  its connection or ends into ``on_detach`` and ``on_end``.

Theory of operation::

    take(session, request) --NEW--------> handlers[SET].apply -----> answer(...)
                           --NEW--------> handlers[GET].apply -----> pend(...) = -7    session.pending, waiter -7
                               ground.on_release(-7) --> handlers[GET].release ------> answer(...)
                           --CANCEL id--> handlers[GET].cancel ----> answer(EXPIRED, ...)
    detach(session)        -------------> handlers[GET].drop         its client sends it again

What this file does not know: connections but by their number, handshakes, time but ``ground.now``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from rallypoint.protocol.codec import Request, RequestError
from rallypoint.protocol.session.codec import (
    encode_empty,
    encode_number,
    encode_refusal,
    encode_reply_head,
    encode_stored_head,
)
from rallypoint.protocol.session.server import SessionRequest
from rallypoint.protocol.session.spec import REPLY_FRAME_SIZE_MAX, SESSION_VERBS, SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
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
_CANCEL = int(SessionVerb.CANCEL)
_NEW = Meaning.NEW


class VerbHandler(NamedTuple):
    """What a verb does, each with the session and the id of the request.

    Attributes:
        apply: does it; ends in ``answer``, or puts a ``Pending`` into ``session.pending``. A ``RequestError`` or a
            ``KeyspaceError`` out of it is answered REFUSED.
        cancel: for a verb that waits: ends the wait (it is out of ``pending`` already) and answers EXPIRED.
        drop: for a verb that waits: ends the wait (it is out of ``pending`` already) and answers nothing.
        stays: the wait outlives the connection: it is dropped only when the session ends.
        release: for a verb that waits as a waiter of ``ground``: answers, once what it waited for is there.
        recall: for a verb that counts and waits: waits again, or answers, without counting again.
    """

    apply: _Apply
    cancel: _OfPending | None = None
    drop: _OfPending | None = None
    stays: bool = False
    release: _Apply | None = None
    recall: _Apply | None = None


class SessionVerbs:
    """The verbs of one server's sessions.

    Args:
        ground: what they work on.
        sessions: whose they are.
        forbids: says why an identity may not do what it asks for, see ``access.Gate.forbids``; ``None`` without rules.

    Attributes:
        handlers: by verb.
        on_resume: called with each session whose connection was paused, when its output is sent.
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
        self.on_resume: list[Callable[[Session], None]] = []
        self.on_detach: list[Callable[[Session], None]] = []
        self.on_end: list[Callable[[Session], None]] = []
        self.handlers: dict[int, VerbHandler] = {}
        ground.on_release = self._released

    def register(self, verb: SessionVerb, handler: VerbHandler) -> None:
        """Say what a verb does."""
        self.handlers[verb] = handler

    # --- requests ----------------------------------------------------------------------------------------

    def take(self, session: Session, asked: SessionRequest) -> None:
        """Apply a request, or answer it again: anything but HELLO, PROVE and BYE."""
        request_id, done, request = asked
        verb = request[0]
        if verb == _CANCEL:
            self._cancel(session, request[1])
            return
        is_write = _IS_WRITE[verb]
        meaning = self._sessions.take(session, request_id, done, is_write=is_write)
        if meaning is _NEW:
            self._apply(session, request_id, request)
        elif meaning is Meaning.ANSWERED:
            answer = session.answers[request_id][0]
            assert answer is not None
            self.send(session, answer.head, answer.body)
        elif meaning is Meaning.COUNTED:
            recall = self.handlers[verb].recall
            assert recall is not None
            self._try(recall, session, request_id, request)

    def answer(
        self, session: Session, request_id: int, verb: int, head: bytes, body: bytes = b"", *, sharers: int = 1
    ) -> None:
        """Answer a request: whatever it waits for must be out of ``session.pending``.

        Args:
            session: whose request it is, with or without a connection.
            request_id: of the request.
            verb: of the request.
            head: the frame, or its beginning.
            body: the rest, which is not copied if it is large.
            sharers: how many requests get the body as one object; each is charged its part.
        """
        if _IS_WRITE[verb]:
            self._sessions.keep(session, request_id, Answer(head, body), sharers=sharers)
        self.send(session, head, body)

    def refuse(self, session: Session, request_id: int, verb: int, reason: CloseReason, sentence: str) -> None:
        """Answer a request REFUSED."""
        self.answer(session, request_id, verb, encode_refusal(request_id, reason, sentence))

    def resume(self, session: Session) -> None:
        """Take note that the output of a session's connection, which was paused, is sent."""
        for call in self.on_resume:
            call(session)

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
        is_write, is_deferred = _IS_WRITE[verb], _IS_DEFERRED[verb]
        if is_write or is_deferred:
            why = self._sessions.refusal(session, is_write=is_write, is_deferred=is_deferred)
            if why is not None:  # not kept: that would be one more
                self.send(session, encode_refusal(request_id, CloseReason.TOO_MANY_PENDING, why))
                return
        if handler is None:
            sentence = f"this server does not know {SessionVerb(verb).name}"
            self.refuse(session, request_id, verb, CloseReason.UNKNOWN_VERB, sentence)
            return
        if self._forbids is not None and (why := self._forbids(session.identity, request)) is not None:
            self.refuse(session, request_id, verb, CloseReason.FORBIDDEN, why)
            return
        self._try(handler.apply, session, request_id, request)

    def _try(self, apply: _Apply, session: Session, request_id: int, request: Request) -> None:
        try:
            apply(session, request_id, request)
        except (RequestError, KeyspaceError) as refusal:
            self.refuse(session, request_id, request[0], refusal.reason, str(refusal))

    def _cancel(self, session: Session, request_id: int) -> None:
        pending = session.pending.get(request_id)
        if pending is None:
            return
        cancel = self.handlers[pending.request[0]].cancel
        if cancel is not None:
            del session.pending[request_id]
            cancel(session, request_id, pending)

    def send(self, session: Session, head: bytes, body: bytes = b"") -> None:
        """Send a frame in one or two pieces that is not kept: an answer to a read, or an event."""
        peer = session.peer
        if peer is None:
            return
        self.produced += len(head) + len(body)
        if not body:
            self._ground.effects.append(Reply(peer, head))
        elif len(body) <= COPIED_SIZE_MAX:
            self._ground.effects.append(Reply(peer, head + body))
        else:
            self._ground.effects += (Reply(peer, head), Reply(peer, body))

    def answer_empty(self, session: Session, request_id: int, request: Request) -> None:
        """Answer OK without fields."""
        self.answer(session, request_id, request[0], encode_empty(request_id))

    def answer_number(self, session: Session, request_id: int, request: Request, number: int) -> None:
        """Answer OK with one I64."""
        self.answer(session, request_id, request[0], encode_number(request_id, number))

    def answer_stored(self, session: Session, request_id: int, request: Request, value: bytes) -> None:
        """Answer OK with one STORED."""
        self.answer(session, request_id, request[0], encode_stored_head(request_id, len(value)), value)

    def answer_pieces(self, session: Session, request_id: int, pieces: list[bytes]) -> None:
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

    # --- waiters of the ground ---------------------------------------------------------------------------

    def pend(self, session: Session, request_id: int, request: Request) -> int:
        """Note that a request waits; give it the number of a waiter for ``ground``, until ``unpend``."""
        self._last_waiter -= 1
        waiter = self._last_waiter
        self._waiting[waiter] = (session, request_id)
        session.pending[request_id] = Pending(request, self._ground.now, waiter)
        return waiter

    def unpend(self, waiter: int) -> None:
        """Take note that a waiter is registered no more, and nobody will release it."""
        del self._waiting[waiter]

    def _released(self, waiter: int) -> None:
        """Answer a request whose wait is over."""
        session, request_id = self._waiting.pop(waiter)
        request = session.pending.pop(request_id).request
        name = self._ground.waiters.called_to(waiter)
        if name is not None:
            session.calls[waiter] = name
        release = self.handlers[request[0]].release
        assert release is not None
        try:
            release(session, request_id, request)
        except RequestError as refusal:
            self.refuse(session, request_id, request[0], refusal.reason, str(refusal))
