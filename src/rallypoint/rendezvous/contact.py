"""What one node knows of its way to the state: when it was asked for last, when it answered, what went wrong.

Rules
-----
1. A question that failed is trouble until another is answered.
2. So is one that has been without an answer for too long, though it may still be answered: a store that makes lost
   connections anew says nothing until it has, or until its own time is up.
3. Pauses between questions count for nothing.

What this file does not know: who asks, what is asked, threads (the caller holds a lock).
"""

from __future__ import annotations

from rallypoint.clock import Clock
from rallypoint.errors import RendezvousConnectionError, RendezvousError

__all__ = ["Contact"]


class Contact:
    """The memory.

    Args:
        where: whom we ask, for messages.
        patience_s: for how long a question may be unanswered, in seconds.
        clock: what all times are measured on.

    Attributes:
        patience_s: as given.
        answered_at: when the last answer came.
    """

    def __init__(self, where: str, patience_s: float, clock: Clock) -> None:
        self.patience_s = patience_s
        self.answered_at = clock.now()
        self._where = where
        self._clock = clock
        self._failure: Exception | None = None
        self._asked_at = 0.0
        self._open = 0

    def ask(self) -> None:
        """Note a question."""
        if not self._open:
            self._asked_at = self._clock.now()
        self._open += 1

    def end(self) -> None:
        """Note that a question came to its end, answered or not."""
        self._open -= 1

    def answer(self) -> None:
        """Note an answer."""
        self.answered_at = self._clock.now()

    def fail(self, failure: Exception | None) -> None:
        """Note what went wrong; ``None``: nothing any more."""
        self._failure = failure

    def trouble(self) -> RendezvousError | None:
        """Give what is wrong now, ``None`` if nothing is."""
        if self._failure is not None:
            if isinstance(self._failure, RendezvousError):
                return self._failure
            error = RendezvousConnectionError(f"the rendezvous backend failed: {self._failure}")
            error.__cause__ = self._failure
            return error
        late_s = self._late_s()
        if late_s < self.patience_s:
            return None
        return RendezvousConnectionError(f"{self._where} has not answered for {late_s:.1f} s")

    def until_trouble_s(self) -> float:
        """Give the seconds until there may be trouble that nobody tells of."""
        return max(0.0, self.patience_s - self._late_s())

    def silence(self) -> str:
        """Give a clause about what was not heard, and why if that is known."""
        silent_s = self._clock.now() - self.answered_at
        behind = None if self._failure is None else self._failure.__cause__ or self._failure
        return f"nothing was heard from {self._where} for {silent_s:.1f} s" + (f" ({behind})" if behind else "")

    def _late_s(self) -> float:
        return self._clock.now() - max(self._asked_at, self.answered_at) if self._open else 0.0
