"""Many nodes on the pure rendezvous rules, stepped by hand: one register, a clock for each node, no threads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rallypoint.rendezvous.change import Acknowledge, Action, Beat, Leave, change
from rallypoint.rendezvous.decide import Decision, Enter, Rules, Seat, Stop, Wait, decide, tend
from rallypoint.rendezvous.state import Card, State, decode_state, encode_state, new_state
from rallypoint.rendezvous.verdict import Verdict, judge
from rallypoint.rendezvous.view import View
from rallypoint.types import Endpoint

__all__ = ["Cluster", "SimNode"]


@dataclass
class SimNode:
    """One node: what its driver would hold."""

    name: str
    seat: Seat
    clock_s: float
    view: View = field(default_factory=View)
    is_joining: bool = False
    is_alive: bool = True
    is_frozen: bool = False
    is_hanging: bool = False
    stopped: Decision | None = None
    entered: list[State] = field(default_factory=list)
    loaded: bytes | None = None

    @property
    def is_acting(self) -> bool:
        return self.is_alive and not self.is_frozen


class Cluster:
    """The register that all nodes swap, and the nodes."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.register = encode_state(new_state("0" * 32, rules.min_nodes, rules.max_nodes))
        self.nodes: dict[str, SimNode] = {}
        self.now = 0.0

    @property
    def state(self) -> State:
        return decode_state(self.register)

    def add(self, name: str, host: str | None = None, clock_s: float = 0.0, wish: int | None = None) -> SimNode:
        card = Card(host=host or f"host-{name}", address=host or f"host-{name}", rank_wish=wish)
        node_id = (name.encode().hex() + "0" * 32)[:32]
        self.nodes[name] = SimNode(name, Seat(node_id, card), clock_s)
        return self.nodes[name]

    def time_of(self, node: SimNode) -> float:
        return self.now + node.clock_s

    def join(self, name: str) -> None:
        node = self.nodes[name]
        node.is_joining, node.stopped = True, None
        node.seat = replace(node.seat, joining_since=self.time_of(node))

    def load(self, name: str) -> None:
        """Read the register now; the next ``step`` acts on what was read, however old it is by then."""
        self.nodes[name].loaded = self.register

    def step(self, name: str) -> tuple[Decision, bool]:
        """Let a node look, decide, change and swap, once. Gives the decision, and whether a swap was lost."""
        node = self.nodes[name]
        data, node.loaded = node.loaded if node.loaded is not None else self.register, None
        state = decode_state(data)
        now = self.time_of(node)
        node.view = node.view.observe(state, node.seat.node_id, self.rules.keep_alive_interval_s, now)
        ask = decide if node.is_joining and not node.is_hanging else tend
        decision = ask(state, node.seat, node.view, self.rules, now)
        action = decision.action
        if isinstance(action, Enter):
            node.is_joining = False
            node.seat = replace(node.seat, entered=state.round)
            node.entered.append(state)
        elif isinstance(action, Stop):
            node.is_joining, node.stopped = False, decision
            self.act(name, Leave(decision.why))
        elif not isinstance(action, Wait):
            if isinstance(action, Acknowledge) and state.members[node.seat.node_id] == 0:
                action = replace(action, endpoint=Endpoint(node.seat.card.address, 10_000 + state.proposal))
            return decision, not self._swap(data, change(state, action, node.seat.node_id))
        return decision, False

    def act(self, name: str, action: Action) -> bool:
        """Let a node make a change that no rule decides; gives whether it changed anything."""
        before = self.register
        self._swap(before, change(self.state, action, self.nodes[name].seat.node_id))
        return self.register != before

    def news(self, name: str) -> Verdict:
        node = self.nodes[name]
        assert node.seat.entered is not None, f"{name} was never in a round"
        return judge(self.state, node.seat.node_id, node.seat.entered)

    def is_quiet(self, decision: Decision) -> bool:
        return isinstance(decision.action, (Wait, Beat))

    def _swap(self, expected: bytes, state: State) -> bool:
        if self.register != expected:
            return False
        self.register = encode_state(state)
        return True
