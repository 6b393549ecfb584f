"""One simulated node's dealings with the rendezvous: what ``agent/membership.py`` does around ``round_looks``."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from tests.sim.candidate import SimCandidate
from tests.sim.course import Box, Course, Pause, Take
from tests.sim.following import SimFollowing

from rallypoint.agent.moves import Dismissed, Event, RendezvousDone, RendezvousFailed, RunClosed
from rallypoint.agent.round_looks import RoundLooks, event_of
from rallypoint.errors import RendezvousConnectionError
from rallypoint.rendezvous import follower_moves as node
from rallypoint.rendezvous.decision import StopKind
from rallypoint.rendezvous.handler import RoundStatus
from rallypoint.rendezvous.reports import Order
from rallypoint.testing.simulation import Timer

if TYPE_CHECKING:
    from tests.sim.world import World

    from rallypoint.testing import SimHost

__all__ = ["SimMembership", "SimRoundWatch"]

CLOSE_S = 3.0
"""How long a report may take to be stored."""

FAREWELL_S = 1.5
"""How long leaving may take."""

RETIRE_S = 0.5
"""How long a coordinator that leaves may take to hear its own node's farewell."""

WAY_S = 0.005
"""The way from the order that admits a node to the agent's loop takes so many seconds at most."""


class SimMembership:
    """Joins, reports, leaves; answers through ``post``.

    Attributes:
        joined: what let this node into its round last.
        following: this node's side of the talk with the coordinator.
        candidate: stands for the office.
    """

    def __init__(self, world: World, host: SimHost, node_id: str, post: Callable[[Event], None]) -> None:
        self.joined: Order | None = None
        self.following = SimFollowing(world, host, node_id)
        self.candidate = SimCandidate(world, host, node_id, lambda: self.following.is_over)
        self._world = world
        self._host = host
        self._post = post
        self._errands = Box()
        self._watch: SimRoundWatch | None = None
        self._course = Course(host, self._run_errands())

    def join(self) -> None:
        """Join the next round."""
        self._retire_watch()
        self._errands.put(self._join)

    def watch(self, post: Callable[[Event], None]) -> None:
        """Watch the round just joined."""
        self._watch = SimRoundWatch(self._world, self._host, self.following, post)

    def end_of_round(self) -> Event | None:
        """Give what has become of the round just joined, if it is known not to go on."""
        try:
            news = self.following.check_round()
        except RendezvousConnectionError:
            return None
        return None if news.status is RoundStatus.CURRENT else event_of(news)

    def report(self, event: Any) -> None:
        """Tell the others how this node's workers fare."""
        self._errands.put(lambda: self._report(event))

    def close(self, why: str, is_asked_to: bool) -> None:
        """Finish what is on its way, unless somebody has asked this node to go, and end, with all that runs for it."""
        self._retire_watch()
        self._errands.put(None)
        if is_asked_to:
            self._course.stop()
            self._course = Course(self._host, self._depart(why))
        else:
            self._course.then(lambda: Course(self._host, self._depart(why)))

    def _retire_watch(self) -> None:
        if self._watch is not None:
            self._watch.stop()
            self._watch = None

    # --- errands -------------------------------------------------------------------------------------------

    def _run_errands(self) -> Generator[Any, Any, None]:
        while True:
            if not self._errands.items:
                yield Take(self._errands, float(10**6))
            errand = self._errands.items.popleft()
            if errand is None:
                return
            yield from errand()

    def _join(self) -> Generator[Any, Any, None]:
        self.following.want()
        yield Take(self.following.outcomes, float(10**6))
        outcome = self.following.outcomes.items.popleft()
        yield Pause(self._world.simulation.dice.uniform(0.0, WAY_S))
        if isinstance(outcome, Order):
            self.joined = outcome
            self._post(RendezvousDone(outcome.round, outcome.rank, outcome.size))
        elif outcome.kind is StopKind.CLOSED:
            self._post(RunClosed(outcome.outcome, outcome.why))
        elif outcome.kind is StopKind.NOT_NEEDED:
            self._post(Dismissed(outcome.why))
        else:
            self._post(RendezvousFailed(outcome.why))

    def _report(self, event: Any) -> Generator[Any, Any, None]:
        self.following.tell(event)
        yield from self.following.await_published(CLOSE_S)

    def _depart(self, why: str) -> Generator[Any, Any, None]:
        """Give up this node's place, and end what runs."""
        deadline = self._world.simulation.now + FAREWELL_S
        self.candidate.retire()
        self.following.tell(node.Leaving(why))
        if (yield from self.following.await_published(FAREWELL_S)):
            deadline = min(deadline, self._world.simulation.now + RETIRE_S)
            while not self.candidate.is_ended and self._world.simulation.now < deadline:
                yield Pause(0.02)
        self.candidate.stop()
        self.following.stop()


class SimRoundWatch:
    """Watches one round, as ``agent.membership.RoundWatch`` does.

    A look at a round that goes on lasts until there is news, so it is made when there may be. Where the real one
    pauses between looks, news is found at some time within that pause.
    """

    def __init__(self, world: World, host: SimHost, following: SimFollowing, post: Callable[[Event], None]) -> None:
        self._world = world
        self._host = host
        self._following = following
        self._post = post
        self._looks = RoundLooks(tells_by_itself=True)
        self._pause_s: float | None = 0.0
        self._is_looking = False
        self._next: Timer | None = None
        self._late: Timer | None = None
        following.changed = self._wake
        self._look()

    def stop(self) -> None:
        """End it."""
        self._pause_s = None
        self._following.changed = lambda: None
        for timer in (self._next, self._late):
            if timer is not None:
                timer.cancel()

    def _wake(self) -> None:
        if self._pause_s and self._next is None:
            pause_s = self._world.simulation.dice.uniform(0.0, self._pause_s)
            self._next = self._host.after(pause_s, self._look)
        elif self._pause_s == 0.0:
            self._look()

    def _look(self) -> None:
        self._next = None
        if self._pause_s is None or self._is_looking:
            return
        self._is_looking = True  # what a look finds out may call for a look
        try:
            found = self._looks.take(self._following.check_round())
        except RendezvousConnectionError as error:
            found = self._looks.fail(str(error))
        finally:
            self._is_looking = False
        self._pause_s = found.pause_s
        if found.event is not None:
            self._post(found.event)
        if self._pause_s == 0.0:
            self._await_trouble()

    def _await_trouble(self) -> None:
        """Look again when there may be trouble that nobody tells of: an answer that is late."""
        if self._late is None or self._late.is_cancelled:
            late_s = self._following.contact.until_trouble_s() + 1e-6
            self._late = self._host.after(late_s, self._look_for_trouble)

    def _look_for_trouble(self) -> None:
        self._late = None
        if self._pause_s == 0.0:
            self._look()
