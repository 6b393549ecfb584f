"""One agent on a simulated host: the machine of its worker group, and what ``agent/agent.py`` does around that."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from tests.sim.membership import SimMembership
from tests.sim.workers import SimWorkers

from rallypoint.agent.group import WorkerGroupMachine
from rallypoint.agent.moves import (
    Begun,
    Event,
    Finish,
    GroupState,
    Leave,
    Rendezvous,
    ReportFailure,
    ReportGoing,
    ReportSuccess,
    RunClosed,
    SignalReceived,
    Started,
    StartFailed,
    StartWorkers,
    StopFinished,
    StopWorkers,
    Ticked,
    WorkerExited,
)
from rallypoint.rendezvous import follower_moves as node
from rallypoint.testing.simulation import Timer

if TYPE_CHECKING:
    from tests.sim.world import World

    from rallypoint.rendezvous.office import Office
    from rallypoint.rendezvous.reports import Order
    from rallypoint.rendezvous.verdict import Verdict

__all__ = ["SimAgent"]

TURN_S = 0.002
"""The loop turns to what has happened within so many seconds."""

SPAWN_S = 0.01
"""Starting processes takes so many seconds at most, once all is prepared; the loop waits for that."""

LONG_PREPARATION_SHARE = 0.1
"""So many starts are prepared for long: folders on a slow disk."""

START_FAILURE_SHARE = 0.02
"""So many starts fail while things go wrong."""

IN_A_ROUND = {GroupState.STARTING, GroupState.HEALTHY, GroupState.SUCCEEDED_WAITING}


class SimAgent:
    """The agent's life on one host, from its start to its end.

    Attributes:
        name: of its host.
        life: which of that host's.
        machine: of its worker group.
        end: how the run has ended here; ``None`` while it takes part.
        outcome: of the run, as it was told.
    """

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.host = world.simulation.host(name)
        self.life = self.host.life
        self.end: Finish | None = None
        self.outcome: str | None = None
        self.node_id = f"{world.simulation.dice.getrandbits(128):032x}"
        world.tell(f"{name} starts as {self.node_id[:6]}")
        self.machine = WorkerGroupMachine(world.group_rules)
        self._inbox: deque[tuple[int | None, Event]] = deque()
        self._token = 0
        self._workers: SimWorkers | None = None
        self._is_starting = False
        self._is_stopping = False
        self._has_left = ""
        self._turn_due: Timer | None = None
        self._tick_due: Timer | None = None
        self.membership = SimMembership(world, self.host, self.node_id, self.put)
        self._step(Begun())

    @property
    def is_live(self) -> bool:
        """Whether the process runs, and takes part."""
        return self.host.is_up and self.host.life == self.life and self.end is None

    @property
    def running(self) -> Order | None:
        """What let it into the round by which its workers run; ``None`` while none do."""
        return self._workers.order if self._workers is not None and self._workers.is_acting else None

    @property
    def has_succeeded(self) -> bool:
        """Whether all its workers have ended well."""
        return self._workers is not None and self._workers.well == self.world.group_rules.local_world_size

    @property
    def joined(self) -> Order | None:
        """What let it into the round that it is in, as far as it knows."""
        return self.membership.joined if self.machine.state in IN_A_ROUND else None

    @property
    def verdict(self) -> Verdict | None:
        """What it was told last of its round."""
        return self.membership.following.verdict

    @property
    def told_at(self) -> float:
        """When that was."""
        return self.membership.following.told_at

    @property
    def last_order(self) -> Order | None:
        """The last order that it has read."""
        return self.membership.following.last_order

    @property
    def office(self) -> Office | None:
        """The machine by which it coordinates; ``None`` if it does not."""
        return self.membership.candidate.office

    # --- what a test has it do ---------------------------------------------------------------------------

    def fail_worker(self, returncode: int = 1) -> None:
        """Let a worker of it fail."""
        if self._workers is not None and self._workers.is_acting:
            self._workers.end(self.world.simulation.dice.choice(sorted(self._workers.acting)), returncode)

    def succeed(self, within_s: float) -> None:
        """Let all its workers end well, one after the other."""
        workers = self._workers
        if workers is not None:
            for local_rank in sorted(workers.acting):
                after_s = self.world.simulation.dice.uniform(0.0, within_s)
                self.host.after(after_s, lambda local_rank=local_rank: workers.end(local_rank, 0))

    def die(self, *, has_guard: bool) -> None:
        """Lose the process, or its whole machine; the guard beside it ends the workers."""
        if self._workers is not None:
            self._workers.lose_agent(has_guard=has_guard)

    def signal(self, number: int) -> None:
        """Ask it to end."""
        self.put(SignalReceived(number))

    # --- events in -----------------------------------------------------------------------------------------

    def put(self, event: Event, token: int | None = None) -> None:
        """Leave something in the inbox, about a round if there is a token."""
        self._inbox.append((token, event))
        self._wake()

    def _wake(self) -> None:
        if self._turn_due is None and not self._is_starting and self.end is None:
            self._turn_due = self.host.after(self.world.simulation.dice.uniform(0.0, TURN_S), self._turn)

    def _turn(self) -> None:
        """Deal with one thing that has happened; workers that have ended come after all that was put in."""
        self._turn_due = None
        if self._inbox:
            token, event = self._inbox.popleft()
            if token is None or token == self._token:
                self._step(event)
        elif self._workers is not None and not self._is_stopping:
            for exited in self._workers.take_exits():
                self._step(exited)
        self._tick()
        if self._inbox or (self._workers is not None and self._workers.has_exits):
            self._wake()

    def _tick(self) -> None:
        """Let the machine know that time has passed if it waits for that, and see that it is known in future."""
        due, now = self.machine.next_deadline(), self.world.simulation.now
        if self.end is None and now >= due:
            self._step(Ticked())
        if self._tick_due is not None:
            self._tick_due.cancel()
            self._tick_due = None
        if self.end is None and now < due < float("inf"):
            self._tick_due = self.host.after(self.world.until(due), self._wake)

    def _step(self, event: Event) -> None:
        before = self.machine.state
        decision = self.machine.step(event, self.world.simulation.now)
        if isinstance(event, RunClosed):
            self.outcome = event.outcome
            self.world.referee.note_outcome(event.outcome)
        elif isinstance(event, WorkerExited) and decision.state is GroupState.SUCCEEDED_WAITING:
            self.world.referee.note_done(self)
        if decision.state is not before or decision.effects:
            self.world.tell(f"{self.name} is {decision.state.name.lower()}: {decision.why}")
            self.world.referee.note_change()
        for effect in decision.effects:
            self._carry_out(effect)

    # --- effects out ---------------------------------------------------------------------------------------

    def _carry_out(self, effect: Any) -> None:
        membership = self.membership
        if isinstance(effect, Rendezvous):
            self._token += 1
            membership.join()
        elif isinstance(effect, StartWorkers):
            self._start()
        elif isinstance(effect, StopWorkers):
            self._stop(effect)
        elif isinstance(effect, ReportFailure):
            membership.report(node.WorkerFailed(effect.message, effect.returncode, effect.final))
        elif isinstance(effect, ReportSuccess):
            membership.report(node.AllSucceeded())
        elif isinstance(effect, ReportGoing):
            self.world.referee.note_going(self.node_id)
            membership.report(node.Going(effect.why))
        elif isinstance(effect, Leave):
            self._has_left = effect.why
            self.world.referee.note_lost(self.node_id)
        elif isinstance(effect, Finish):
            self.end = effect
            self.world.tell(f"{self.name} has ended: {effect.state.name.lower()}, {effect.exit_code}")
            membership.close(self._has_left or "it shut down", bool(self._has_left))

    def _start(self) -> None:
        """Prepare the start; the loop does nothing else until it is through."""
        dice, token = self.world.simulation.dice, self._token
        self._is_starting = True
        self.membership.watch(lambda event: self.put(event, token))
        longest_s = 1.0 if dice.random() < LONG_PREPARATION_SHARE else 0.02
        self.host.after(self.world.pace * dice.uniform(0.0, longest_s), self._spawn)

    def _spawn(self) -> None:
        ended = self.membership.end_of_round()
        if ended is not None:
            self._step(ended)
            self._have_started(StartFailed("the round was over before its workers were started", 127))
            return
        order = self.membership.joined
        assert order is not None
        count = self.world.group_rules.local_world_size
        self._workers = SimWorkers(self.world, self.host, order, count, self._wake)
        self.world.referee.note_start(self)
        self.host.after(self.world.pace * self.world.simulation.dice.uniform(0.0, SPAWN_S), self._know_workers)

    def _know_workers(self) -> None:
        workers = self._workers
        assert workers is not None
        if self.world.is_troubled and self.world.simulation.dice.random() < START_FAILURE_SHARE:
            workers.acting.clear()
            self._workers = None
            self._have_started(StartFailed("worker 0 could not be started", 127))
        else:
            self._have_started(Started({local_rank: 100 + local_rank for local_rank in sorted(workers.acting)}))

    def _have_started(self, event: Started | StartFailed) -> None:
        self._is_starting = False
        self._step(event)
        self._wake()

    def _stop(self, effect: StopWorkers) -> None:
        workers = self._workers
        if workers is None:
            self._step(StopFinished())
        elif self._is_stopping:
            workers.kill()
        else:
            self._is_stopping = True
            workers.stop(effect.signal_number, effect.grace_s, self._have_stopped)

    def _have_stopped(self, exits: list[WorkerExited]) -> None:
        for exited in exits:
            self.put(exited)
        self._workers, self._is_stopping = None, False
        self.put(StopFinished())
