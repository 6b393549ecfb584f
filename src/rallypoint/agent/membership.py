"""This node's dealings with its rendezvous handler, off the agent's main loop.

Handlers block: until enough nodes have come, until a store answers. So one thread joins and reports, in order, and
one thread for each round watches what becomes of it. Both answer with events of ``agent.moves``; neither decides
anything.

Handlers that know only torch's methods report no success. For them each node whose workers all ended well says so in
the round's store, and looks whether all have::

    rallypoint/succeeded/<node rank>      "1"
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

from rallypoint.agent.moves import (
    Dismissed,
    Event,
    RendezvousDone,
    RendezvousFailed,
    RoundOver,
    RunClosed,
)
from rallypoint.agent.places import NodeWorkers, Ranks, agree_on_ranks, number_workers
from rallypoint.agent.round_looks import RoundLooks, event_of
from rallypoint.clock import Deadline
from rallypoint.errors import DistError, RendezvousClosedError, RendezvousGracefulExitError
from rallypoint.events import emit
from rallypoint.rendezvous.handler import RendezvousHandler, RoundNews, RoundStatus

if TYPE_CHECKING:
    from rallypoint.rendezvous.handler import RendezvousInfo

__all__ = ["Joined", "Membership", "RoundWatch", "explain", "knows_success"]

NEWS_WAIT_S = 0.2
"""How long one look for news may take; a watch that is told to end does so within this time."""

FAREWELL_S = 1.5
"""How long leaving may take, with all that follows: whoever asked this node to go does not wait for a store that is
gone."""

SUCCEEDED_KEY = "rallypoint/succeeded/{}"

_log = logging.getLogger("rallypoint.agent")


@dataclass(frozen=True)
class Joined:
    """A round that this node takes part in.

    Attributes:
        info: what the handler gave.
        round: its number; with handlers that do not number their rounds, how many this node was in before.
        ranks: the ranks of this node's workers.
    """

    info: RendezvousInfo
    round: int
    ranks: Ranks


def explain(error: BaseException) -> str:
    """Give an error in one line, with the one behind it where its own text does not say what happened."""
    text = str(error) or type(error).__name__
    cause = error.__cause__
    if cause is None or not str(cause) or str(cause) in text:
        return text
    return f"{text} ({cause})"


def knows_success(handler: RendezvousHandler) -> bool:
    """Tell whether a handler ends the run by itself once all nodes have reported success."""
    return not _is_default(handler, "report_success")


def _is_default(handler: RendezvousHandler, method: str) -> bool:
    bound = getattr(handler, method)
    return getattr(bound, "__func__", None) is getattr(RendezvousHandler, method)


class Membership:
    """Joins rounds, reports, leaves; answers through ``post``.

    Args:
        handler: how this node meets the others.
        mine: what this node runs.
        post: takes the answers, in the thread that has them; must not block.
        look_interval_s: seconds between looks at handlers that cannot tell their news by themselves.
        is_identical: whether all nodes are known to run the same, so that nobody needs to ask.

    Attributes:
        joined: the round that this node was in last.
        farewell: until when this node may take leave of the others; ``None`` until it begins to.

    Threads: call from one thread.
    """

    def __init__(
        self,
        handler: RendezvousHandler,
        mine: NodeWorkers,
        post: Callable[[Event], None],
        *,
        look_interval_s: float = 0.1,
        is_identical: bool = False,
    ) -> None:
        self.joined: Joined | None = None
        self.farewell: Deadline | None = None
        self._handler = handler
        self._mine = mine
        self._post = post
        self._look_interval_s = look_interval_s
        self._is_identical = is_identical
        self._watch: RoundWatch | None = None
        self._retired: list[RoundWatch] = []
        self._errands: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_closing = False
        handler.expect_workers(mine.role, mine.workers)
        self._thread = threading.Thread(target=self._run_errands, name="rallypoint-membership", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Join the next round; answered by one of RendezvousDone, RunClosed, Dismissed, RendezvousFailed, RoundOver."""
        self._retire_watch()
        self._errands.put(self._join)

    def watch(self, post: Callable[[Event], None]) -> None:
        """Begin to watch the round just joined; ``post`` takes its news until the next ``join``."""
        assert self.joined is not None, "a round that was joined is watched"
        self._watch = RoundWatch(self._handler, self.joined.info, post, self._look_interval_s)
        self._watch.start()

    def end_of_round(self) -> Event | None:
        """Give what has become of the round just joined, if it is known not to go on; asks nobody, never blocks."""
        if _is_default(self._handler, "wait_for_news"):
            return None  # it would ask somebody
        with suppress(Exception):  # the watch tells of trouble
            news = self._handler.check_round()
            return None if news.status is RoundStatus.CURRENT else event_of(news)
        return None

    def report_failure(self, message: str, returncode: int, final: bool) -> None:
        """Tell the others that a worker failed here; trouble in telling is logged."""
        self._errands.put(lambda: _try("report a failure", self._handler.report_failure, message, returncode, final))

    def report_success(self) -> None:
        """Tell the others that all workers ended well here; trouble in telling is logged."""
        if knows_success(self._handler):
            self._errands.put(lambda: _try("report success", self._handler.report_success))
        elif self._watch is not None:
            self._watch.count_success()

    def report_going(self, why: str) -> None:
        """Tell the others that this node leaves once its workers have ended; trouble in telling is logged."""
        self._errands.put(lambda: _try("report that this node is going", self._handler.report_going, why))

    def leave(self, why: str) -> None:
        """Tell the others that this node goes; gives up after ``FAREWELL_S``, and ``farewell`` says what is left."""
        self._is_closing = True
        self.farewell = Deadline(FAREWELL_S)
        thread = threading.Thread(
            target=_try, args=("leave", self._handler.leave, why), name="rallypoint-leave", daemon=True
        )
        thread.start()
        thread.join(FAREWELL_S)
        if thread.is_alive():
            emit("agent.trouble", f"the rendezvous did not take this node's farewell within {FAREWELL_S:g} s")

    def close(self, timeout_s: float) -> None:
        """Finish what is on its way and end the threads, within ``timeout_s`` seconds, or what leaving has left."""
        deadline = self.farewell or Deadline(timeout_s)
        self._errands.put(None)
        self._retire_watch()
        self._thread.join(0.0 if self._is_closing else deadline.remaining_s())
        for watch in self._retired:
            watch.join(deadline.remaining_s())

    def _retire_watch(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._retired = [watch for watch in self._retired if watch.is_alive()] + [self._watch]
            self._watch = None

    def _run_errands(self) -> None:
        while (errand := self._errands.get()) is not None:
            errand()

    def _join(self) -> None:
        try:
            event = self._try_to_join()
        except Exception as error:  # noqa: BLE001 - a foreign handler may raise anything; each ends as an event
            event = _describe_failure(error)
        self._tell_if_idle(event)
        self._post(event)

    def _tell_if_idle(self, event: Event) -> None:
        """Say why a node ends without a worker's having run: its exit code may be 0, and hides that."""
        if self._is_closing:  # it goes of its own will, and has said so
            return
        if isinstance(event, Dismissed):
            emit("agent.not_needed", f"no worker of this node was needed: {event.why}")
        elif isinstance(event, RunClosed) and self.joined is None:
            run = f"run {self._handler.get_run_id()!r}"
            text = f"{run} has ended without this node: {event.why}; a new run needs another name (--rdzv-id)"
            emit("agent.not_needed", text)

    def _try_to_join(self) -> Event:
        info = self._handler.next_rendezvous()
        ranks: Ranks | None
        if (places := getattr(info, "places", None)) is not None:
            ranks = Ranks(places.first_rank, places.world_size, places.first_role_rank, places.role_world_size)
        elif self._is_identical:
            ranks = number_workers([self._mine] * info.world_size)[info.rank]
        else:
            ranks = agree_on_ranks(info.store, info.rank, info.world_size, self._mine, is_current=self._is_current)
        if ranks is None:
            return RoundOver("its nodes had not told each other what they run")
        last = self.joined.round if self.joined is not None else -1
        number = int(getattr(info, "round", last + 1))
        self.joined = Joined(info, number if number > last else last + 1, ranks)
        return RendezvousDone(self.joined.round, info.rank, info.world_size)

    def _is_current(self) -> bool:
        if self._is_closing:
            return False
        try:
            return self._handler.check_round().status is RoundStatus.CURRENT
        except DistError:  # as far as is known; whoever asks waits for a key, and is told if the store is gone
            return True


def _describe_failure(error: Exception) -> Event:
    """Give the event that an exception of ``next_rendezvous`` means."""
    text = explain(error)
    if isinstance(error, RendezvousClosedError):
        return RunClosed(error.outcome, text)
    if isinstance(error, RendezvousGracefulExitError):
        return Dismissed(text)
    if not isinstance(error, DistError):
        _log.error("the rendezvous handler failed", exc_info=error)
        text = f"{type(error).__name__}: {text}"
    return RendezvousFailed(text)


def _try(what: str, call: Callable[..., None], *args: object) -> None:
    try:
        call(*args)
    except Exception as error:  # noqa: BLE001 - the run goes on, or ends, without this message; it is not lost silently
        emit("agent.trouble", f"could not {what}: {type(error).__name__}: {explain(error)}")


class RoundWatch(threading.Thread):
    """Watches one round until it is over, and says so once.

    Whatever goes wrong in a look is told as StoreLost, once until a look succeeds; ``round_looks`` has the rules. This
    thread ends when it is told to, or when it has told the end of its round, and nothing worse can come.

    Args:
        handler: whom to ask.
        info: the round.
        post: takes the events.
        look_interval_s: seconds between looks at a handler that cannot wait for news.
    """

    def __init__(
        self, handler: RendezvousHandler, info: RendezvousInfo, post: Callable[[Event], None], look_interval_s: float
    ) -> None:
        super().__init__(name="rallypoint-round-watch", daemon=True)
        self._handler = handler
        self._info = info
        self._post = post
        self._look_interval_s = look_interval_s
        self._ended = threading.Event()
        self._has_succeeded = False
        self._waits_by_itself = not _is_default(handler, "wait_for_news")

    def stop(self) -> None:
        """Tell the thread to end; returns at once."""
        self._ended.set()

    def count_success(self) -> None:
        """Count this node among those that ended well, for handlers that do not."""
        self._has_succeeded = True

    def run(self) -> None:
        """Look until the round is over, and then whether worse becomes of this node while it stops its workers."""
        looks = RoundLooks(tells_by_itself=self._waits_by_itself)
        pause_s: float | None = 0.0
        while pause_s is not None and not self._ended.wait(pause_s):
            try:
                found = looks.take(self._look())
            except Exception as error:  # noqa: BLE001 - whatever a foreign handler raises, the watch goes on
                found = looks.fail(explain(error))
            if found.event is not None:
                self._tell(found.event)
            pause_s = found.pause_s

    def _tell(self, event: Event) -> None:
        if not self._ended.is_set():
            self._post(event)

    def _look(self) -> RoundNews:
        if self._waits_by_itself and not self._has_succeeded:
            return self._handler.wait_for_news(NEWS_WAIT_S)
        if self._all_succeeded():
            return RoundNews(RoundStatus.CLOSED, f"all {self._info.world_size} nodes ended well", "succeeded")
        news = self._handler.check_round()
        if news.status is RoundStatus.CLOSED and self._all_succeeded():
            # The first node that saw the last success may have closed the run between the two looks.
            return news._replace(outcome="succeeded", why=f"all {self._info.world_size} nodes ended well")
        if news.status is RoundStatus.CURRENT:
            self._ended.wait(self._look_interval_s)
        return news

    def _all_succeeded(self) -> bool:
        if not self._has_succeeded:
            return False
        self._info.store.set(SUCCEEDED_KEY.format(self._info.rank), "1")
        return self._info.store.check([SUCCEEDED_KEY.format(rank) for rank in range(self._info.world_size)])
