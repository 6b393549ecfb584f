"""Which descriptors are ready: ``epoll`` where there is one, else ``poll``, as one small interface.

``selectors`` would do, at twice the cost per event: it looks up and builds an object for each, and the loop needs
only the descriptor's number.
"""

from __future__ import annotations

import math
import select
from typing import Protocol

__all__ = ["READ", "WRITE", "PlainPoller", "Poller", "make_poller"]

READ = select.POLLIN
"""Bytes, a connection or the peer's end can be read. ``epoll`` has the same number."""

WRITE = select.POLLOUT
"""Bytes can be written. ``epoll`` has the same number."""


class Poller(Protocol):
    """What the loop needs; ``select.epoll`` has it as it is.

    A descriptor that was registered for nothing still reports errors and the loss of its peer.
    """

    def register(self, fd: int, eventmask: int, /) -> None:
        """Watch a descriptor for events, an or of ``READ`` and ``WRITE``."""
        ...

    def modify(self, fd: int, eventmask: int, /) -> None:
        """Watch it for other events from now on."""
        ...

    def unregister(self, fd: int, /) -> None:
        """Watch it no more."""
        ...

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """Wait for events.

        Args:
            timeout: seconds; -1 waits without end.
            maxevents: so many at most are wanted.

        Returns:
            Pairs of descriptor and events.
        """
        ...

    def close(self) -> None:
        """Give back what the poller holds."""
        ...


class PlainPoller:
    """``select.poll`` in the shape of ``select.epoll``: seconds instead of milliseconds."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.register = self._poll.register
        self.modify = self._poll.modify
        self.unregister = self._poll.unregister

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """Wait for events; see ``Poller``."""
        timeout_ms = None if timeout is None or timeout < 0 else math.ceil(timeout * 1000)
        ready = self._poll.poll(timeout_ms)
        return ready if maxevents < 0 else ready[:maxevents]

    def close(self) -> None:
        """Do nothing: ``poll`` holds no descriptor."""


def make_poller() -> Poller:
    """Give the fastest poller of this system."""
    return select.epoll() if hasattr(select, "epoll") else PlainPoller()
