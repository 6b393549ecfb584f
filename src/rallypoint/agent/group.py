"""The worker group of one node: every rule about starting, stopping, restarting and ending, and no I/O.

Rules
-----
* A group is all or nothing: one failed worker stops all workers of this node.
* The restart budget (``max_restarts``) is spent by failures of this node's own workers only. A round that ends
  because of others (a node came, went, or failed) is free. The failure that finds the budget empty is final:
  it ends the run for everybody. A budget that all nodes share (``is_budget_shared``) is not this machine's to
  count: it reports each failure, and hears if the run is closed by it.
* A failure is reported before the workers are stopped, so that the other nodes stop at the same time.
* Round over: stop, rendezvous again. Run closed: stop, end with the run's outcome. Fenced (the others went on
  without this node) or cut off (nobody answers, and they may have): kill at once, rendezvous again as a newcomer.
* Workers that all ended well are not the end: the node waits until the others' did too, because a failure
  elsewhere means that the round is run again, here as well.
* The first signal stops the workers with that same signal, then the node leaves; a further signal only turns the
  stop into a kill. Nothing cuts a stop short. The exit code is 128 + the first signal's number. That the node is going
  is reported before its workers are stopped, so that the other nodes do not wait for them; a node whose workers have
  all ended well takes nothing from the others by going, and just leaves.
* A store out of reach is put up with for ``store_patience_s``; then the node cannot know its round any more, and
  fails. If its own workers have all ended well there is nothing left to lose: it waits for ``farewell_s`` only, or
  until it is cut off, and ends well without knowing how the others fare.
* A spare that is no longer needed ends well.

Theory of operation
-------------------
``WorkerGroupMachine.step(event, now)`` is the one door. It looks up the rule for (state, event) in one table and
returns a ``Decision``: the new state, the effects that the driver has to carry out in order, and the reason in
one sentence. Effects that take time (rendezvous, start, stop) are answered by later events. What is to happen
after a stop is kept as a plan; a stronger reason (a signal, the end of the run) replaces a weaker plan. Events
that a state has no rule for are late arrivals, and change nothing::

    INIT -> RENDEZVOUS -> STARTING -> HEALTHY ---------> SUCCEEDED_WAITING -> SUCCEEDED
                ^  |          |          |                  |        |
                |  |          +----------+--> STOPPING <----+        |
                +--|--- plan: again ---------   |                    |
                   +---- closed, signal ------- + plan: finish ------+-> STOPPED | FAILED | SUCCEEDED

What it does not know: processes, stores, sockets, threads, clocks, log lines, other nodes; which rank a worker
has; how a signal is delivered.
"""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from rallypoint.agent.moves import (
    Begun,
    CutOff,
    Decision,
    Dismissed,
    Effect,
    Event,
    Fenced,
    Finish,
    GroupRules,
    GroupState,
    Leave,
    Rendezvous,
    RendezvousDone,
    RendezvousFailed,
    ReportFailure,
    ReportGoing,
    ReportSuccess,
    RoundOver,
    RunClosed,
    SignalReceived,
    Started,
    StartFailed,
    StartWorkers,
    StopFinished,
    StopWorkers,
    StoreBack,
    StoreLost,
    Ticked,
    WorkerExited,
    describe_exit,
    describe_signal,
    exit_code_of,
)

__all__ = ["GroupRules", "WorkerGroupMachine"]


class _Plan(NamedTuple):
    """What follows the stop under way: another round (``finish`` is None) or the end."""

    why: str
    finish: Finish | None = None
    number: int = signal.SIGTERM
    is_signal: bool = False


@dataclass
class _Memory:
    """All that the machine remembers."""

    rules: GroupRules
    state: GroupState = GroupState.INIT
    now: float = 0.0
    round: int = -1
    restarts_used: int = 0
    failure_code: int | None = None
    pids: Mapping[int, int] = field(default_factory=dict)
    exits: dict[int, int] = field(default_factory=dict)
    plan: _Plan | None = None
    lost_why: str = ""
    lost_until: float = math.inf
    success_until: float = math.inf

    def become(self, state: GroupState, why: str, *effects: Effect) -> Decision:
        self.state = state
        return Decision(state, effects, why)

    def stay(self, why: str, *effects: Effect) -> Decision:
        return Decision(self.state, effects, why)


Rule: TypeAlias = Callable[[_Memory, Any], Decision]


class WorkerGroupMachine:
    """The worker group of one node, as a pure machine. See the head of this file.

    Threads: call from one thread.
    """

    def __init__(self, rules: GroupRules) -> None:
        self._memory = _Memory(rules)

    @property
    def state(self) -> GroupState:
        """Where the group stands."""
        return self._memory.state

    @property
    def restarts_used(self) -> int:
        """How many failures of own workers were answered by another round."""
        return self._memory.restarts_used

    def next_deadline(self) -> float:
        """Give the time at which ``Ticked`` is due, infinity if nothing waits for time."""
        return min(self._memory.lost_until, self._memory.success_until)

    def step(self, event: Event, now: float) -> Decision:
        """Take one event.

        Args:
            event: what happened.
            now: seconds on the caller's monotonic clock.

        Returns:
            The state, the effects to carry out in order, and the reason. An event that the state has no rule
            for changes nothing.
        """
        rule = _TABLE.get(self._memory.state, {}).get(type(event))
        if rule is None:
            return self._memory.stay(f"{type(event).__name__} means nothing while {self._memory.state.value}")
        self._memory.now = now
        return rule(self._memory, event)


# --- rules -----------------------------------------------------------------------------------------------


def _begin(m: _Memory, _event: Begun) -> Decision:
    return m.become(GroupState.RENDEZVOUS, "looking for the other nodes", Rendezvous())


def _admit(m: _Memory, event: RendezvousDone) -> Decision:
    m.round, m.exits, m.pids, m.plan, m.failure_code = event.round, {}, {}, None, None
    why = (
        f"round {event.round}: this is node {event.node_rank} of {event.node_count}, "
        f"starting {m.rules.local_world_size} worker(s)"
    )
    return m.become(GroupState.STARTING, why, StartWorkers(event.round, m.restarts_used))


def _join_again(m: _Memory, event: RoundOver | Fenced) -> Decision:
    return m.stay(f"the round ended before its workers were started: {event.why}", Rendezvous())


def _ending(m: _Memory, event: RunClosed) -> Finish:
    """Give the end of this node that goes with the end of the run."""
    if event.outcome == "succeeded":
        return Finish(GroupState.SUCCEEDED, 0)
    state = GroupState.FAILED if event.outcome == "failed" else GroupState.STOPPED
    return Finish(state, m.failure_code or 1)


def _end_with_run(m: _Memory, event: RunClosed) -> Decision:
    end = _ending(m, event)
    return m.become(end.state, event.tell(), end)


def _end_as_spare(m: _Memory, event: Dismissed) -> Decision:
    return m.become(GroupState.SUCCEEDED, event.why, Finish(GroupState.SUCCEEDED, 0))


def _end_alone(m: _Memory, event: RendezvousFailed) -> Decision:
    return m.become(GroupState.FAILED, event.why, Finish(GroupState.FAILED, m.failure_code or 1))


def _signal_plan(event: SignalReceived) -> _Plan:
    why = f"{describe_signal(event.number)} received"
    return _Plan(why, Finish(GroupState.STOPPED, 128 + event.number), event.number, is_signal=True)


def _end_by_signal(m: _Memory, event: SignalReceived) -> Decision:
    why, end = f"{describe_signal(event.number)} received", Finish(GroupState.STOPPED, 128 + event.number)
    return m.become(GroupState.STOPPED, why, Leave(why), end)


def _stop(m: _Memory, plan: _Plan, *before: Effect) -> Decision:
    m.plan, m.lost_why = plan, ""
    m.lost_until = m.success_until = math.inf
    grace_s = 0.0 if plan.number == signal.SIGKILL else m.rules.grace_s
    return m.become(GroupState.STOPPING, plan.why, *before, StopWorkers(plan.number, grace_s))


def _run(m: _Memory, event: Started) -> Decision:
    m.pids = dict(event.pids)
    if m.plan is not None:
        return _stop(m, m.plan)
    return m.become(GroupState.HEALTHY, f"round {m.round}: {len(m.pids)} worker(s) run")


def _fail(m: _Memory, message: str, returncode: int) -> Decision:
    allowed = m.rules.max_restarts
    final = m.restarts_used >= allowed and not m.rules.is_budget_shared
    m.failure_code = exit_code_of(returncode)
    if m.rules.is_budget_shared:
        m.restarts_used = min(allowed, m.restarts_used + 1)
        plan = _Plan(f"{message}; the run allows {allowed} restart(s) after failures on all its nodes")
    elif final:
        why = f"{message}; " + (f"none of {allowed} restart(s) is left" if allowed else "no restarts are allowed")
        plan = _Plan(why, Finish(GroupState.FAILED, m.failure_code))
    else:
        m.restarts_used += 1
        plan = _Plan(f"{message}; restart {m.restarts_used} of {allowed}")
    return _stop(m, plan, ReportFailure(message, returncode, final))


def _fail_to_start(m: _Memory, event: StartFailed) -> Decision:
    if m.plan is not None:
        return _stop(m, m.plan)
    return _fail(m, event.why, event.exit_code)


def _take_exit(m: _Memory, event: WorkerExited) -> Decision:
    m.exits[event.local_rank] = event.returncode
    text = describe_exit(event.local_rank, m.pids.get(event.local_rank), event.returncode)
    if event.returncode != 0:
        return _fail(m, f"{text}: {event.detail}" if event.detail else text, event.returncode)
    total = m.rules.local_world_size
    left = total - len(m.exits)
    if left:
        return m.stay(f"{text}; {left} of {total} still run(s)")
    m.success_until = m.now + m.rules.success_wait_s
    if m.lost_why:
        m.lost_until = min(m.lost_until, m.now + m.rules.farewell_s)
    return m.become(GroupState.SUCCEEDED_WAITING, f"all {total} worker(s) of this node ended well", ReportSuccess())


def _stop_for_next_round(m: _Memory, event: RoundOver) -> Decision:
    return _stop(m, _Plan(f"round {m.round} is over: {event.why}"))


def _stop_fenced(m: _Memory, event: Fenced | CutOff) -> Decision:
    return _stop(m, _Plan(f"round {m.round} is over for this node: {event.why}", number=signal.SIGKILL))


def _end_unheard(m: _Memory, event: CutOff) -> Decision:
    why = f"all workers of this node ended well, how the other nodes fare is not known: {event.why}"
    return _stop(m, _Plan(why, Finish(GroupState.SUCCEEDED, 0)))


def _stop_for_end(m: _Memory, event: RunClosed) -> Decision:
    return _stop(m, _Plan(event.tell(), _ending(m, event)))


def _go(m: _Memory, event: SignalReceived) -> Decision:
    plan = _signal_plan(event)
    return _stop(m, plan, ReportGoing(plan.why))


def _go_when_done(m: _Memory, event: SignalReceived) -> Decision:
    return _stop(m, _signal_plan(event))


def _plan_signal(m: _Memory, event: SignalReceived) -> Decision:
    m.plan = _signal_plan(event)
    return m.stay(m.plan.why, ReportGoing(m.plan.why))


def _plan_round(m: _Memory, event: RoundOver | Fenced | CutOff) -> Decision:
    if m.plan is None:
        number = signal.SIGTERM if isinstance(event, RoundOver) else signal.SIGKILL
        m.plan = _Plan(f"round {m.round} is over: {event.why}", number=number)
    return m.stay(m.plan.why)


def _plan_end(m: _Memory, event: RunClosed) -> Decision:
    if m.plan is None or m.plan.finish is None:
        m.plan = _Plan(event.tell(), _ending(m, event))
    return m.stay(m.plan.why)


def _signal_during_stop(m: _Memory, event: SignalReceived) -> Decision:
    assert m.plan is not None, "a stop has a plan"
    if m.plan.is_signal:
        why = f"{describe_signal(event.number)} received again: killing the workers"
        return m.stay(why, StopWorkers(signal.SIGKILL, 0.0))
    if m.plan.finish is None:
        return _plan_signal(m, event)
    # The end is decided already: the signal does not change the verdict, the next one makes it quick.
    m.plan = m.plan._replace(is_signal=True)
    return m.stay(f"{describe_signal(event.number)} received while ending")


def _fenced_during_stop(m: _Memory, event: Fenced | CutOff) -> Decision:
    why = f"killing the workers: {event.why}"
    return m.stay(why, StopWorkers(signal.SIGKILL, 0.0))


def _exit_during_stop(m: _Memory, event: WorkerExited) -> Decision:
    m.exits[event.local_rank] = event.returncode
    return m.stay("the workers are being stopped")


def _after_stop(m: _Memory, _event: StopFinished) -> Decision:
    assert m.plan is not None, "a stop has a plan"
    plan, m.plan = m.plan, None
    if plan.finish is None:
        return m.become(GroupState.RENDEZVOUS, f"workers stopped, joining the next round: {plan.why}", Rendezvous())
    effects = (Leave(plan.why), plan.finish) if plan.is_signal else (plan.finish,)
    return m.become(plan.finish.state, plan.why, *effects)


def _miss_store(m: _Memory, event: StoreLost) -> Decision:
    if not m.lost_why:
        m.lost_why = f"the rendezvous does not answer: {event.why}"
        is_done = m.state is GroupState.SUCCEEDED_WAITING
        m.lost_until = m.now + (m.rules.farewell_s if is_done else m.rules.store_patience_s)
    return m.stay(m.lost_why)


def _find_store(m: _Memory, _event: StoreBack) -> Decision:
    m.lost_why, m.lost_until = "", math.inf
    return m.stay("the rendezvous answers again")


def _tick(m: _Memory, _event: Ticked) -> Decision:
    if m.now >= m.lost_until and m.state is GroupState.SUCCEEDED_WAITING:
        return _end_unheard(m, CutOff(m.lost_why))
    if m.now >= m.lost_until:
        why = f"{m.lost_why}; gave up after {m.rules.store_patience_s:g} s"
        return _stop(m, _Plan(why, Finish(GroupState.FAILED, m.failure_code or 1)))
    if m.now >= m.success_until:
        why = f"own workers ended well; after {m.rules.success_wait_s:g} s the other nodes are not waited for any more"
        return _stop(m, _Plan(why, Finish(GroupState.SUCCEEDED, 0)))
    return m.stay("nothing is due")


_NEWS: Mapping[type, Rule] = {RoundOver: _stop_for_next_round, Fenced: _stop_fenced, RunClosed: _stop_for_end}
_CONTACT: Mapping[type, Rule] = {StoreLost: _miss_store, StoreBack: _find_store, Ticked: _tick}

_TABLE: Mapping[GroupState, Mapping[type, Rule]] = {
    GroupState.INIT: {Begun: _begin, SignalReceived: _end_by_signal},
    GroupState.RENDEZVOUS: {
        RendezvousDone: _admit,
        RoundOver: _join_again,
        Fenced: _join_again,
        RunClosed: _end_with_run,
        Dismissed: _end_as_spare,
        RendezvousFailed: _end_alone,
        SignalReceived: _end_by_signal,
    },
    GroupState.STARTING: {
        Started: _run,
        StartFailed: _fail_to_start,
        SignalReceived: _plan_signal,
        RoundOver: _plan_round,
        Fenced: _plan_round,
        CutOff: _plan_round,
        RunClosed: _plan_end,
    },
    GroupState.HEALTHY: {
        WorkerExited: _take_exit,
        SignalReceived: _go,
        CutOff: _stop_fenced,
        **_NEWS,
        **_CONTACT,
    },
    GroupState.STOPPING: {
        WorkerExited: _exit_during_stop,
        StopFinished: _after_stop,
        SignalReceived: _signal_during_stop,
        Fenced: _fenced_during_stop,
        CutOff: _fenced_during_stop,
        RunClosed: _plan_end,
    },
    GroupState.SUCCEEDED_WAITING: {SignalReceived: _go_when_done, CutOff: _end_unheard, **_NEWS, **_CONTACT},
}
