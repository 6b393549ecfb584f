"""The parts that serve sessions, put together: what stands in the session dialect's place in the engine.

What this file does not know: anything but who needs whom.
"""

from __future__ import annotations

from rallypoint.protocol.session.spec import SESSION_ID_SIZE
from rallypoint.server.access import Gate
from rallypoint.server.changes import State
from rallypoint.server.followers import Followers
from rallypoint.server.ground import Ground
from rallypoint.server.ids import Ids
from rallypoint.server.session_dialect import Connections, SessionDialect
from rallypoint.server.session_groups import SessionGroups
from rallypoint.server.session_keys import KeyVerbs
from rallypoint.server.session_leases import SessionLeases
from rallypoint.server.session_verbs import SessionVerbs
from rallypoint.server.session_waits import WaitVerbs
from rallypoint.server.session_watches import SessionWatches
from rallypoint.server.sessions import Sessions
from rallypoint.server.timed import Leftovers, SessionEnds, Timed

__all__ = ["SessionParts"]


class SessionParts:
    """All that serves the sessions of one server.

    Args:
        ground: keys, queues and waits.
        connections: the engine.
        seed: where ids and nonces come from.
        gate: who may come in and do what; ``None`` lets in everybody.
        data_id: of what the server holds; empty for a server that begins with nothing.

    Attributes:
        dialect: what connections say.
        sessions: those there are.
        verbs: what their requests do.
        keys: those on keys and queues that need not wait.
        groups: barriers and exchanges.
        leases: those there are.
        watches: those there are.
        forbids: says why an identity may not do what it asks for; ``None`` without rules.
        life_id: of this life of the server.
        data_id: of what it holds.
        timed: what ends by time, in the order in which it is told the time.
    """

    def __init__(
        self, ground: Ground, connections: Connections, *, seed: bytes, gate: Gate | None, data_id: bytes
    ) -> None:
        ids = Ids(seed)
        self.life_id = ids.make(b"life", SESSION_ID_SIZE)
        self.data_id = data_id or self.life_id
        self.forbids = gate.forbids if gate is not None and gate.has_rules else None
        self._ground = ground
        self.sessions = Sessions(ground.limits, ids, None if ground.changes is None else ground.note)
        self.verbs = SessionVerbs(ground, self.sessions, self.forbids)
        self.keys = KeyVerbs(ground, self.verbs)
        WaitVerbs(ground, self.sessions, self.verbs)
        followers = Followers(ground)
        self.groups = SessionGroups(ground, self.sessions, self.verbs)
        self.leases = SessionLeases(ground, self.verbs, self.keys, followers)
        self.watches = SessionWatches(ground, self.verbs, followers, connections)
        self.dialect = SessionDialect(
            ground,
            self.sessions,
            self.verbs,
            connections=connections,
            ids=ids,
            gate=gate,
            data_id=self.data_id,
            life_id=self.life_id,
        )
        self.timed: tuple[Timed, ...] = (SessionEnds(self.sessions, self.verbs), self.leases, Leftovers(ground))

    def restore(self, state: State, now: float) -> None:
        """Begin with what an earlier life has left; the journal is told nothing."""
        self._ground.restore(state)
        self.sessions.restore(state, now)
        by_id = {session.session_id: session for session in self.sessions}
        self.leases.restore(state, by_id)
        self.groups.restore(state, by_id)

    def settle(self) -> None:
        """Tell the groups which sessions have ended in this step."""
        self.groups.settle()
