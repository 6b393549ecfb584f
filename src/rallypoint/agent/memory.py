"""What the machine of a worker group remembers between two events.

What this file does not know: what follows from an event.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from rallypoint.agent.moves import Decision, Effect, Finish, GroupRules, GroupState

__all__ = ["Memory", "Plan"]


class Plan(NamedTuple):
    """What follows the stop under way: another round (``finish`` is None) or the end.

    Attributes:
        why: one sentence.
        finish: how the run ends here; ``None`` if it does not.
        number: the first signal that the workers get.
        is_signal: whether this agent was asked to end.
    """

    why: str
    finish: Finish | None = None
    number: int = signal.SIGTERM
    is_signal: bool = False


@dataclass
class Memory:
    """All that the machine remembers; times in seconds on the driver's clock, infinity for never.

    Attributes:
        rules: what it was told.
        state: where the group stands.
        now: when the present event came.
        round: the number of the present round, or of the last one.
        restarts_used: how many failures were answered by another round.
        failure_code: the exit code that goes with the last failure here.
        pids: of the workers of this round, by local rank.
        exits: how those ended that have, by local rank.
        plan: what follows the stop under way.
        lost_why: why the rendezvous is taken for lost; empty if it answers.
        lost_until: how long it is waited for.
        success_until: how long the other nodes' success is waited for.
        slow_at: when the stop under way has lasted so long that it is told.
        kill_at: when the workers that are being stopped are killed.
    """

    rules: GroupRules
    state: GroupState = GroupState.INIT
    now: float = 0.0
    round: int = -1
    restarts_used: int = 0
    failure_code: int | None = None
    pids: Mapping[int, int] = field(default_factory=dict)
    exits: dict[int, int] = field(default_factory=dict)
    plan: Plan | None = None
    lost_why: str = ""
    lost_until: float = math.inf
    success_until: float = math.inf
    slow_at: float = math.inf
    kill_at: float = math.inf

    def become(self, state: GroupState, why: str, *effects: Effect) -> Decision:
        """Decide to stand elsewhere."""
        self.state = state
        return Decision(state, effects, why)

    def stay(self, why: str, *effects: Effect) -> Decision:
        """Decide to stand as before."""
        return Decision(self.state, effects, why)
