"""What ends by time: handshakes that do not come, sessions that nobody comes back to; and what is done by and by.

Rules:

- The engine asks every part when it is due, and tells all of them the time when any of them is.
- Handshakes have the same time each, so that they are due in the order in which they began.
- A session without a connection ends when its time is over. A server that stood still could not hear those that came
  back: it gives them ``GRACE_S`` to be heard.
- What may be done later is due at once, and done in portions, so that nobody waits for more than one of them.

What this file does not know: why, and what follows from it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from rallypoint.server.ground import Ground
from rallypoint.server.limits import GRACE_S, STALL_S
from rallypoint.server.session_verbs import SessionVerbs
from rallypoint.server.sessions import Sessions

__all__ = ["Handshakes", "Leftovers", "SessionEnds", "Timed"]


class Timed(Protocol):
    """A part of the server in which something ends by time."""

    def next_deadline(self) -> float | None:
        """Give the time at which ``tick`` is due, ``None`` if no time matters now."""

    def tick(self, now: float) -> None:
        """End what is over by now; called whenever any part is due."""


class Handshakes:
    """The peers whose handshake is still to come.

    Args:
        timeout_s: the time for it.
        expired: called with each peer that has not kept it; ``end`` of it must follow.

    Cost: O(1) for each peer.
    """

    def __init__(self, timeout_s: float, expired: Callable[[int], None]) -> None:
        self._timeout_s = timeout_s
        self._expired = expired
        # A plain dict does not find its first entry in O(1) after deletions.
        self._deadlines: OrderedDict[int, float] = OrderedDict()

    def begin(self, peer: int, now: float) -> None:
        """Give a peer the time for a handshake."""
        self._deadlines[peer] = now + self._timeout_s

    def end(self, peer: int) -> None:
        """Take note that a handshake is done, or its peer gone."""
        self._deadlines.pop(peer, None)

    def __len__(self) -> int:
        """Count those that are under way."""
        return len(self._deadlines)

    def oldest(self) -> int | None:
        """Give the peer whose handshake began first, ``None`` if none is under way."""
        return next(iter(self._deadlines), None)

    def next_deadline(self) -> float | None:
        """Give when the first is due."""
        return next(iter(self._deadlines.values()), None)

    def tick(self, now: float) -> None:
        """Report those that have not come in time."""
        while (found := next(iter(self._deadlines.items()), None)) is not None and found[1] <= now:
            self._expired(found[0])


class SessionEnds:
    """The sessions that have no connection.

    Args:
        sessions: all sessions.
        verbs: ends one.
    """

    def __init__(self, sessions: Sessions, verbs: SessionVerbs) -> None:
        self._sessions = sessions
        self._verbs = verbs
        self._grace_until = -math.inf

    def next_deadline(self) -> float | None:
        """Give when the next session ends, ``None`` if none does."""
        end = self._sessions.next_end()
        return None if end is None else max(end, self._grace_until)

    def tick(self, now: float) -> None:
        """End the sessions whose time is over."""
        deadline = self.next_deadline()
        if deadline is None or deadline > now:
            return
        if now - deadline > STALL_S:
            self._grace_until = now + GRACE_S
            return
        for session in self._sessions.ended(now):
            self._verbs.end(session)


class Leftovers:
    """What is left of waits for many names that are over.

    Args:
        ground: where it is.
    """

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def next_deadline(self) -> float | None:
        """Give the time of the last step if there is something left: it is due."""
        return None if self._ground.is_tidy else self._ground.now

    def tick(self, now: float) -> None:  # noqa: ARG002 - it is due at any time
        """Take a portion away."""
        self._ground.tidy()
