"""MEET and EXCHANGE of sessions: arrivals in, one answer for each member out.

Rules:

- A member that waits outlives its connection; when its session ends, it is gone.
- The value list of an exchange is made once and shared by all answers.
- Sessions that end in one step are gone at once, so that those who wait learn of all of them.

Theory of operation::

    MEET, EXCHANGE --> groups.arrive --> Met: OK to all | Lost: LOST | Refused: REFUSED | nothing: it waits
    CANCEL         --> groups.cancel --> EXPIRED: who is missing, who waits
    session ends   --> noted, and told to the groups at the end of the step: settle

What this file does not know: the rules of groups, connections, how answers are kept.
"""

from __future__ import annotations

from collections.abc import Mapping

from rallypoint.protocol.codec import I64, U64, Request
from rallypoint.protocol.session.codec import REPLY_HEAD_SIZE, encode_number, encode_reply, encode_reply_head
from rallypoint.protocol.session.spec import CLOSING_ID, SessionVerb, Status
from rallypoint.server.changes import GroupForgotten, GroupMet, Member, State
from rallypoint.server.ground import Ground
from rallypoint.server.group import Arrival, Forgotten, Lost, Met, Outcome
from rallypoint.server.groups import Groups
from rallypoint.server.session_verbs import SessionVerbs, VerbHandler
from rallypoint.server.sessions import Pending, Session, Sessions

__all__ = ["SessionGroups"]


class SessionGroups:
    """The groups of one server's sessions.

    Args:
        ground: for its time, its limits and its journal.
        sessions: all sessions.
        verbs: where MEET and EXCHANGE are registered.

    Attributes:
        groups: the groups. Read only, for others.

    Threads: none but the caller's.
    """

    def __init__(self, ground: Ground, sessions: Sessions, verbs: SessionVerbs) -> None:
        limits = ground.limits
        self._ground = ground
        self._sessions = sessions
        self._verbs = verbs
        self._ended: list[int] = []
        self.groups = Groups(limits.groups_max, limits.group_members_max, limits.group_values_size_max)
        handler = VerbHandler(self._arrive, cancel=self._cancel, stays=True)
        verbs.register(SessionVerb.MEET, handler)
        verbs.register(SessionVerb.EXCHANGE, handler)
        verbs.on_end.append(self._end)

    def settle(self) -> None:
        """Tell the groups which sessions have ended; whoever ends a step does this."""
        if self._ended:
            ended, self._ended = self._ended, []
            for outcome in self.groups.end(ended, self._sessions.newest, self._ground.now):
                self._tell(outcome)

    def restore(self, state: State, sessions: Mapping[bytes, Session]) -> None:
        """Put back the groups of an earlier life.

        Args:
            state: what has been remembered.
            sessions: those put back, by id; members whose session has ended are left out.
        """
        for (kind, name), was in state.groups.items():
            members = [
                (member.rank, sessions[member.session].number, member.label)
                for member in was.members
                if member.session in sessions
            ]
            self.groups.restore(kind, name, was.generation, members, self._ground.now)

    # --- verbs -------------------------------------------------------------------------------------------

    def _arrive(self, session: Session, request_id: int, request: Request) -> None:
        self.settle()
        session.pending[request_id] = Pending(request, self._ground.now)
        for outcome in self.groups.arrive(_arrival(session, request_id, request), self._ground.now):
            self._tell(outcome)

    def _cancel(self, session: Session, request_id: int, pending: Pending) -> None:
        verb = pending.request[0]
        expired = self.groups.cancel(_arrival(session, request_id, pending.request), self._ground.now)
        assert expired is not None  # what is pending waits there
        self._verbs.answer(
            session,
            request_id,
            verb,
            encode_reply(Status.EXPIRED, SessionVerb(verb), request_id, expired.missing, expired.waiting),
        )

    def _end(self, session: Session) -> None:
        self._ended.append(session.number)

    # --- answers -----------------------------------------------------------------------------------------

    def _tell(self, outcome: Outcome) -> None:
        if isinstance(outcome, Met):
            self._tell_met(outcome)
        elif isinstance(outcome, Lost):
            self._tell_lost(outcome)
        elif isinstance(outcome, Forgotten):
            self._ground.note(GroupForgotten(outcome.kind, outcome.name))
        else:
            session = self._session(outcome.session)
            verb = session.pending.pop(outcome.request).request[0]
            self._verbs.refuse(session, outcome.request, verb, outcome.reason, outcome.sentence)

    def _tell_met(self, met: Met) -> None:
        answer = self._verbs.answer
        if self._ground.changes is not None:
            members = (
                Member(rank, self._session(seated.session).session_id, seated.label)
                for rank, seated in enumerate(met.members)
            )
            self._ground.note(GroupMet(met.kind, met.name, met.generation, tuple(members)))
        if met.kind == SessionVerb.MEET:
            for number, request_id, _ in met.members:
                session = self._session(number)
                del session.pending[request_id]
                answer(session, request_id, met.kind, encode_number(request_id, met.generation))
            return
        parts = [I64.pack(met.generation)]
        for value in met.values:
            parts += (U64.pack(len(value)), value)
        body = b"".join(parts)
        for number, request_id, _ in met.members:
            session = self._session(number)
            del session.pending[request_id]
            head = encode_reply_head(Status.OK, request_id, len(body))
            answer(session, request_id, met.kind, head, body, sharers=len(met.members))

    def _tell_lost(self, lost: Lost) -> None:
        body = encode_reply(Status.LOST, None, CLOSING_ID, lost.gone)[REPLY_HEAD_SIZE:]
        for number, request_id in lost.waiting:
            session = self._session(number)
            verb = session.pending.pop(request_id).request[0]
            head = encode_reply_head(Status.LOST, request_id, len(body))
            self._verbs.answer(session, request_id, verb, head, body, sharers=len(lost.waiting))

    def _session(self, number: int) -> Session:
        session = self._sessions.numbered(number)
        assert session is not None  # the groups have been told of all that ended
        return session


def _arrival(session: Session, request_id: int, request: Request) -> Arrival:
    verb, name, rank, size, label, *value = request
    return Arrival(verb, name, rank, size, label, value[0] if value else b"", session.number, request_id)
