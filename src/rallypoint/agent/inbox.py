"""What other threads and signal handlers have to say to the agent's loop."""

from __future__ import annotations

import queue
from collections.abc import Callable

from rallypoint.agent.moves import Event

__all__ = ["Inbox"]


class Inbox:
    """Events for the loop, in the order of arrival.

    Attributes:
        wake: called after each event, to end a wait that does not look into the inbox; safe in signal handlers.

    Threads: ``put`` is safe in any thread and in signal handlers; one thread calls ``get``.
    """

    def __init__(self) -> None:
        self.wake: Callable[[], None] | None = None
        # The one queue of Python that may be written to by a signal handler while the same thread reads it.
        self._queue: queue.SimpleQueue[tuple[int | None, Event]] = queue.SimpleQueue()

    def put(self, event: Event, token: int | None = None) -> None:
        """Add an event.

        Args:
            event: what happened.
            token: the round that it is about; it is dropped if the loop has gone on meanwhile. ``None``: it is
                about no round.
        """
        self._queue.put((token, event))
        wake = self.wake
        if wake is not None:
            wake()

    def get(self, timeout_s: float, token: int) -> Event | None:
        """Give the next event that is about no round or about the round ``token``.

        Args:
            timeout_s: seconds to wait for an event; 0 looks once.
            token: the present round.

        Returns:
            The event, or ``None`` if none came in time, or the one that came is about another round.
        """
        try:
            about, event = self._queue.get(timeout=timeout_s) if timeout_s > 0 else self._queue.get_nowait()
        except queue.Empty:
            return None
        return event if about is None or about == token else None
