"""What follows from looks at a round: what the agent is told, and when to look again.

Rules
-----
1. A rendezvous that does not answer is told once, and once that it answers again.
2. The end of the round is told once. A round that is over is looked at further where the handler can tell its news by
   itself: the others may go on without this node, and then its workers must not take time to end.
3. A handler that can tell its news by itself is asked nobody else: it is looked at every ``LOOK_S``, in trouble too. A
   node that takes itself for cut off has to stop within some hundredths of a second (``lifeline.RESUME_S``), and is in
   trouble when it does. Other handlers may ask a store: they are left alone for longer and longer.

What it does not know: the handler, threads, clocks; what a look is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from rallypoint.agent.moves import CutOff, Event, Fenced, RoundOver, RunClosed, StoreBack, StoreLost
from rallypoint.rendezvous.handler import RoundNews, RoundStatus

__all__ = ["LOOK_S", "PAUSE_MAX_S", "PAUSE_MIN_S", "Found", "RoundLooks", "event_of"]

LOOK_S = 0.02
"""Between looks that ask nobody, in seconds."""

PAUSE_MIN_S, PAUSE_MAX_S = 0.1, 2.0
"""Between looks at a rendezvous that does not answer, in seconds."""


class Found(NamedTuple):
    """What follows from a look.

    Attributes:
        event: what the agent is told; ``None``: nothing new.
        pause_s: after so many seconds comes the next look; ``None``: there is nothing more to hear.
    """

    event: Event | None
    pause_s: float | None


class RoundLooks:
    """The looks at one round, from its beginning on.

    Args:
        tells_by_itself: whether the handler can wait for news; then a look at a round that goes on may take long.

    Threads: call from one thread.
    """

    def __init__(self, *, tells_by_itself: bool) -> None:
        self._tells_by_itself = tells_by_itself
        self._pause_s = 0.0
        self._is_over = False

    def take(self, news: RoundNews) -> Found:
        """Take what a look has shown."""
        was_lost, self._pause_s = self._pause_s > 0.0, 0.0
        if news.status is RoundStatus.CURRENT:
            return Found(StoreBack() if was_lost else None, 0.0)
        if news.status is not RoundStatus.OVER:
            is_late = self._is_over and news.status is RoundStatus.CLOSED  # the next rendezvous tells how it ended
            return Found(None if is_late else event_of(news), None)
        was_over, self._is_over = self._is_over, True
        return Found(None if was_over else event_of(news), LOOK_S if self._tells_by_itself else None)

    def fail(self, why: str) -> Found:
        """Take it that a look went wrong."""
        if self._is_over:
            return Found(None, LOOK_S)
        event = None if self._pause_s else StoreLost(why)
        self._pause_s = LOOK_S if self._tells_by_itself else min(PAUSE_MAX_S, max(PAUSE_MIN_S, 2 * self._pause_s))
        return Found(event, self._pause_s)


def event_of(news: RoundNews) -> Event:
    """Give the event for a round that does not go on."""
    if news.status is RoundStatus.CLOSED:
        return RunClosed(news.outcome, news.why)
    return _ENDS.get(news.status, RoundOver)(news.why)


_ENDS: Mapping[RoundStatus, type[RoundOver | Fenced | CutOff]] = {
    RoundStatus.FENCED: Fenced,
    RoundStatus.CUT_OFF: CutOff,
}
