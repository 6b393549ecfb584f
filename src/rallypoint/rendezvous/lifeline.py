"""How long a node may take it that the others count on it, on its own clock.

Rules
-----
1. A lease outlives the *sending* of a renewal that was acknowledged by its whole time; a node counts on
   ``CUT_OFF_SHARE`` of that, so it stops before the store can end the lease.
2. A session outlives its connection by its own time. A node whose connection was lost, and not made again, stops
   ``RESUME_S`` after the store may have ended the session; the coordinator holds the next world back for a little
   longer than that (``office.HOLD_S``).

What this file does not know: what stops, how anything was heard.
"""

from __future__ import annotations

__all__ = ["CUT_OFF_SHARE", "RESUME_S", "Lifeline"]

CUT_OFF_SHARE = 0.8
"""A node takes itself for cut off after this share of its lease's time."""

RESUME_S = 0.05
"""For so much longer than the store keeps its session, in seconds, a node tries to make a lost connection again."""


class Lifeline:
    """What was heard last.

    Args:
        ttl_s: the time to live of the node's lease, in seconds.

    Threads: one at a time.
    """

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._renewed_at = float("-inf")
        self._session_ends_at = float("inf")

    def renew(self, sent_at: float) -> None:
        """Note that a renewal was acknowledged, and when it was sent."""
        self._renewed_at = max(self._renewed_at, sent_at)

    def doubt(self, ends_at: float) -> None:
        """Note when the store may end the session; infinity: there is no doubt that it lasts."""
        self._session_ends_at = ends_at

    def has_ended(self, now: float) -> bool:
        """Tell whether the store may have ended the session."""
        return now >= self._session_ends_at

    def forget(self) -> None:
        """Count on nothing before the lease is renewed again."""
        self._renewed_at = float("-inf")

    def ends_at(self) -> float:
        """Give when the node takes itself for cut off, unless something is heard until then."""
        return min(self._renewed_at + CUT_OFF_SHARE * self._ttl_s, self._session_ends_at + RESUME_S)

    def tell_end(self, now: float) -> str:
        """Give a sentence about why the node is cut off."""
        if now < self._session_ends_at + RESUME_S:
            silent_s = now - self._renewed_at
            what = f"no renewal of this node's lease that was sent in the last {silent_s:.1f} s was acknowledged"
        else:
            what = "the connection to the store was lost, and was not made again while its session lasted"
        return f"{what}, so this node stops: it cannot know whether the others go on"
