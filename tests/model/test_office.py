"""Any interleaving of coordinators that die and nodes that step, freeze, crash, fail, leave: what must always hold.

A rule machine lets nodes act in any order on what is stored; the office may vanish at any point, with the last record
stored or not, and another goes on from the minutes and the reports. Old reports and orders come again.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.support.office_cluster import OfficeCluster, OfficeNode

from rallypoint.rendezvous.decision import Rules
from rallypoint.rendezvous.follower_moves import AllSucceeded, Leaving, Ordered, WorkerFailed
from rallypoint.rendezvous.minutes import decode_minutes
from rallypoint.rendezvous.office_moves import Reported, Send
from rallypoint.rendezvous.policy import Policy
from rallypoint.rendezvous.reports import OrderKind, Report, decode_order, decode_report
from rallypoint.rendezvous.state import Phase, check_state
from rallypoint.rendezvous.verdict import VerdictKind

NAMES = "abcde"
SETTLE_TURNS = 150
GONE = {VerdictKind.OVER, VerdictKind.FENCED, VerdictKind.CUT_OFF}


class OfficeMachine(RuleBasedStateMachine):
    @initialize(
        min_nodes=st.integers(1, 3),
        spread=st.integers(0, 2),
        flap_limit=st.sampled_from([0, 0, 2]),
        skews=st.lists(st.floats(-1e5, 1e5), min_size=5, max_size=5),
    )
    def begin(self, min_nodes: int, spread: int, flap_limit: int, skews: list[float]) -> None:
        rules = Rules(
            min_nodes=min_nodes,
            max_nodes=min_nodes + spread,
            last_call_s=10.0,
            join_timeout_s=1e9,
            keep_alive_interval_s=5.0,
        )
        policy = Policy(flap_limit=flap_limit, cool_down_s=5.0, cool_down_max_s=20.0)
        self.cluster = OfficeCluster(rules, policy)
        self.lives = dict.fromkeys(NAMES, 0)
        self.past: list[Report] = []
        self.highest = 0
        for name, skew in zip(NAMES, skews, strict=True):
            self.cluster.add(name, skew_s=skew)
            self.cluster.join(name)

    def node(self, name: str) -> OfficeNode:
        return self.cluster.nodes[name]

    def is_in_round(self, name: str) -> bool:
        node = self.node(name)
        return node.is_acting and node.follower.verdict is not None

    # --- what may happen ---

    @rule(name=st.sampled_from(NAMES), steps=st.integers(1, 6))
    def step(self, name: str, steps: int) -> None:
        for _ in range(steps):
            self.cluster.step(name)

    @rule()
    def everybody_steps(self) -> None:
        for name in NAMES:
            self.cluster.step(name)

    @rule(seconds=st.sampled_from([0.1, 1.0, 4.0, 4.0, 6.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.cluster.pass_time(seconds)

    @rule()
    def another_coordinator_takes_over(self) -> None:
        self.cluster.take_over()

    @rule()
    def nobody_is_in_office(self) -> None:
        self.cluster.stop_office()

    @rule()
    def records_get_stuck(self) -> None:
        self.cluster.is_recording = False

    @rule()
    def records_are_stored(self) -> None:
        self.cluster.is_recording = True
        self.cluster.record()

    @rule(data=st.data())
    def an_old_report_comes_again(self, data: st.DataObject) -> None:
        self.past += [decode_report(report) for report in self.cluster.reports.values()]
        there = [report for report in self.past if report.node in self.cluster.reports]
        if there:
            self.cluster.tell_office(Reported(data.draw(st.sampled_from(there))))

    @rule(name=st.sampled_from(NAMES))
    def an_old_order_comes_again(self, name: str) -> None:
        node = self.node(name)
        if node.read is not None and node.is_acting:
            self.cluster.tell(name, Ordered(node.read))

    @rule(name=st.sampled_from(NAMES))
    def crash(self, name: str) -> None:
        self.node(name).is_alive = False
        self.cluster.lose(name, "its connection was lost")

    @rule(name=st.sampled_from(NAMES))
    def vanish(self, name: str) -> None:
        self.node(name).is_alive = False

    @rule(name=st.sampled_from(NAMES))
    def start_anew(self, name: str) -> None:
        node = self.node(name)
        if not node.is_alive:
            self.cluster.lose(name, "its connection was lost")
            self.lives[name] += 1
            self.cluster.add(name, skew_s=node.skew_s, life=self.lives[name])
            self.cluster.join(name)

    @rule(name=st.sampled_from(NAMES))
    def freeze_or_thaw(self, name: str) -> None:
        self.node(name).is_frozen = not self.node(name).is_frozen

    @rule(name=st.sampled_from(NAMES))
    def react(self, name: str) -> None:
        node = self.node(name)
        verdict = node.follower.verdict
        if node.is_acting and verdict is not None and verdict.kind in GONE:
            self.cluster.join(name)

    @rule(name=st.sampled_from(NAMES), is_published=st.booleans())
    def fail(self, name: str, is_published: bool) -> None:
        if self.is_in_round(name):
            self.cluster.tell(name, WorkerFailed("it failed", 1, final=False))
            if is_published:
                self.cluster.publish(name)
            self.cluster.join(name)

    @rule(name=st.sampled_from(NAMES))
    def leave(self, name: str) -> None:
        if self.node(name).is_acting:
            self.cluster.do(name, Leaving("told to"))
            self.crash(name)

    # Rarely: a run that has succeeded is a short story.
    @precondition(lambda self: self.highest > 2)
    @rule(name=st.sampled_from(NAMES))
    def succeed(self, name: str) -> None:
        if self.is_in_round(name):
            self.cluster.do(name, AllSucceeded())

    # --- what must hold ---

    @invariant()
    def the_state_is_coherent_and_rounds_only_grow(self) -> None:
        if self.cluster.minutes is None:
            return
        minutes = decode_minutes(self.cluster.minutes)  # refuses what is not coherent
        assert minutes.state.round >= self.highest
        self.highest = minutes.state.round
        if self.cluster.office is not None:
            check_state(self.cluster.state)

    @invariant()
    def nobody_is_admitted_before_that_is_written_down(self) -> None:
        for effect in self.cluster.effects:  # that orders wait for records is asserted by the cluster
            if isinstance(effect, Send) and effect.order.kind is OrderKind.ADMITTED:
                assert self.cluster.minutes is not None
                state = decode_minutes(self.cluster.minutes).state
                assert state.round >= effect.order.round
        self.cluster.effects.clear()

    @invariant()
    def each_round_is_one_world(self) -> None:
        worlds: dict[int, tuple[int, int, object]] = {}
        ranks: dict[tuple[int, int], str] = {}
        for node in self.cluster.nodes.values():
            rounds = [order.round for order in node.entered]
            assert rounds == sorted(set(rounds)), "rounds only grow, and nobody gets into one again"
            for order in node.entered:
                world = (order.proposal, order.size, order.endpoint)
                assert worlds.setdefault(order.round, world) == world, "two worlds of one round"
                assert ranks.setdefault((order.round, order.rank), node.node_id) == node.node_id
                assert self.cluster.rules.min_nodes <= order.size <= self.cluster.rules.max_nodes
                assert 0 <= order.rank < order.size

    @invariant()
    def who_has_read_all_and_believes_to_be_current_is(self) -> None:
        cluster = self.cluster
        if cluster.office is None or cluster.unrecorded:
            return
        for node in cluster.nodes.values():
            verdict, order = node.follower.verdict, cluster.orders.get(node.node_id)
            has_read = order is None or (node.read is not None and decode_order(order) == node.read)
            is_alive = node.is_acting and node.has_lease and node.unpublished is None
            if not is_alive or not has_read or verdict is None or verdict.kind is not VerdictKind.CURRENT:
                continue
            state = cluster.state
            assert state.round == node.follower.report.entered
            assert state.phase is Phase.COMPLETE
            assert state.members[node.node_id] == node.entered[-1].rank

    def teardown(self) -> None:
        """Let everybody who lives act as an agent would: all who fit end up in one world, the rest stand by."""
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        for node in cluster.nodes.values():
            node.is_frozen = False
        if cluster.office is None:
            cluster.take_over()
        self.records_are_stored()
        for _ in range(SETTLE_TURNS):
            cluster.pass_time(1.0)
            for name in NAMES:
                cluster.step(name)
                self.react(name)
                cluster.step(name)
        state, living = cluster.state, [node for node in cluster.nodes.values() if node.is_alive]
        if state.closure is not None or not living:
            return
        ids = {node.node_id for node in living}
        assert set(state.nodes) == ids, "who lives is known, who is gone is not"
        if len(living) < state.min_nodes:
            assert state.phase is Phase.GATHERING
            return
        assert state.phase is Phase.COMPLETE
        # Members that finished and went away afterwards still count as members of the round.
        assert len(set(state.members) & ids) + len(set(state.done) - ids) == len(state.members)
        assert len(state.members) == min(len(living) + len(set(state.done) - ids), state.max_nodes)
        for node in living:
            assert node.follower.is_wanting is (node.node_id not in state.members)


OfficeMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=60, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyInterleaving = OfficeMachine.TestCase
