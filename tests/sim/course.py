"""What a simulated process does one after the other, as a generator: it yields what it waits for.

::

    def keep(client):
        status, fields = yield Ask(client, SessionVerb.LEASE_GRANT, 5000)
        while True:
            yield Pause(1.0)
            status, _ = yield Ask(client, SessionVerb.LEASE_RENEW, fields[0])
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from tests.sim.store import SimClient

from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.store.session_calls import ANY_REVISION
from rallypoint.testing import SimHost

__all__ = ["Ask", "Box", "Course", "Pause", "SessionGoneError", "Take", "mark"]


class SessionGoneError(Exception):
    """The server does not know the session any more, and with it nobody knows what became of a request."""


class Ask(NamedTuple):
    """Wait for an answer: ``(status, fields)``."""

    client: SimClient
    verb: Any
    fields: tuple[Any, ...]


class Pause(NamedTuple):
    """Wait for some seconds."""

    seconds: float


class Box:
    """What was put in and not taken out; one course waits for it at most."""

    def __init__(self) -> None:
        self.items: deque[Any] = deque()
        self._waiting: Callable[[], None] | None = None

    def put(self, item: Any) -> None:
        """Put something in."""
        self.items.append(item)
        wake, self._waiting = self._waiting, None
        if wake is not None:
            wake()

    def await_item(self, wake: Callable[[], None]) -> None:
        """Have the next ``put`` say so."""
        self._waiting = wake


class Take(NamedTuple):
    """Wait until there is something in a box, for so many seconds at most; gives whether there is."""

    box: Box
    seconds: float


class Course:
    """A generator on a host; it ends with the host, or by ``stop``."""

    def __init__(self, host: SimHost, steps: Generator[Any, Any, None]) -> None:
        self._host = host
        self._steps = steps
        self._waits = 0
        self._is_over = False
        self._next: Callable[[], object] = lambda: None
        host.after(0.0, lambda: self._go_on(None))

    def stop(self) -> None:
        """End it where it waits."""
        self._is_over = True
        self._waits += 1
        self._steps.close()

    def then(self, callback: Callable[[], object]) -> None:
        """Have something happen when it has come to its end by itself."""
        if self._is_over:
            callback()
        else:
            self._next = callback

    def _expect(self, seconds: float, turn: int) -> None:
        self._host.after(seconds, lambda: self._go_on(None) if turn == self._waits else None)

    def _answer(self, turn: int, status: Any, fields: tuple[Any, ...]) -> None:
        if turn != self._waits:
            return
        if status is None:
            self._go_on(SessionGoneError())
        else:
            self._go_on((status, fields))

    def _go_on(self, value: Any) -> None:
        if self._is_over:
            return
        self._waits += 1
        try:
            wanted = self._steps.throw(value) if isinstance(value, Exception) else self._steps.send(value)
        except StopIteration:
            self._is_over = True
            self._next()
            return
        turn = self._waits
        if isinstance(wanted, Ask):
            wanted.client.ask(
                wanted.verb, *wanted.fields, then=lambda status, fields: self._answer(turn, status, fields)
            )
        elif isinstance(wanted, Pause):
            self._expect(wanted.seconds, turn)
        elif wanted.box.items:
            self._expect(0.0, turn)
        else:
            wanted.box.await_item(lambda: self._expect(0.0, turn))
            self._expect(wanted.seconds, turn)


def mark(client: SimClient, key: str, value: str) -> Generator[Any, Any, None]:
    """Write a key that goes with the session."""
    _, (lease,) = yield Ask(client, SessionVerb.LEASE_GRANT, (0,))
    yield Ask(client, SessionVerb.SWAP, (key.encode(), ANY_REVISION, value.encode(), lease))
