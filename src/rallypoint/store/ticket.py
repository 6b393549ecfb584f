"""A request of a session, and the thread that waits for its answer."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, TypeAlias

from rallypoint.protocol.session.client import Happening, Request
from rallypoint.protocol.session.spec import SessionVerb

if TYPE_CHECKING:
    from rallypoint.store.uplink import Link

__all__ = ["Begun", "Hear", "Ticket", "hand_out", "wake_each"]

Hear: TypeAlias = "Callable[[Happening | None], Ticket | None]"
"""Takes a watch's event, or none if there will be no more; gives the ticket of who waits for it."""


class Ticket(Request):
    """A request, and the thread that waits for its answer.

    Attributes:
        thread: which one.
        started: since when, on the monotonic clock.
        leads: it reads for all.
        former: the ticket that led before, if the same thread waits for that one, too: it is in a signal's handler.
        waker: what a following thread sleeps on.
        hear: where a watch's events go.
        sleeps: nothing was there at the first look, or nothing is expected to be: who leads waits before it looks.
    """

    __slots__ = ("former", "hear", "leads", "sleeps", "started", "thread", "waker")

    def __init__(self, verb: SessionVerb) -> None:
        super().__init__(verb)
        self.thread = threading.get_ident()
        self.started = 0.0
        self.leads = False
        self.former: Ticket | None = None
        self.waker: threading.Lock | None = None
        self.hear: Hear | None = None
        self.sleeps = False

    def is_open(self) -> bool:
        """Tell whether there is neither an answer nor a reason why there will be none."""
        return self.status is None and self.failure is None

    def wake(self) -> None:
        """Let the following thread look."""
        waker = self.waker
        if waker is not None:
            with contextlib.suppress(RuntimeError):  # it is awake
                waker.release()


class Begun(float):
    """A caller's timeout in seconds, and with it a request that the lane has begun (``store.lane``).

    Attributes:
        ticket: the request, which leads.
        link: the connection that it was begun on.
        data: what was received since then.
    """

    __slots__ = ("data", "link", "ticket")

    data: bytes
    link: Link
    ticket: Ticket


def wake_each(requests: Iterable[Request], but: Ticket | None = None) -> None:
    """Let the threads look that wait for these requests."""
    for request in requests:
        if request is not but and isinstance(request, Ticket):
            request.wake()


def hand_out(events: Iterable[tuple[Request, Happening | None]]) -> None:
    """Hand events to their watches, and wake who waits for them."""
    for request, happening in events:
        if isinstance(request, Ticket) and request.hear is not None:
            waiting = request.hear(happening)
            if waiting is not None:
                waiting.wake()
