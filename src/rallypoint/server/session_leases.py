"""LEASE_GRANT, LEASE_RENEW, LEASE_REVOKE of sessions, the lease that SWAP names, and the ends of leases.

Rules:

- A lease that ends, by request, with its session or by time, has its keys deleted in the same step, as DELETE_KEY
  deletes them: whoever watches or waits is told.
- SWAP with a lease that is not there changes nothing.

Theory of operation::

    SWAP k lease 3 --> leases.check(3) --> keyspace --> KeySet(k, lease 3) --> leases.follow(k, 3)
    SET k          -----------------------> keyspace --> KeySet(k, lease 0) --> leases.follow(k, 0)
    LEASE_REVOKE 3, session ends, time --> Ended(3, keys) --> ground.delete(each key)

What this file does not know: when leases end, connections, who watches.
"""

from __future__ import annotations

from collections.abc import Mapping

from rallypoint.protocol.codec import Request
from rallypoint.protocol.session.codec import encode_number
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.server.changes import Change, KeyDeleted, KeySet, LeaseEnded, LeaseGranted, State
from rallypoint.server.followers import Followers
from rallypoint.server.ground import Ground
from rallypoint.server.leases import Ended, Leases
from rallypoint.server.limits import GRACE_S, STALL_S
from rallypoint.server.session_keys import KeyVerbs
from rallypoint.server.session_verbs import SessionVerbs, VerbHandler
from rallypoint.server.sessions import Session

__all__ = ["SessionLeases"]


class SessionLeases:
    """The leases of one server's sessions.

    Args:
        ground: where their keys are.
        verbs: where the verbs are registered.
        keys: where SWAP is.
        followers: how to learn which keys are written and deleted.

    Attributes:
        leases: the leases. Read only, for others.

    Threads: none but the caller's.
    """

    def __init__(self, ground: Ground, verbs: SessionVerbs, keys: KeyVerbs, followers: Followers) -> None:
        self._ground = ground
        self._verbs = verbs
        self._followers = followers
        self.leases = Leases(ground.limits.leases_max, STALL_S, GRACE_S)
        verbs.register(SessionVerb.LEASE_GRANT, VerbHandler(self._grant))
        verbs.register(SessionVerb.LEASE_RENEW, VerbHandler(self._renew))
        verbs.register(SessionVerb.LEASE_REVOKE, VerbHandler(self._revoke))
        verbs.on_end.append(self._end_session)
        keys.check_lease = self._check

    def next_deadline(self) -> float | None:
        """Give when the next lease ends, ``None`` if none does by time."""
        return self.leases.next_deadline()

    def tick(self, now: float) -> None:
        """End the leases whose time is over."""
        for ended in self.leases.due(now):
            self._end(ended)

    def restore(self, state: State, sessions: Mapping[bytes, Session]) -> None:
        """Put back the leases of an earlier life; their times begin anew.

        Args:
            state: what has been remembered.
            sessions: those put back, by id.
        """
        for lease, was in state.leases.items():
            session = sessions.get(was.session)
            number = 0 if session is None else session.number
            self.leases.restore(lease, number, was.identity, was.ttl_ms, self._ground.now)
        self.leases.restore_last(state.lease_last)
        if state.leases:
            self._followers.join(self._changed)
            for key, entry in state.keys.items():
                self.leases.follow(key, entry.lease)

    # --- verbs -------------------------------------------------------------------------------------------

    def _grant(self, session: Session, request_id: int, request: Request) -> None:
        ttl_ms = request[1]
        lease = self.leases.grant(session.number, session.identity, ttl_ms, self._ground.now)
        self._followers.join(self._changed)
        self._ground.note(LeaseGranted(lease, ttl_ms, session.session_id, session.identity))
        self._verbs.answer(session, request_id, request[0], encode_number(request_id, lease))

    def _renew(self, session: Session, request_id: int, request: Request) -> None:
        left_ms = self.leases.renew(request[1], session.identity, self._ground.now)
        self._verbs.answer(session, request_id, request[0], encode_number(request_id, left_ms))

    def _revoke(self, session: Session, request_id: int, request: Request) -> None:
        ended = self.leases.revoke(request[1], session.identity)
        self._end(ended)
        self._verbs.answer(session, request_id, request[0], encode_number(request_id, len(ended.keys)))

    def _check(self, session: Session, lease: int) -> None:
        self.leases.check(lease, session.identity)

    # --- what happens ------------------------------------------------------------------------------------

    def _changed(self, change: Change) -> None:
        if isinstance(change, KeySet):
            self.leases.follow(change.key, change.lease)
        elif isinstance(change, KeyDeleted):
            self.leases.follow(change.key, 0)

    def _end_session(self, session: Session) -> None:
        for ended in self.leases.end_session(session.number):
            self._end(ended)

    def _end(self, ended: Ended) -> None:
        for key in ended.keys:
            self._ground.delete(key)
        self._ground.note(LeaseEnded(ended.lease))
        if not len(self.leases):
            self._followers.leave(self._changed)
