"""A run of many agents on a simulated network, what goes wrong in it, and what must hold whatever goes wrong.

After every event:

- ranks are 0 to n-1, all members of a round were told the same world, and it is as large as it may be;
- no two rounds run at the same time on machines that work, and no machine goes back to an older round;
- who was fenced, or took itself for cut off, runs nothing.

From time to time: who runs a round that has lost a member for long has heard of it. In the end, when all is well again:
everybody who lives is in one round, or was told why not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.sim.agent import SERVER, SimAgent
from tests.sim.store import SimServer

from rallypoint.rendezvous.decision import Rules
from rallypoint.rendezvous.policy import Policy
from rallypoint.rendezvous.reports import Order, OrderKind
from rallypoint.rendezvous.verdict import VerdictKind
from rallypoint.testing import Link, SimNetwork, Simulation

__all__ = ["Broken", "World", "play"]

INTERVAL_S, ATTEMPTS = 1.5, 2
LAST_CALL_S = 3.0
TROUBLE_S = 25.0
"""How long things go wrong."""

CALM_S = 25.0
"""How long after that everybody has to find together again: leases, the longest pauses between attempts, last calls."""

HEARD_S = INTERVAL_S * ATTEMPTS + 12.0
"""A machine that works and is connected has heard within this time that a member of its round is gone."""

CLOSING_SHARE = 0.2
"""So many of all worlds have a budget for failures, and so many others end in success."""

ENDING_S = 8.0
"""So long before the end the workers of some worlds begin to end well."""

WAKING_S = 0.001
"""A machine that thaws looks at its clock first; so long it may take."""


class Broken(AssertionError):  # noqa: N818 - it is what a test asserts
    """Something does not hold that must."""


@dataclass
class World:
    """The machines, and what they came to.

    Attributes:
        seed: repeats it all.
        rounds: what each member of each round was told, by round and node.
    """

    seed: int
    simulation: Simulation = field(init=False)
    network: SimNetwork = field(init=False)
    agents: list[SimAgent] = field(default_factory=list)
    rounds: dict[int, dict[str, Order]] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)
    _entered: dict[str, int] = field(default_factory=dict)
    _running: dict[str, SimAgent] = field(default_factory=dict)
    _woken_at: dict[str, float] = field(default_factory=dict)
    _well_since: dict[str, float] = field(default_factory=dict)
    _lost_at: dict[str, float] = field(default_factory=dict)
    _is_checked: bool = False
    _is_ending: bool = False

    def __post_init__(self) -> None:
        self.simulation = Simulation(self.seed)
        dice = self.simulation.dice
        slow_s = dice.choice((0.001, 0.005, 0.05))
        link = Link((0.0001, slow_s), loss=dice.choice((0.0, 0.0, 0.02)), repeat=dice.choice((0.0, 0.05)))
        self.network = SimNetwork(self.simulation, link)
        # Long enough to come back after a reset: a handshake, and a packet that is sent again.
        self.session_s = 0.1 if slow_s < 0.01 and not link.loss else 1.0
        self.min_nodes = dice.randint(1, 3)
        self.max_nodes = self.min_nodes + dice.randint(0, 2)
        self.rules = Rules(
            self.min_nodes,
            self.max_nodes,
            last_call_s=LAST_CALL_S,
            keep_alive_interval_s=INTERVAL_S,
            keep_alive_max_attempt=ATTEMPTS,
        )
        restarts = {"failed": dice.randint(0, 2)} if dice.random() < CLOSING_SHARE else {}
        flap_limit = dice.choice((0, 3))
        self.policy = Policy(restarts=restarts, flap_limit=flap_limit, cool_down_s=5.0, cool_down_max_s=10.0)
        SimServer(self.network, self.simulation.host(SERVER))
        self._names = 0

    # --- machines ----------------------------------------------------------------------------------------

    def tell(self, text: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{self.simulation.now:9.4f} {text}")

    def add_agent(self) -> SimAgent:
        """Start an agent on a new machine."""
        self._names += 1
        return self._start(f"n{self._names}")

    def _start(self, name: str) -> SimAgent:
        agent = SimAgent(self, name, self.rules, self.policy)
        self.agents.append(agent)
        self._well_since[name] = self.simulation.now
        self.tell(f"{name} starts as {agent.node_id[:6]}")
        return agent

    def live(self) -> list[SimAgent]:
        """Give the agents that run and take part."""
        return [agent for agent in self.agents if agent.is_live]

    def is_well(self, agent: SimAgent) -> bool:
        """Tell whether an agent's machine works and reaches the store."""
        return not agent.host.is_frozen and not self.network.link(agent.name, SERVER).is_cut

    # --- what goes wrong ---------------------------------------------------------------------------------

    def go_wrong(self) -> None:
        """Do one thing that nobody likes, or that changes who is there."""
        dice, live = self.simulation.dice, self.live()
        what = dice.choice(_TROUBLES)
        if what is World._add or not live:
            self._add()
        else:
            what(self, dice.choice(live))

    def _add(self, _: SimAgent | None = None) -> None:
        if len(self.live()) < self.max_nodes + 2:
            self.add_agent()

    def _kill(self, agent: SimAgent) -> None:
        silently = self.simulation.dice.random() < 0.3
        self.tell(f"{agent.name} {'loses its power' if silently else 'is killed'}")
        self._lose(agent)
        self.network.crash(agent.host, silently=silently)
        agent.running = None
        if self.simulation.dice.random() < 0.6:
            self.simulation.after(self.simulation.dice.uniform(0.05, 4.0), lambda: self._restart(agent))

    def _restart(self, agent: SimAgent) -> None:
        if not agent.host.is_up:
            agent.host.start()
            self._start(agent.name)

    def _freeze(self, agent: SimAgent) -> None:
        self.tell(f"{agent.name} freezes")
        self._lose(agent)
        agent.host.freeze()
        self.simulation.after(self.simulation.dice.uniform(0.1, 9.0), lambda: self._thaw(agent))

    def _thaw(self, agent: SimAgent) -> None:
        if agent.host.is_frozen:
            self.tell(f"{agent.name} thaws")
            self._lost_at.pop(agent.node_id, None)
            self._is_checked = False
            self._woken_at[agent.name] = self._well_since[agent.name] = self.simulation.now
            agent.host.thaw()

    def _cut(self, agent: SimAgent) -> None:
        self.tell(f"{agent.name} is cut off")
        self.network.link(agent.name, SERVER).is_cut = True
        self.simulation.after(self.simulation.dice.uniform(0.1, 12.0), lambda: self._heal(agent))

    def _tear(self, agent: SimAgent) -> None:
        """Break its connections in the very moment in which it is cut off: the store takes it for gone at once."""
        if self.is_well(agent):
            self.tell(f"all connections of {agent.name} break")
            for stream in self.network.streams_of(agent.host):
                stream.reset()
            self._cut(agent)

    def _heal(self, agent: SimAgent) -> None:
        link = self.network.link(agent.name, SERVER)
        if link.is_cut:
            self.tell(f"{agent.name} is connected again")
            link.is_cut = False
            self._well_since[agent.name] = self.simulation.now

    def _reset(self, agent: SimAgent) -> None:
        streams = self.network.streams_of(agent.host)
        if streams and self.is_well(agent):
            self.tell(f"a connection of {agent.name} breaks")
            self.simulation.dice.choice(streams).reset()

    def _fail(self, agent: SimAgent) -> None:
        if agent.running is not None and not agent.host.is_frozen:
            self.tell(f"a worker of {agent.name} fails")
            agent.fail_worker()

    def _leave(self, agent: SimAgent) -> None:
        if not agent.host.is_frozen:
            self.tell(f"{agent.name} leaves")
            self._lose(agent)
            agent.leave()

    def _depose(self, agent: SimAgent) -> None:
        in_office = [one for one in self.live() if one.office is not None and not one.host.is_frozen]
        if in_office:
            self.tell(f"the coordinator on {in_office[0].name} ends and begins anew")
            in_office[0].restart_coordinator()
        else:
            self._kill(agent)

    def _kill_coordinator(self, agent: SimAgent) -> None:
        in_office = [one for one in self.live() if one.office is not None]
        self._kill(in_office[0] if in_office else agent)

    def _freeze_store(self, _: SimAgent) -> None:
        host = self.simulation.host(SERVER)
        if not host.is_frozen:
            self.tell("the store freezes")
            host.freeze()
            self.simulation.after(self.simulation.dice.uniform(0.05, 5.0), host.thaw)
            for name in self._well_since:
                self._well_since[name] = self.simulation.now + 5.0

    def _lose(self, agent: SimAgent) -> None:
        self._lost_at[agent.node_id] = self.simulation.now

    def calm_down(self) -> None:
        """Let everything work again."""
        self.tell("calm")
        self.simulation.host(SERVER).thaw()
        for agent in self.live():
            self._heal(agent)
            self._thaw(agent)

    def end_well(self) -> None:
        """Let all workers that run end well, one agent after the other."""
        running = [agent for agent in self.live() if agent.running is not None]
        for agent in running:
            self.simulation.after(self.simulation.dice.uniform(0.0, 2.0), agent.succeed)
        self._is_ending = bool(running)

    # --- what must hold ----------------------------------------------------------------------------------

    def note_entry(self, agent: SimAgent, order: Order) -> None:
        """An agent starts its workers."""
        self.tell(f"{agent.name} enters round {order.round} as {order.rank} of {order.size} (term {order.term})")
        if not self.min_nodes <= order.size <= self.max_nodes:
            raise Broken(f"round {order.round} has {order.size} nodes, not {self.min_nodes} to {self.max_nodes}")
        if self._entered.get(agent.node_id, -1) >= order.round:
            raise Broken(f"{agent.name} enters round {order.round} after round {self._entered[agent.node_id]}")
        self._entered[agent.node_id] = order.round
        told = self.rounds.setdefault(order.round, {})
        told[agent.node_id] = order
        ranks = sorted(one.rank for one in told.values())
        if len(set(ranks)) != len(ranks) or ranks[-1] >= order.size:
            raise Broken(f"the ranks of round {order.round} are {ranks}, of {order.size} nodes")
        worlds = {(one.size, one.proposal, str(one.endpoint)) for one in told.values()}
        if len(worlds) != 1:
            raise Broken(f"round {order.round} is not the same for all its members: {worlds}")
        self._running[agent.name] = agent
        self._is_checked = False

    def note_verdict(self) -> None:
        """An agent has heard what has become of its round."""
        self._is_checked = False

    def check(self) -> None:
        """Look whether all holds that must hold at any moment, if anything has happened that could change it.

        Raises:
            Broken: it does not.
        """
        if self._is_checked:
            return
        self._is_checked = True
        first: SimAgent | None = None
        for name, agent in list(self._running.items()):
            order = agent.running
            if order is None or not agent.is_live:
                del self._running[name]
                continue
            if agent.host.is_frozen:
                continue
            if self.simulation.now - self._woken_at.get(name, -1.0) <= WAKING_S:
                self._is_checked = False  # once it is awake
                continue
            if agent.verdict is not None and agent.verdict.kind in (VerdictKind.FENCED, VerdictKind.CUT_OFF):
                raise Broken(f"{name} was told {agent.verdict.kind.value}, and still runs round {order.round}")
            if first is None:
                first = agent
            elif first.running is not None and first.running.round != order.round:
                raise Broken(f"{first.name} runs round {first.running.round} while {name} runs round {order.round}")

    def check_news(self) -> None:
        """Look whether everybody who works has heard of what has been lost for long.

        Raises:
            Broken: somebody has not.
        """
        now = self.simulation.now
        for agent in self._running.values():
            order = agent.running
            if order is None or not self.is_well(agent) or now - self._well_since[agent.name] < HEARD_S:
                continue
            for node_id in self.rounds[order.round]:
                lost_at = self._lost_at.get(node_id)
                if lost_at is not None and now - lost_at > HEARD_S and not self._is_back(node_id):
                    raise Broken(
                        f"{agent.name} runs round {order.round} and has not heard in {now - lost_at:.1f} s that "
                        f"{node_id[:6]} is gone"
                    )

    def _is_back(self, node_id: str) -> bool:
        return any(agent.node_id == node_id and agent.is_live and not agent.host.is_frozen for agent in self.agents)

    def check_end(self) -> None:
        """Look whether everybody has found together.

        Raises:
            Broken: somebody has not.
        """
        live = self.live()
        ends = {agent.stopped.outcome for agent in self.agents if agent.stopped is not None and agent.stopped.outcome}
        if ends:
            if len(ends) != 1:
                raise Broken(f"the run has ended in more than one way: {ends}")
            if live:
                raise Broken(f"the run has {ends}, and nobody told {[agent.name for agent in live]}")
            return
        if self._is_ending:
            raise Broken("all workers of the last round have ended well, and the run goes on")
        inside = [agent for agent in live if agent.running is not None]
        outside = [agent for agent in live if agent.running is None]
        kept_out = [agent for agent in outside if _kind(agent) in (OrderKind.STAND_BY, OrderKind.QUARANTINED)]
        if inside:
            order = inside[0].running
            assert order is not None
            if len(inside) != order.size:
                raise Broken(f"round {order.round} has {order.size} nodes, and {len(inside)} run it")
            standing_by = [agent.name for agent in outside if _kind(agent) is OrderKind.STAND_BY]
            if standing_by and order.size < self.max_nodes:
                raise Broken(
                    f"{standing_by} stand by, and round {order.round} has {order.size} of {self.max_nodes} nodes"
                )
            if len(kept_out) != len(outside):
                raise Broken(f"nobody told {[agent.name for agent in outside if agent not in kept_out]} why they wait")
        elif len(live) - len(kept_out) >= self.min_nodes:
            raise Broken(
                f"{len(live)} nodes live ({len(kept_out)} kept out), {self.min_nodes} are enough, nobody runs: "
                f"{[(agent.name, _kind(agent)) for agent in live]}"
            )
        elif any(agent.last_order is None for agent in live):
            raise Broken(f"nobody answers {[agent.name for agent in live if agent.last_order is None]}")


_TROUBLES: tuple[Callable[..., None], ...] = (
    World._add,
    World._add,
    World._kill,
    World._kill,
    World._freeze,
    World._cut,
    World._reset,
    World._tear,
    World._fail,
    World._fail,
    World._leave,
    World._depose,
    World._kill_coordinator,
    World._freeze_store,
)


def _kind(agent: SimAgent) -> OrderKind | None:
    return None if agent.last_order is None else agent.last_order.kind


def play(seed: int) -> World:
    """Let a world come, go wrong, and calm down.

    Raises:
        Broken: something did not hold; the seed plays it again.
    """
    world = World(seed)
    try:
        _play(world)
    except Broken as broken:
        story = "\n".join(world.story)
        raise Broken(f"seed {seed}, at {world.simulation.now:.4f} s: {broken}\n{story}") from broken
    return world


def _play(world: World) -> None:
    simulation, dice = world.simulation, world.simulation.dice
    for _ in range(dice.randint(world.min_nodes, world.max_nodes + 1)):
        simulation.after(dice.uniform(0.0, 1.0), world.add_agent)
    at = 1.0
    while at < TROUBLE_S:
        at += dice.expovariate(1 / 3.0)
        simulation.after(at, world.go_wrong)
    simulation.after(at + 0.1, world.calm_down)
    end = at + CALM_S
    for second in range(1, int(end)):
        simulation.after(float(second), world.check_news)
    if dice.random() < CLOSING_SHARE:
        simulation.after(end - ENDING_S, world.end_well)
    simulation.run(end, world.check)
    world.check_end()
