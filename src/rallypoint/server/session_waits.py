"""What a session's requests do that wait for keys, names, items and c10d's barrier.

Rules:

- GET and MULTI_GET wait for keys, QUEUE_POP for an item, WAIT for names, BARRIER for a count. The value of a key that
  a GET has waited for, and an item, go into the reply in the step in which they come.
- A wait that ends without what it waited for is answered with what is missing.
- Whatever has changed nothing is dropped with the connection. A BARRIER has counted: it stays, is not counted again,
  and after a restart of the server waits again.
- A session that a queue's item has called from its WAIT holds the call until it pops, or loses its connection: then it
  is passed on (see ``waiters``).

What this file does not know: connections, what time it is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rallypoint.protocol.codec import U64, Request, RequestError
from rallypoint.protocol.session.codec import encode_reply
from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.ground import Ground
from rallypoint.server.session_verbs import SessionVerbs, VerbHandler
from rallypoint.server.sessions import Pending, Session, Sessions

__all__ = ["WaitVerbs"]


class WaitVerbs:
    """The verbs on keys and queues that wait; making it registers them.

    Args:
        ground: what they work on.
        sessions: where it is kept that a request has counted.
        verbs: where they are registered.
    """

    def __init__(self, ground: Ground, sessions: Sessions, verbs: SessionVerbs) -> None:
        self._ground = ground
        self._keyspace = ground.keyspace
        self._sessions = sessions
        self._verbs = verbs
        for verb, apply in ((SessionVerb.GET, self._get), (SessionVerb.MULTI_GET, self._multi_get)):
            handler = VerbHandler(apply, release=apply, cancel=self._expire_keys, drop=self._drop_keys)
            verbs.register(verb, handler)
        names = VerbHandler(self._wait, release=verbs.answer_empty, cancel=self._expire_names, drop=self._drop_names)
        verbs.register(SessionVerb.WAIT, names)
        item = VerbHandler(
            self._queue_pop, release=self._queue_pop_called, cancel=self._expire_item, drop=self._drop_item
        )
        verbs.register(SessionVerb.QUEUE_POP, item)
        count = VerbHandler(
            self._barrier,
            release=verbs.answer_empty,
            recall=self._await_count,
            cancel=self._expire_count,
            drop=self._drop_names,
            stays=True,
        )
        verbs.register(SessionVerb.BARRIER, count)

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
            self._verbs.answer_stored(session, request_id, request, value)

    def _multi_get(self, session: Session, request_id: int, request: Request) -> None:
        pieces: list[bytes] = [b""]
        for key in request[1]:
            value = self._keyspace.get(key)
            if value is None:
                self._wait_for_keys(session, request_id, request, request[1])
                return
            pieces += (U64.pack(len(value)), value)
        self._verbs.answer_pieces(session, request_id, pieces)

    def _wait_for_keys(self, session: Session, request_id: int, request: Request, keys: Iterable[bytes]) -> None:
        names = dict.fromkeys(keys)
        self._check_names(len(names))
        missing = sum(not self._keyspace.has_key(key) for key in names)
        self._ground.readers.wait(self._verbs.pend(session, request_id, request), names, missing)

    def _wait(self, session: Session, request_id: int, request: Request) -> None:
        names = dict.fromkeys(request[1])
        missing = self._keyspace.missing(names)
        if missing:
            self._check_names(len(names))
            self._ground.waiters.wait(self._verbs.pend(session, request_id, request), names, missing)
        else:
            self._verbs.answer_empty(session, request_id, request)

    def _queue_pop(self, session: Session, request_id: int, request: Request) -> None:
        name = request[1]
        for waiter, called_to in session.calls.items():
            if called_to == name:
                del session.calls[waiter]
                self._ground.waiters.popped(waiter, name)
                break
        item = self._ground.pop(name)[1]
        if item is None:
            waiting, limit = self._ground.waiting, self._ground.limits.waited_names_max
            if waiting >= limit:
                raise RequestError(CloseReason.TOO_MANY_WAITED, f"{waiting} requests wait, the limit is {limit}")
            self._ground.wait_for_item(self._verbs.pend(session, request_id, request), name)
        else:
            self._verbs.answer_stored(session, request_id, request, item)

    def _queue_pop_called(self, session: Session, request_id: int, request: Request) -> None:
        item = self._keyspace.pop(request[1])[1]
        assert item is not None
        self._verbs.answer_stored(session, request_id, request, item)

    def _barrier(self, session: Session, request_id: int, request: Request) -> None:
        count = self._ground.arrive(request[1])
        if count < request[2]:
            self._sessions.keep(session, request_id, None)
            self._await_count(session, request_id, request)
        else:
            self._verbs.answer_empty(session, request_id, request)

    def _await_count(self, session: Session, request_id: int, request: Request) -> None:
        """Wait at a barrier at which the request has counted already."""
        _, key, world_size = request
        if self._keyspace.count(key) < world_size:
            self._ground.waiters.wait_barrier(self._verbs.pend(session, request_id, request), key, world_size)
        else:
            self._verbs.answer_empty(session, request_id, request)

    # --- waits that end without what they waited for -----------------------------------------------------

    def _expire(self, session: Session, request_id: int, verb: Any, missing: list[bytes]) -> None:
        self._verbs.answer(
            session, request_id, verb, encode_reply(Status.EXPIRED, SessionVerb(verb), request_id, missing)
        )

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
        self._verbs.unpend(pending.waiter)
        self._ground.readers.forget(pending.waiter)

    def _drop_names(self, session: Session, request_id: int, pending: Pending) -> None:  # noqa: ARG002 - all take these
        self._verbs.unpend(pending.waiter)
        self._ground.abandon(pending.waiter)

    def _drop_item(self, session: Session, request_id: int, pending: Pending) -> None:  # noqa: ARG002 - all take these
        self._verbs.unpend(pending.waiter)
        self._ground.leave_queue(pending.waiter, pending.request[1])
