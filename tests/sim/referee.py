"""What must hold in a simulated run, whatever goes wrong.

After every event:

- ranks are 0 to n-1, all members of a round were told the same world, and it is as large as it may be;
- the workers of no two rounds run at the same time on machines that work, and no node goes back to an older round;
- the workers of who was fenced, or took itself for cut off, do not run on;
- a run has succeeded only if all workers of a round have, on all its nodes.

From time to time: who works in a round that has long lost a member which was not done has heard of it; and who works
with one that was asked to go has heard of that while its workers are still being stopped. In the end, when all is well
again: everybody who lives is in one round, or was told why not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rallypoint.rendezvous.reports import Order, OrderKind
from rallypoint.rendezvous.verdict import VerdictKind

if TYPE_CHECKING:
    from tests.sim.agent import SimAgent
    from tests.sim.world import World

__all__ = ["Broken", "Referee"]

WAKING_S = 0.03
"""A machine that thaws looks at its clock first; so long it may take until its workers are stopped."""

STOP_S = 0.045
"""The workers of who was fenced, or is cut off, are gone after so many seconds: less than ``lifeline.RESUME_S``."""


GOING_S = 2.0
"""Where all works, everybody has heard within so many seconds that a member was asked to go."""

WELL_S = 5.0
"""All works where it has for so many seconds."""


class Broken(AssertionError):  # noqa: N818 - it is what a test asserts
    """Something does not hold that must."""


class Referee:
    """Sees all that happens.

    Args:
        world: where.

    Attributes:
        rounds: what each member of each round was told, by round and node.
    """

    def __init__(self, world: World) -> None:
        self.rounds: dict[int, dict[str, Order]] = {}
        self._world = world
        self._entered: dict[str, int] = {}
        self._started: dict[str, int] = {}
        self._well: dict[int, set[str]] = {}
        self._done: dict[int, set[str]] = {}
        self._running: dict[str, SimAgent] = {}
        self._lost_at: dict[str, float] = {}
        self._going_at: dict[str, float] = {}
        self._is_checked = False

    # --- what has happened ---------------------------------------------------------------------------------

    def note_change(self) -> None:
        """Something has happened that may matter."""
        self._is_checked = False

    def note_lost(self, node_id: str) -> None:
        """A node does not take part any more, or cannot."""
        self._lost_at[node_id] = self._world.simulation.now

    def note_going(self, node_id: str) -> None:
        """A node was asked to go, and has workers that it stops first."""
        self._going_at.setdefault(node_id, self._world.simulation.now)

    def note_found(self, node_id: str) -> None:
        """It can again."""
        self._lost_at.pop(node_id, None)
        self._is_checked = False

    def note_entry(self, name: str, node_id: str, order: Order) -> None:
        """A node is let into a round.

        Raises:
            Broken: it must not be, or not so.
        """
        world = self._world
        world.tell(f"{name} enters round {order.round} as {order.rank} of {order.size} (term {order.term})")
        if not world.min_nodes <= order.size <= world.max_nodes:
            raise Broken(f"round {order.round} has {order.size} nodes, not {world.min_nodes} to {world.max_nodes}")
        if self._entered.get(node_id, -1) >= order.round:
            raise Broken(f"{name} enters round {order.round} after round {self._entered[node_id]}")
        self._entered[node_id] = order.round
        told = self.rounds.setdefault(order.round, {})
        told[node_id] = order
        ranks = sorted(one.rank for one in told.values())
        if len(set(ranks)) != len(ranks) or ranks[-1] >= order.size:
            raise Broken(f"the ranks of round {order.round} are {ranks}, of {order.size} nodes")
        worlds = {(one.size, one.proposal, str(one.endpoint)) for one in told.values()}
        if len(worlds) != 1:
            raise Broken(f"round {order.round} is not the same for all its members: {worlds}")

    def note_start(self, agent: SimAgent) -> None:
        """The workers of a node begin to run.

        Raises:
            Broken: they have run in that round before, or in a later one, or their node knows that the round is over.
        """
        order, verdict = agent.running, agent.verdict
        assert order is not None
        if verdict is not None and verdict.kind is not VerdictKind.CURRENT:
            raise Broken(f"{agent.name} was told {verdict.kind.value}, and starts the workers of round {order.round}")
        if self._started.get(agent.node_id, -1) >= order.round:
            started = self._started[agent.node_id]
            raise Broken(f"{agent.name} starts the workers of round {order.round} after those of round {started}")
        self._started[agent.node_id] = order.round
        before = self._running.get(agent.name)
        if before is not None and before is not agent and before.running is not None:
            raise Broken(f"{agent.name} starts workers while those of its last life run")
        self._running[agent.name] = agent
        self._is_checked = False

    def note_done(self, agent: SimAgent) -> None:
        """The machine of a node takes it that all its workers have ended well."""
        order = agent.joined
        assert order is not None
        self._done.setdefault(order.round, set()).add(agent.node_id)
        if agent.has_succeeded:
            self._well.setdefault(order.round, set()).add(agent.node_id)

    def note_outcome(self, outcome: str | None) -> None:
        """A node is told how the run has ended.

        Raises:
            Broken: it has not.
        """
        if outcome == "succeeded" and not any(
            len(well) == len(told) == next(iter(told.values())).size
            for number, told in self.rounds.items()
            if (well := self._well.get(number))
        ):
            raise Broken(f"the run has succeeded, and of no round all workers have: {self._well}")

    # --- what must hold ------------------------------------------------------------------------------------

    def check(self) -> None:
        """Look whether all holds that must hold at any moment, if anything has happened that could change it.

        Raises:
            Broken: it does not.
        """
        if self._is_checked:
            return
        self._is_checked = True
        first: tuple[str, Order] | None = None
        for name, agent in list(self._running.items()):
            order = agent.running
            if order is None:
                del self._running[name]
                continue
            if agent.host.is_frozen:
                continue
            if self._world.simulation.now - self._world.woken_at.get(name, -1.0) <= WAKING_S:
                self._is_checked = False  # once it is awake
                continue
            self._check_stop(agent, order)
            if first is None:
                first = name, order
            elif first[1].round != order.round:
                raise Broken(f"{first[0]} runs round {first[1].round} while {name} runs round {order.round}")

    def _check_stop(self, agent: SimAgent, order: Order) -> None:
        """Look whether workers that must not run any more are stopped soon."""
        verdict = agent.verdict
        if verdict is None or verdict.kind not in (VerdictKind.FENCED, VerdictKind.CUT_OFF):
            return
        self._is_checked = False
        late_s = self._world.simulation.now - max(agent.told_at, self._world.woken_at.get(agent.name, -1.0))
        if late_s > STOP_S:
            raise Broken(f"{agent.name} was told {verdict.kind.value}, and still runs round {order.round}")

    def check_news(self) -> None:
        """Look whether everybody who works has heard of what has been lost for long.

        Raises:
            Broken: somebody has not.
        """
        world, now = self._world, self._world.simulation.now
        for agent in world.live():
            order = agent.joined
            if order is not None:
                self._check_going(agent, order)
            if order is None or not world.has_been_well(agent):
                continue
            for node_id in self.rounds[order.round].keys() - self._done.get(order.round, set()):
                lost_at = self._lost_at.get(node_id)
                if lost_at is not None and now - lost_at > world.heard_s and not self._is_back(node_id):
                    raise Broken(
                        f"{agent.name} is in round {order.round} and has not heard in {now - lost_at:.1f} s that "
                        f"{node_id[:6]} is gone"
                    )

    def _check_going(self, agent: SimAgent, order: Order) -> None:
        """Look whether a node works with one that was asked to go a while ago, although nothing is in the way."""
        world, now = self._world, self._world.simulation.now
        if not world.has_been_well(agent, WELL_S):
            return
        coordinating = [one for one in world.live() if one.office is not None]
        if not coordinating or not all(world.has_been_well(one, WELL_S) for one in coordinating):
            return
        for other in world.live():
            going_at = self._going_at.get(other.node_id)
            if going_at is None or other is agent or other.node_id not in self.rounds[order.round]:
                continue
            if now - going_at > GOING_S and world.has_been_well(other, WELL_S):
                raise Broken(
                    f"{agent.name} is in round {order.round} and has not heard in {now - going_at:.1f} s that "
                    f"{other.name} is going"
                )

    def _is_back(self, node_id: str) -> bool:
        return any(agent.node_id == node_id and not agent.host.is_frozen for agent in self._world.live())

    def check_end(self, *, is_ending: bool) -> None:
        """Look whether everybody has found together.

        Args:
            is_ending: whether all workers have ended well.

        Raises:
            Broken: somebody has not.
        """
        live = self._world.live()
        ends = {agent.outcome for agent in self._world.agents if agent.outcome}
        if ends:
            if len(ends) != 1:
                raise Broken(f"the run has ended in more than one way: {ends}")
            if live:
                raise Broken(f"the run has {ends}, and nobody told {[agent.name for agent in live]}")
            return
        if is_ending and live:
            raise Broken("all workers of the last round have ended well, and the run goes on")
        inside = [agent for agent in live if agent.joined is not None]
        outside = [agent for agent in live if agent.joined is None]
        kept_out = [agent for agent in outside if _kind(agent) in (OrderKind.STAND_BY, OrderKind.QUARANTINED)]
        if inside:
            self._check_last_round(inside, outside, kept_out)
        elif len(live) - len(kept_out) >= self._world.min_nodes:
            raise Broken(
                f"{len(live)} nodes live ({len(kept_out)} kept out), {self._world.min_nodes} are enough, nobody runs: "
                f"{[(agent.name, _kind(agent)) for agent in live]}"
            )
        elif any(agent.last_order is None for agent in live):
            raise Broken(f"nobody answers {[agent.name for agent in live if agent.last_order is None]}")

    def _check_last_round(self, inside: list[SimAgent], outside: list[SimAgent], kept_out: list[SimAgent]) -> None:
        order, most = inside[0].joined, self._world.max_nodes
        assert order is not None
        done = self._done.get(order.round, set()) - {agent.node_id for agent in inside}  # it may have gone
        if len(inside) + len(done) != order.size:
            raise Broken(f"round {order.round} has {order.size} nodes, and {len(inside)} are in it")
        standing_by = [agent.name for agent in outside if _kind(agent) is OrderKind.STAND_BY]
        if standing_by and order.size < most:
            raise Broken(f"{standing_by} stand by, and round {order.round} has {order.size} of {most} nodes")
        if len(kept_out) != len(outside):
            raise Broken(f"nobody told {[agent.name for agent in outside if agent not in kept_out]} why they wait")


def _kind(agent: SimAgent) -> OrderKind | None:
    return None if agent.last_order is None else agent.last_order.kind
