"""A rendezvous that a test tells what to do, for agents without other nodes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rallypoint.events import Event, subscribe, unsubscribe
from rallypoint.rendezvous.handler import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
    RoundNews,
    RoundStatus,
)
from rallypoint.store.base import Store
from rallypoint.store.hash import HashStore

__all__ = ["ForeignHandler", "ScriptedHandler", "observed", "round_info"]

CURRENT = RoundNews(RoundStatus.CURRENT, "the round goes on")


def round_info(number: int = 0, rank: int = 0, count: int = 1, store: Store | None = None) -> RendezvousInfo:
    """Give a round in which this node has ``rank`` of ``count``."""
    return RendezvousInfo(store or HashStore(), rank, count, RendezvousStoreInfo("node-a", 4242), number)


@contextmanager
def observed() -> Iterator[list[Event]]:
    """Collect the events of a block."""
    seen: list[Event] = []

    def keep(event: Event) -> None:
        seen.append(event)

    subscribe(keep)
    try:
        yield seen
    finally:
        unsubscribe(keep)


class ForeignHandler(RendezvousHandler):
    """Knows torch's methods only.

    Args:
        rounds: what ``next_rendezvous`` gives or raises, one after the other.
    """

    def __init__(self, *rounds: RendezvousInfo | Exception) -> None:
        self.rounds = list(rounds)
        self.calls: list[str] = []
        self.waiting = 0
        self.is_over = False

    def get_backend(self) -> str:
        return "scripted"

    def next_rendezvous(self) -> RendezvousInfo:
        self.calls.append("next_rendezvous")
        self.waiting = 0
        found = self.rounds.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def is_closed(self) -> bool:
        return self.is_over

    def set_closed(self) -> None:
        self.calls.append("set_closed")
        self.is_over = True

    def num_nodes_waiting(self) -> int:
        return self.waiting

    def get_run_id(self) -> str:
        return "run-7"

    def shutdown(self) -> bool:
        self.calls.append("shutdown")
        return True


class ScriptedHandler(ForeignHandler):
    """Knows our methods too: reports are answered as a run of this one node would answer them.

    Attributes:
        calls: every call that matters to the other nodes, in order, as text.
        troubles: raised by the next looks at the round, one after the other.
    """

    def __init__(self, *rounds: RendezvousInfo | Exception) -> None:
        super().__init__(*rounds)
        self.troubles: list[Exception] = []
        self.expected: tuple[str, int] | None = None
        self._told: list[RoundNews] = []
        self._news = CURRENT
        self._changed = threading.Condition()

    def tell(self, status: RoundStatus, why: str = "told by the test", outcome: str | None = None) -> None:
        """Give news of the present round, or of the first one if there is none yet."""
        with self._changed:
            self._told.append(RoundNews(status, why, outcome))
            self._changed.notify_all()

    def next_rendezvous(self) -> RendezvousInfo:
        with self._changed:
            self._news = CURRENT
        return super().next_rendezvous()

    def check_round(self) -> RoundNews:
        return self.wait_for_news(0)

    def wait_for_news(self, timeout_s: float) -> RoundNews:
        with self._changed:
            if self.troubles:
                raise self.troubles.pop(0)
            self._changed.wait_for(self._take_news, timeout_s)
            return self._news

    def _take_news(self) -> bool:
        is_worse = bool(self._told) and self._told[0].status in {RoundStatus.FENCED, RoundStatus.CUT_OFF}
        if self._told and (self._news is CURRENT or (is_worse and self._news.status is RoundStatus.OVER)):
            self._news = self._told.pop(0)
        return self._news is not CURRENT

    def expect_workers(self, role: str, count: int) -> None:
        self.expected = role, count

    def report_success(self) -> None:
        self.calls.append("report_success")
        self.tell(RoundStatus.CLOSED, "all 1 nodes ended well", "succeeded")

    def report_failure(self, message: str, exit_code: int, final: bool) -> None:
        self.calls.append(f"report_failure {exit_code} {'final' if final else 'again'}")

    def report_going(self, why: str) -> None:
        self.calls.append(f"report_going {why}")

    def leave(self, why: str) -> None:
        self.calls.append(f"leave {why}")
