"""A run of many agents on a simulated network, and what goes wrong in it; ``referee`` has what must hold."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.sim.agent import SimAgent
from tests.sim.referee import Broken, Referee
from tests.sim.store import SERVER, SimServer

from rallypoint.agent.moves import GroupRules
from rallypoint.rendezvous.decision import Rules
from rallypoint.rendezvous.policy import Policy
from rallypoint.rendezvous.reports import Order
from rallypoint.testing import Link, SimNetwork, Simulation

__all__ = ["World", "play"]

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

OWN_BUDGET_SHARE = 0.1
"""In so many worlds each node has a budget of its own."""

GRACES_S = (0.0, 1.0, 2.0, 8.0)
"""So long workers have between being asked to end and being killed; the last is longer than the last call."""

PACES = (1.0, 0.02)
"""So much of its usual time it takes to begin and to end a worker: in some worlds hardly any."""

ENDING_S = 10.0
"""So long before the end the workers of some worlds begin to end well."""


@dataclass
class World:
    """The machines, and what they came to.

    Attributes:
        seed: repeats it all.
        graces_s: so long workers may have between being asked to end and being killed, in seconds.
        rules: of the rounds.
        group_rules: what the machines of the worker groups are told.
        referee: sees whether all holds that must.
        woken_at: when a machine has thawed last.
        is_troubled: whether things go wrong.
    """

    seed: int
    graces_s: tuple[float, ...] = GRACES_S
    simulation: Simulation = field(init=False)
    network: SimNetwork = field(init=False)
    agents: list[SimAgent] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    woken_at: dict[str, float] = field(default_factory=dict)
    is_troubled: bool = True
    heard_s: float = HEARD_S
    _well_since: dict[str, float] = field(default_factory=dict)
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
            answer_s=dice.choice((0.5, 5.0)),
        )
        restarts = {"failed": dice.randint(0, 2)} if dice.random() < CLOSING_SHARE else {}
        flap_limit = dice.choice((0, 3))
        self.policy = Policy(restarts=restarts, flap_limit=flap_limit, cool_down_s=5.0, cool_down_max_s=10.0)
        self.group_rules = self._group_rules()
        self.pace = dice.choice(PACES)
        self.referee = Referee(self)
        SimServer(self.network, self.simulation.host(SERVER))
        self._names = 0

    def _group_rules(self) -> GroupRules:
        dice = self.simulation.dice
        is_shared = "failed" in self.policy.restarts
        is_own = not is_shared and dice.random() < OWN_BUDGET_SHARE
        return GroupRules(
            local_world_size=dice.randint(1, 2),
            max_restarts=dice.randint(0, 3) if is_shared or is_own else 1000,
            grace_s=dice.choice(self.graces_s),
            store_patience_s=dice.choice((1.5, *(30.0,) * 9)),
            farewell_s=dice.choice((1.0, 5.0)),
            is_budget_shared=is_shared,
        )

    @property
    def rounds(self) -> dict[int, dict[str, Order]]:
        """What each member of each round was told, by round and node."""
        return self.referee.rounds

    # --- machines ----------------------------------------------------------------------------------------

    def tell(self, text: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{self.simulation.now:9.4f} {text}")

    def add_agent(self) -> SimAgent:
        """Start an agent on a new machine."""
        self._names += 1
        return self._start(f"n{self._names}")

    def _start(self, name: str) -> SimAgent:
        agent = SimAgent(self, name)
        self.agents.append(agent)
        self._well_since[name] = self.simulation.now
        return agent

    def live(self) -> list[SimAgent]:
        """Give the agents that run and take part."""
        return [agent for agent in self.agents if agent.is_live]

    def is_well(self, agent: SimAgent) -> bool:
        """Tell whether an agent's machine works and reaches the store."""
        return not agent.host.is_frozen and not self.network.link(agent.name, SERVER).is_cut

    def has_been_well(self, agent: SimAgent, for_s: float | None = None) -> bool:
        """Tell whether they have for so many seconds; if not told, so long that it has heard of all that matters."""
        well_s = self.simulation.now - self._well_since[agent.name]
        return self.is_well(agent) and well_s >= (self.heard_s if for_s is None else for_s)

    def until(self, due: float) -> float:
        """Give the time until then, and a little, so that it has come in spite of rounding."""
        return max(0.0, due - self.simulation.now) + 1e-6

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
        # Nothing acts on a machine that is frozen, its guard neither: it goes as a whole.
        silently = self.simulation.dice.random() < 0.3 or agent.host.is_frozen
        self.tell(f"{agent.name} {'loses its power' if silently else 'is killed'}")
        self.referee.note_lost(agent.node_id)
        self.network.crash(agent.host, silently=silently)
        agent.die(has_guard=not silently)
        if self.simulation.dice.random() < 0.6:
            self.simulation.after(self.simulation.dice.uniform(0.05, 4.0), lambda: self._restart(agent))

    def _restart(self, agent: SimAgent) -> None:
        if not agent.host.is_up:
            agent.host.start()
            self._start(agent.name)

    def _freeze(self, agent: SimAgent) -> None:
        self.tell(f"{agent.name} freezes")
        self.referee.note_lost(agent.node_id)
        agent.host.freeze()
        self.simulation.after(self.simulation.dice.uniform(0.1, 9.0), lambda: self._thaw(agent))

    def _thaw(self, agent: SimAgent) -> None:
        if agent.host.is_frozen:
            self.tell(f"{agent.name} thaws")
            self.referee.note_found(agent.node_id)
            self.woken_at[agent.name] = self._well_since[agent.name] = self.simulation.now
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
            self.tell(f"{agent.name} is told to go")
            agent.signal(signal.SIGTERM)
            if self.simulation.dice.random() < 0.3:
                agent.host.after(self.simulation.dice.uniform(0.0, 1.0), lambda: agent.signal(signal.SIGINT))

    def _succeed(self, agent: SimAgent) -> None:
        if agent.running is not None and not agent.host.is_frozen:
            self.tell(f"the workers of {agent.name} end well")
            agent.succeed(0.5)

    def _depose(self, agent: SimAgent) -> None:
        in_office = [one for one in self.live() if one.office is not None and not one.host.is_frozen]
        if in_office:
            self.tell(f"the coordinator on {in_office[0].name} ends and begins anew")
            in_office[0].membership.candidate.restart()
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

    def calm_down(self) -> None:
        """Let everything work again."""
        self.tell("calm")
        self.is_troubled = False
        self.simulation.host(SERVER).thaw()
        for agent in self.live():
            self._heal(agent)
            self._thaw(agent)

    def end_well(self) -> None:
        """Let all workers that run end well, one agent after the other."""
        running = [agent for agent in self.live() if agent.running is not None]
        for agent in running:
            agent.succeed(2.0)
        # Where a round is just being left, the next one's workers go on.
        self._is_ending = bool(running) and all(agent.joined is not None for agent in running)


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
    World._succeed,
    World._leave,
    World._depose,
    World._kill_coordinator,
    World._freeze_store,
)


def play(seed: int, graces_s: tuple[float, ...] = GRACES_S) -> World:
    """Let a world come, go wrong, and calm down.

    Raises:
        Broken: something did not hold; the seed plays it again.
    """
    world = World(seed, graces_s)
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
        simulation.after(float(second), world.referee.check_news)
    if dice.random() < CLOSING_SHARE:
        simulation.after(end - ENDING_S, world.end_well)
    simulation.run(end, world.referee.check)
    world.referee.check_end(is_ending=world._is_ending)
