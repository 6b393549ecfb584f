"""Any interleaving of nodes that step, load old news, crash, freeze, fail and leave: what must hold after each step.

A rule machine lets nodes of one run act in any order over one register. Nothing is assumed of time but that it passes.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.rendezvous_cluster import Cluster, SimNode

from rallypoint.rendezvous.change import Fail, Leave, Succeed
from rallypoint.rendezvous.decide import Rules
from rallypoint.rendezvous.state import Phase
from rallypoint.rendezvous.verdict import VerdictKind

NAMES = "abcde"
INTERVAL_S = 5.0
SETTLE_TURNS = 120


class RendezvousMachine(RuleBasedStateMachine):
    @initialize(min_nodes=st.integers(1, 3), spread=st.integers(0, 2), skews=st.lists(st.floats(-1e5, 1e5), min_size=5))
    def begin(self, min_nodes: int, spread: int, skews: list[float]) -> None:
        rules = Rules(
            min_nodes=min_nodes,
            max_nodes=min_nodes + spread,
            last_call_s=10.0,
            join_timeout_s=1e9,
            keep_alive_interval_s=INTERVAL_S,
        )
        self.cluster = Cluster(rules)
        self.highest = (0, 0)
        for name, skew in zip(NAMES, skews, strict=False):
            self.cluster.add(name, clock_s=skew)
            self.cluster.join(name)

    def node(self, name: str) -> SimNode:
        return self.cluster.nodes[name]

    # --- what may happen ---

    @rule(name=st.sampled_from(NAMES), steps=st.integers(1, 6))
    def step(self, name: str, steps: int) -> None:
        for _ in range(steps):
            if self.node(name).is_acting and self.node(name).stopped is None:
                self.cluster.step(name)

    @rule(name=st.sampled_from(NAMES))
    def load(self, name: str) -> None:
        if self.node(name).is_acting:
            self.cluster.load(name)

    @rule()
    def everybody_steps(self) -> None:
        for name in NAMES:
            self.step(name, 1)

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 6.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.cluster.now += seconds

    @rule(name=st.sampled_from(NAMES))
    def crash(self, name: str) -> None:
        self.node(name).is_alive = False

    @rule(name=st.sampled_from(NAMES))
    def start_anew(self, name: str) -> None:
        if not self.node(name).is_alive:
            old = self.node(name)
            self.cluster.add(name, clock_s=old.clock_s)
            # A new process is a new node: another id, nothing remembered.
            fresh = self.node(name)
            generation = int(old.seat.node_id[2:10], 16) + 1
            fresh.seat = type(fresh.seat)(f"{old.seat.node_id[:2]}{generation:08x}{'0' * 22}", fresh.seat.card)
            self.cluster.join(name)

    @rule(name=st.sampled_from(NAMES))
    def freeze_or_thaw(self, name: str) -> None:
        self.node(name).is_frozen = not self.node(name).is_frozen

    @rule(name=st.sampled_from(NAMES))
    def react(self, name: str) -> None:
        node = self.node(name)
        is_running = node.is_acting and not node.is_joining and node.seat.entered is not None
        if is_running and self.cluster.news(name).kind in {VerdictKind.OVER, VerdictKind.FENCED}:
            self.cluster.join(name)

    @rule(name=st.sampled_from(NAMES))
    def fail(self, name: str) -> None:
        node = self.node(name)
        if node.is_acting and not node.is_joining and node.seat.entered is not None:
            self.cluster.act(name, Fail(node.seat.entered, "it failed", 1, final=False))
            self.cluster.join(name)

    @rule(name=st.sampled_from(NAMES))
    def leave(self, name: str) -> None:
        if self.node(name).is_acting:
            self.cluster.act(name, Leave("told to"))
            self.node(name).is_alive = False

    # Rarely: a run that has succeeded is a short story.
    @precondition(lambda self: self.cluster.state.round > 2)
    @rule(name=st.sampled_from(NAMES))
    def succeed(self, name: str) -> None:
        node = self.node(name)
        if node.is_acting and not node.is_joining and node.seat.entered is not None:
            self.cluster.act(name, Succeed(node.seat.entered))

    # --- what must hold ---

    @invariant()
    def the_state_is_coherent(self) -> None:
        # Decoding checks that ranks are 0 to n-1, that the world is within its bounds, that an endpoint is known.
        state = self.cluster.state
        assert (state.round, state.version) >= self.highest
        assert state.phase is not Phase.COMPLETE or all(node_id in state.done for node_id in state.unacknowledged)
        self.highest = (state.round, state.version)

    @invariant()
    def each_round_is_one_world(self) -> None:
        worlds: dict[int, tuple[dict[str, int], object]] = {}
        for node in self.cluster.nodes.values():
            rounds = [state.round for state in node.entered]
            assert rounds == sorted(set(rounds)), "rounds only grow"
            for state in node.entered:
                world = (state.members, state.endpoint)
                assert worlds.setdefault(state.round, world) == world, "two descriptors of one round"
                assert node.seat.node_id in state.members or len(node.entered) > 1

    @invariant()
    def who_believes_to_be_current_is(self) -> None:
        state = self.cluster.state
        for name, node in self.cluster.nodes.items():
            if node.seat.entered is None or node.is_joining:
                continue
            if self.cluster.news(name).kind is VerdictKind.CURRENT:
                assert state.round == node.seat.entered
                assert state.phase is Phase.COMPLETE
                assert node.seat.node_id in state.members

    def teardown(self) -> None:
        """Let everybody who lives act as an agent would: all who fit end up in one world, the rest stand by."""
        if not hasattr(self, "cluster"):
            return
        for node in self.cluster.nodes.values():
            node.is_frozen = False
            node.loaded = None
        for _ in range(SETTLE_TURNS):
            self.cluster.now += 1.0
            for name in NAMES:
                self.react(name)
                self.step(name, 4)
        state, living = self.cluster.state, [node for node in self.cluster.nodes.values() if node.is_alive]
        if state.closure is not None or not living:
            return
        ids = {node.seat.node_id for node in living}
        assert set(state.nodes) == ids, "who lives is known, who is gone is not"
        if len(living) < state.min_nodes:
            assert state.phase is Phase.GATHERING
            return
        assert state.phase is Phase.COMPLETE
        # Members that finished and went away afterwards still count as members of the round.
        assert len(set(state.members) & ids) + len(set(state.done) - ids) == len(state.members)
        assert len(state.members) == min(len(living) + len(set(state.done) - ids), state.max_nodes)
        for node in living:
            assert node.is_joining is (node.seat.node_id not in state.members)


RendezvousMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyInterleaving = RendezvousMachine.TestCase
