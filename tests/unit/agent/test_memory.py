from __future__ import annotations

import math

from rallypoint.agent.memory import Memory, Plan
from rallypoint.agent.moves import Finish, GroupRules, GroupState


def test_a_machine_begins_with_nothing_to_wait_for() -> None:
    memory = Memory(GroupRules(local_world_size=2))
    assert {memory.lost_until, memory.success_until, memory.slow_at, memory.kill_at} == {math.inf}
    assert (memory.state, memory.round, memory.plan) == (GroupState.INIT, -1, None)


def test_a_decision_says_where_the_group_stands_now() -> None:
    memory, end = Memory(GroupRules(local_world_size=2)), Finish(GroupState.STOPPED, 1)
    assert memory.stay("because") == (GroupState.INIT, (), "because")
    assert memory.become(GroupState.STOPPED, "because", end) == (GroupState.STOPPED, (end,), "because")
    assert memory.state is GroupState.STOPPED


def test_what_is_not_planned_otherwise_is_another_round() -> None:
    plan = Plan("because")
    assert (plan.finish, plan.is_signal) == (None, False)
