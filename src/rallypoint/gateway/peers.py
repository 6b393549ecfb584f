"""One local peer of a relay or a gateway: its line of requests, and why nothing more of it is taken for now.

Requests have a place in the line, a *slot*, from when they come until their replies leave. Filled slots leave from the
front; a wait that is not filled does not keep those behind it.

What this file does not know: other peers, calls upstream, effects.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from rallypoint.gateway.slots import Slot
from rallypoint.protocol.server import RequestReader

__all__ = ["Peer"]


class Peer:
    """One local peer.

    Args:
        number: the loop's for it.
        reader: cuts its bytes into requests.

    Attributes:
        slots: its line.
        size: bytes of the requests in it.
        held: bytes that the reader kept when they were last accounted for.
        caused: bytes of replies since it was last resumed.
        wait: the call of its WAIT or BARRIER.
        postponed: the call that was withdrawn, and what takes its place.
        is_held: it is not read.
        is_paused: it is to be sent what it has caused before it causes more.
        is_stalled: the last slot is to be filled, or begun, before the next request.
        is_refused: nothing more of it is taken.
        is_session: it opens with the other dialect.
        is_gone: it is connected no more.
    """

    __slots__ = (
        "caused",
        "held",
        "is_gone",
        "is_held",
        "is_paused",
        "is_refused",
        "is_session",
        "is_stalled",
        "number",
        "postponed",
        "reader",
        "size",
        "slots",
        "wait",
    )

    def __init__(self, number: int, reader: RequestReader) -> None:
        self.number = number
        self.reader = reader
        self.slots: deque[Slot] = deque()
        self.size = 0
        self.held = 0
        self.caused = 0
        self.wait: int | None = None
        self.postponed: tuple[int, Slot] | None = None
        self.is_held = False
        self.is_paused = False
        self.is_stalled = False
        self.is_refused = False
        self.is_session = False
        self.is_gone = False

    def leaving(self) -> Iterator[Slot]:
        """Take those out of the line whose turn it is, and give them.

        Cost: one step for each of them, and for each wait in front of them.
        """
        slots = self.slots
        passed: list[Slot] = []
        while slots:
            slot = slots[0]
            if slot.pieces is None:
                if not slot.is_deferred:
                    break
                passed.append(slots.popleft())
                continue
            slots.popleft()
            self.size -= slot.size
            if slot.is_stalling:
                self.is_stalled = False
            yield slot
        if passed:
            slots.extendleft(reversed(passed))
