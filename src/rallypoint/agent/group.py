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
* A stop that takes longer than ``SLOW_STOP_S`` is told once: which workers have yet to end, until when they have time,
  and which signals kill them before.
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
from typing import Any, TypeAlias

from rallypoint.agent.memory import Memory, Plan
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
    describe_slow_stop,
    exit_code_of,
)

__all__ = ["SLOW_STOP_S", "GroupRules", "WorkerGroupMachine"]

SLOW_STOP_S = 2.0
"""A stop that has lasted so many seconds is told."""


Rule: TypeAlias = Callable[[Memory, Any], Decision]


class WorkerGroupMachine:
    """The worker group of one node, as a pure machine. See the head of this file.

    Threads: call from one thread.
    """

    def __init__(self, rules: GroupRules) -> None:
        self._memory = Memory(rules)

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
        memory = self._memory
        return min(memory.lost_until, memory.success_until, memory.slow_at)

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


def _begin(m: Memory, _event: Begun) -> Decision:
    return m.become(GroupState.RENDEZVOUS, "looking for the other nodes", Rendezvous())


def _admit(m: Memory, event: RendezvousDone) -> Decision:
    m.round, m.exits, m.pids, m.plan, m.failure_code = event.round, {}, {}, None, None
    why = (
        f"round {event.round}: this is node {event.node_rank} of {event.node_count}, "
        f"starting {m.rules.local_world_size} worker(s)"
    )
    return m.become(GroupState.STARTING, why, StartWorkers(event.round, m.restarts_used))


def _join_again(m: Memory, event: RoundOver | Fenced) -> Decision:
    return m.stay(f"the round ended before its workers were started: {event.why}", Rendezvous())


def _ending(m: Memory, event: RunClosed) -> Finish:
    """Give the end of this node that goes with the end of the run."""
    if event.outcome == "succeeded":
        return Finish(GroupState.SUCCEEDED, 0)
    state = GroupState.FAILED if event.outcome == "failed" else GroupState.STOPPED
    return Finish(state, m.failure_code or 1)


def _end_with_run(m: Memory, event: RunClosed) -> Decision:
    end = _ending(m, event)
    return m.become(end.state, event.tell(), end)


def _end_as_spare(m: Memory, event: Dismissed) -> Decision:
    return m.become(GroupState.SUCCEEDED, event.why, Finish(GroupState.SUCCEEDED, 0))


def _end_alone(m: Memory, event: RendezvousFailed) -> Decision:
    return m.become(GroupState.FAILED, event.why, Finish(GroupState.FAILED, m.failure_code or 1))


def _signal_plan(event: SignalReceived) -> Plan:
    why = f"{describe_signal(event.number)} received"
    return Plan(why, Finish(GroupState.STOPPED, 128 + event.number), event.number, is_signal=True)


def _end_by_signal(m: Memory, event: SignalReceived) -> Decision:
    why, end = f"{describe_signal(event.number)} received", Finish(GroupState.STOPPED, 128 + event.number)
    return m.become(GroupState.STOPPED, why, Leave(why), end)


def _stop(m: Memory, plan: Plan, *before: Effect) -> Decision:
    m.plan, m.lost_why = plan, ""
    m.lost_until = m.success_until = math.inf
    grace_s = 0.0 if plan.number == signal.SIGKILL else m.rules.grace_s
    m.slow_at = m.now + SLOW_STOP_S if grace_s > SLOW_STOP_S else math.inf
    m.kill_at = m.now + grace_s
    return m.become(GroupState.STOPPING, plan.why, *before, StopWorkers(plan.number, grace_s))


def _run(m: Memory, event: Started) -> Decision:
    m.pids = dict(event.pids)
    if m.plan is not None:
        return _stop(m, m.plan)
    return m.become(GroupState.HEALTHY, f"round {m.round}: {len(m.pids)} worker(s) run")


def _fail(m: Memory, message: str, returncode: int) -> Decision:
    allowed = m.rules.max_restarts
    final = m.restarts_used >= allowed and not m.rules.is_budget_shared
    m.failure_code = exit_code_of(returncode)
    if m.rules.is_budget_shared:
        m.restarts_used = min(allowed, m.restarts_used + 1)
        plan = Plan(f"{message}; the run allows {allowed} restart(s) after failures on all its nodes")
    elif final:
        why = f"{message}; " + (f"none of {allowed} restart(s) is left" if allowed else "no restarts are allowed")
        plan = Plan(why, Finish(GroupState.FAILED, m.failure_code))
    else:
        m.restarts_used += 1
        plan = Plan(f"{message}; restart {m.restarts_used} of {allowed}")
    return _stop(m, plan, ReportFailure(message, returncode, final))


def _fail_to_start(m: Memory, event: StartFailed) -> Decision:
    if m.plan is not None:
        return _stop(m, m.plan)
    return _fail(m, event.why, event.exit_code)


def _take_exit(m: Memory, event: WorkerExited) -> Decision:
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


def _stop_for_next_round(m: Memory, event: RoundOver) -> Decision:
    return _stop(m, Plan(f"round {m.round} is over: {event.why}"))


def _stop_fenced(m: Memory, event: Fenced | CutOff) -> Decision:
    return _stop(m, Plan(f"round {m.round} is over for this node: {event.why}", number=signal.SIGKILL))


def _end_unheard(m: Memory, event: CutOff) -> Decision:
    why = f"all workers of this node ended well, how the other nodes fare is not known: {event.why}"
    return _stop(m, Plan(why, Finish(GroupState.SUCCEEDED, 0)))


def _stop_for_end(m: Memory, event: RunClosed) -> Decision:
    return _stop(m, Plan(event.tell(), _ending(m, event)))


def _go(m: Memory, event: SignalReceived) -> Decision:
    plan = _signal_plan(event)
    return _stop(m, plan, ReportGoing(plan.why))


def _go_when_done(m: Memory, event: SignalReceived) -> Decision:
    return _stop(m, _signal_plan(event))


def _plan_signal(m: Memory, event: SignalReceived) -> Decision:
    m.plan = _signal_plan(event)
    return m.stay(m.plan.why, ReportGoing(m.plan.why))


def _plan_round(m: Memory, event: RoundOver | Fenced | CutOff) -> Decision:
    if m.plan is None:
        number = signal.SIGTERM if isinstance(event, RoundOver) else signal.SIGKILL
        m.plan = Plan(f"round {m.round} is over: {event.why}", number=number)
    return m.stay(m.plan.why)


def _plan_end(m: Memory, event: RunClosed) -> Decision:
    if m.plan is None or m.plan.finish is None:
        m.plan = Plan(event.tell(), _ending(m, event))
    return m.stay(m.plan.why)


def _signal_during_stop(m: Memory, event: SignalReceived) -> Decision:
    assert m.plan is not None, "a stop has a plan"
    if m.plan.is_signal:
        return _kill(m, f"{describe_signal(event.number)} received again: killing the workers")
    if m.plan.finish is None:
        return _plan_signal(m, event)
    # The end is decided already: the signal does not change the verdict, the next one makes it quick.
    m.plan = m.plan._replace(is_signal=True)
    return m.stay(f"{describe_signal(event.number)} received while ending")


def _fenced_during_stop(m: Memory, event: Fenced | CutOff) -> Decision:
    return _kill(m, f"killing the workers: {event.why}")


def _kill(m: Memory, why: str) -> Decision:
    m.slow_at = math.inf
    return m.stay(why, StopWorkers(signal.SIGKILL, 0.0))


def _tell_slow_stop(m: Memory, _event: Ticked) -> Decision:
    assert m.plan is not None, "a stop has a plan"
    m.slow_at = math.inf
    left = {local_rank: pid for local_rank, pid in m.pids.items() if local_rank not in m.exits}
    text = describe_slow_stop(left, m.plan.number, SLOW_STOP_S, m.kill_at - m.now)
    if m.plan.is_signal:
        return m.stay(f"{text}; a second {describe_signal(m.plan.number)} kills at once")
    ways = [describe_signal(number) for number in m.rules.signals if number in _USUAL_SIGNALS]
    end = "kills at once" if m.plan.finish is not None else "ends this node and kills at once"
    return m.stay(f"{text}; {' or '.join(ways)} twice {end}" if ways else text)


def _exit_during_stop(m: Memory, event: WorkerExited) -> Decision:
    m.exits[event.local_rank] = event.returncode
    return m.stay("the workers are being stopped")


def _after_stop(m: Memory, _event: StopFinished) -> Decision:
    assert m.plan is not None, "a stop has a plan"
    plan, m.plan, m.slow_at = m.plan, None, math.inf
    if plan.finish is None:
        return m.become(GroupState.RENDEZVOUS, f"workers stopped, joining the next round: {plan.why}", Rendezvous())
    effects = (Leave(plan.why), plan.finish) if plan.is_signal else (plan.finish,)
    return m.become(plan.finish.state, plan.why, *effects)


def _miss_store(m: Memory, event: StoreLost) -> Decision:
    if not m.lost_why:
        m.lost_why = f"the rendezvous does not answer: {event.why}"
        is_done = m.state is GroupState.SUCCEEDED_WAITING
        m.lost_until = m.now + (m.rules.farewell_s if is_done else m.rules.store_patience_s)
    return m.stay(m.lost_why)


def _find_store(m: Memory, _event: StoreBack) -> Decision:
    m.lost_why, m.lost_until = "", math.inf
    return m.stay("the rendezvous answers again")


def _tick(m: Memory, _event: Ticked) -> Decision:
    if m.now >= m.lost_until and m.state is GroupState.SUCCEEDED_WAITING:
        return _end_unheard(m, CutOff(m.lost_why))
    if m.now >= m.lost_until:
        why = f"{m.lost_why}; gave up after {m.rules.store_patience_s:g} s"
        return _stop(m, Plan(why, Finish(GroupState.FAILED, m.failure_code or 1)))
    if m.now >= m.success_until:
        why = f"own workers ended well; after {m.rules.success_wait_s:g} s the other nodes are not waited for any more"
        return _stop(m, Plan(why, Finish(GroupState.SUCCEEDED, 0)))
    return m.stay("nothing is due")


_USUAL_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What people send to end a process; the others that are taken do the same, and need not be named."""

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
        Ticked: _tell_slow_stop,
        SignalReceived: _signal_during_stop,
        Fenced: _fenced_during_stop,
        CutOff: _fenced_during_stop,
        RunClosed: _plan_end,
    },
    GroupState.SUCCEEDED_WAITING: {SignalReceived: _go_when_done, CutOff: _end_unheard, **_NEWS, **_CONTACT},
}
