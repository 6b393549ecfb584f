"""The simulated workers of one start: processes that act until they end, are asked to, or are killed.

::

    begin ---> act ---> end by themselves --------------------+
                |                                             +--> gone: only then the stop is finished
                +-- a signal --> end, soon or late -----------+
                       |                                      |
                       +-- the grace is over, or hurry: kill -+  (who was killed acts no more, and is gone later)
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from rallypoint.agent.moves import WorkerExited
from rallypoint.testing.simulation import Timer

if TYPE_CHECKING:
    from tests.sim.world import World

    from rallypoint.rendezvous.reports import Order
    from rallypoint.testing import SimHost

__all__ = ["SimWorkers"]

GONE_S = 0.05
"""A process that was killed is gone after so many seconds at most; one in ten takes ten times as long."""

GUARD_S = 0.04
"""When an agent is killed, its guard kills its workers after so many seconds."""


class SimWorkers:
    """The workers of one node in one round, as ``agent/process.py`` has them.

    Args:
        world: where they are.
        host: on which machine.
        order: what let their node into the round.
        count: how many.
        ended: called when one has ended by itself.

    Attributes:
        order: see there.
        acting: the local ranks of those that run, and may do what they like.
        well: how many have ended well.
    """

    def __init__(self, world: World, host: SimHost, order: Order, count: int, ended: Callable[[], None]) -> None:
        self.order = order
        self.acting = set(range(count))
        self.well = 0
        self._dice = world.simulation.dice
        self._pace = world.pace
        self._host = host
        self._simulation = world.simulation
        self._ended = ended
        self._exits: list[WorkerExited] = []
        self._stopped: Callable[[list[WorkerExited]], None] | None = None
        self._is_killed = False
        self._timer: Timer | None = None

    @property
    def is_acting(self) -> bool:
        """Whether any of them runs."""
        return bool(self.acting)

    @property
    def has_exits(self) -> bool:
        """Whether any has ended, and nobody was told."""
        return bool(self._exits)

    def take_exits(self) -> list[WorkerExited]:
        """Give the ends that were not given before."""
        exits, self._exits = self._exits, []
        return exits

    def end(self, local_rank: int, returncode: int) -> None:
        """Let one end by itself, if it runs."""
        if local_rank not in self.acting:
            return
        self.acting.discard(local_rank)
        self.well += returncode == 0
        self._exits.append(WorkerExited(local_rank, returncode))
        if self._stopped is None:
            self._ended()
        elif not self.acting:
            self._finish()

    def stop(self, number: int, grace_s: float, stopped: Callable[[list[WorkerExited]], None]) -> None:
        """End all of them; ``stopped`` gets the ends that were not given before, when all are gone."""
        self._stopped = stopped
        if not self.acting:
            self._finish()
        elif number == signal.SIGKILL or grace_s <= 0:
            self.kill()
        else:
            for local_rank in sorted(self.acting):
                self._ask(local_rank, number, grace_s)
            self._timer = self._host.after(grace_s, self.kill)

    def _ask(self, local_rank: int, number: int, grace_s: float) -> None:
        """Send the first signal: most end at once, some write down first what they have, some do not listen."""
        kind = self._dice.random()
        if kind < 0.9:
            after_s = self._dice.uniform(0.0, 0.2 if kind < 0.7 else 1.5 * grace_s)
            self._host.after(after_s, lambda: self.end(local_rank, -number))

    def kill(self) -> None:
        """Kill them; during a stop its grace is over."""
        if self._stopped is None or self._is_killed:
            return
        self._is_killed = True
        self._exits += [WorkerExited(local_rank, -signal.SIGKILL) for local_rank in sorted(self.acting)]
        if self.acting:
            self.acting.clear()
            self._finish()

    def lose_agent(self, *, has_guard: bool) -> None:
        """Their agent is gone: the guard beside it ends them, if their machine has not gone with it."""
        if has_guard:
            self._simulation.after(GUARD_S, self.acting.clear)
        else:
            self.acting.clear()

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._is_killed = True
        gone_s = self._pace * GONE_S * (10 if self._dice.random() < 0.1 else 1)
        self._host.after(self._dice.uniform(0.0, gone_s), self._tell_stopped)

    def _tell_stopped(self) -> None:
        assert self._stopped is not None
        self._stopped(self.take_exits())
