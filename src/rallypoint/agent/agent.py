"""The agent of one node: carries out what ``agent.group`` decides.

One loop, in the thread that calls ``run``. It waits for workers to end, and for events that other threads and the
signal handlers put into its inbox; each is one step of the machine, whose effects it carries out. Threads of its
own: two that deal with the rendezvous (``agent.membership``) and one during each stop, so that signals are taken
while workers are given their time to end.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from types import FrameType
from typing import TYPE_CHECKING, TypeAlias

from rallypoint.agent.calls import read_values
from rallypoint.agent.failure import ProcessFailure
from rallypoint.agent.group import GroupRules, WorkerGroupMachine
from rallypoint.agent.guard import Guard
from rallypoint.agent.inbox import Inbox
from rallypoint.agent.logs import LogOptions, WorkerLogs
from rallypoint.agent.logspecs import LogsSpecs, folders_for
from rallypoint.agent.membership import Membership, knows_success
from rallypoint.agent.moves import (
    Begun,
    Decision,
    Effect,
    Event,
    Finish,
    GroupState,
    Leave,
    Rendezvous,
    ReportFailure,
    ReportGoing,
    ReportSuccess,
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
)
from rallypoint.agent.orders import place_of, program_of, take_places
from rallypoint.agent.places import NodeWorkers
from rallypoint.agent.process import WorkerCommand, WorkerExit, WorkerProcesses
from rallypoint.agent.reporter import WORKER_STATES, Reporter
from rallypoint.agent.signals import DEFAULT_SIGNALS, takeable_signals, taken_signals
from rallypoint.agent.spec import RunResult, WorkerGroup, WorkerPlace, WorkerSpec, WorkerState
from rallypoint.agent.watchdog import Watchdog
from rallypoint.clock import SYSTEM_CLOCK, Clock, Deadline
from rallypoint.errors import AgentError
from rallypoint.events import emit

if TYPE_CHECKING:
    from rallypoint.agent.health import HealthCheckServer

__all__ = ["GRACE_S", "Agent", "Environment"]

GRACE_S = 30.0
"""The seconds that workers have between being asked to end and SIGKILL, unless told otherwise."""

FOREIGN_SUCCESS_WAIT_S = 300.0
"""How long a node waits for the others' success with handlers that do not report it; torch's exit barrier."""

TICK_S = 1.0
"""The longest pause of the loop, for platforms on which a signal does not interrupt a wait."""

CLOSE_S = 10.0
"""How long reports on their way may take when everything else has ended."""

NOT_STARTED = 127
"""The exit code of a command that cannot be started, as in a shell."""

Environment: TypeAlias = Callable[[WorkerPlace], Mapping[str, str]]
"""Gives the complete environment of one worker."""

_log = logging.getLogger("rallypoint.agent")

_NOTES: Mapping[type, str] = {
    StoreLost: "agent.store_lost",
    StoreBack: "agent.store_back",
    SignalReceived: "agent.signal",
}
"""Events worth a line even where they change nothing yet."""


class Agent:
    """Runs the workers of one node until the run ends.

    Args:
        spec: what to run, and how to meet the other nodes.
        environment: gives each worker's environment.
        logs: where the workers' output goes; ``None``: to the agent's own streams.
        grace_s: seconds between asking workers to end and SIGKILL, wherever workers are stopped; 0 or more.
        store_patience_s: seconds without an answer from the rendezvous until the node gives up.
        signals: the signals that ask this agent to end. One that is ignored when ``run`` begins stays ignored.
        start_method: how the process of a function is made: ``spawn``, ``forkserver`` or ``fork``.
        health_check_server: started and stopped with the run; ``None``: as the environment says.
        clock: what time is measured on.

    Raises:
        ValueError: if ``grace_s`` is below 0, or the start method or the spec's ``event_log_handler`` is unknown.
        Exception: what ``pickle`` raises for a function or arguments that cannot travel to a process of their own.
        NotADirectoryError: if the log folder is something else than a folder.

    Threads: ``run`` installs signal handlers if it is called in the main thread, and none otherwise.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        environment: Environment,
        *,
        logs: LogOptions | LogsSpecs | None = None,
        grace_s: float = GRACE_S,
        store_patience_s: float = 30.0,
        signals: tuple[int, ...] = DEFAULT_SIGNALS,
        start_method: str = "spawn",
        health_check_server: HealthCheckServer | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if grace_s < 0:
            raise ValueError(f"grace_s is {grace_s:g}; workers get 0 seconds or more to end")
        call = program_of(spec, start_method)[1]
        if call is not None:
            from rallypoint.agent.functions import check_call  # not for commands: it loads multiprocessing

            check_call(call)
        self._spec = spec
        self._start_method = start_method
        self._environment = environment
        self._grace_s = grace_s
        self._signals = signals
        self._clock = clock
        self._group = group = WorkerGroup(spec)
        self._machine = WorkerGroupMachine(
            GroupRules(
                local_world_size=spec.local_world_size,
                max_restarts=spec.max_restarts,
                grace_s=grace_s,
                store_patience_s=store_patience_s,
                is_budget_shared=spec.rdzv_handler.keeps_budget,
                success_wait_s=math.inf if knows_success(spec.rdzv_handler) else FOREIGN_SUCCESS_WAIT_S,
                signals=takeable_signals(signals),
            )
        )
        self._reporter = reporter = Reporter(group, clock.now())
        self._health = health_check_server
        self._turned_at = int(time.time())
        self._watchdog = Watchdog(
            os.environ,
            spec.rdzv_handler.get_run_id(),
            lambda: [worker.id for worker in group.workers if worker.id is not None],
            lambda what, text: reporter.note(what, text, clock.now()),
        )
        self._inbox = Inbox()
        self._folders = folders_for(spec, logs)
        self._guard: Guard | None = None
        self._membership: Membership | None = None
        self._processes: WorkerProcesses | None = None
        self._stopper: threading.Thread | None = None
        self._logs: dict[int, WorkerLogs] = {}
        self._failures: dict[int, ProcessFailure] = {}
        self._values: dict[int, bytes] = {}
        self._round_token = 0
        self._signal: int | None = None
        self._why = ""
        self._end: Finish | None = None

    def get_worker_group(self) -> WorkerGroup:
        """Give the workers as they stand; belongs to the agent, do not change it."""
        return self._group

    @property
    def farewell(self) -> Deadline | None:
        """Until when this node may take leave of the others; ``None`` if nobody has asked it to go."""
        return self._membership.farewell if self._membership is not None else None

    def run(self) -> RunResult:
        """Run until the run ends on this node; call it once.

        Returns:
            How it ended. A signal is an end like any other, not an exception.

        Raises:
            AgentError: if the process that guards the workers cannot be started.
        """
        try:
            return self._run()
        except BaseException as error:
            self._reporter.broke(error, self._clock.now())
            raise

    def _run(self) -> RunResult:
        with ExitStack() as stack:
            stack.enter_context(taken_signals(self._signals, self._take_signal))
            stack.callback(self._close_logs)
            if self._health is not None or os.environ.get("TORCHELASTIC_HEALTH_CHECK_PORT"):
                from rallypoint.agent.health import served_health  # a web server takes long to load

                stack.enter_context(served_health(self._health, os.environ, self._alive_at))
            stack.enter_context(self._watchdog)
            self._guard = stack.enter_context(Guard.start())
            self._membership = Membership(
                self._spec.rdzv_handler,
                NodeWorkers(self._spec.role, self._spec.local_world_size),
                self._inbox.put,
                look_interval_s=self._spec.monitor_interval,
                is_identical=os.environ.get("TORCH_ELASTIC_WORKER_IDENTICAL") == "1",
            )
            stack.callback(self._membership.close, CLOSE_S)
            stack.callback(self._stop_leftovers)
            self._step(Begun())
            while self._end is None:
                self._turn()
        result = self._result(self._end)
        self._reporter.ended(result, self._clock.now())
        return result

    def _alive_at(self) -> int:
        return min(self._turned_at, self._watchdog.looked_at or self._turned_at)

    # --- events in -----------------------------------------------------------------------------------------

    def _take_signal(self, number: int, _frame: FrameType | None) -> None:
        """Take a signal, between any two instructions of the main thread: only leaves a note."""
        self._inbox.put(SignalReceived(number))

    def _turn(self) -> None:
        """Wait for something to happen, and deal with all of it."""
        self._turned_at = int(time.time())
        pause_s = min(TICK_S, max(0.0, self._machine.next_deadline() - self._clock.now()))
        event = self._inbox.get(0.0, self._round_token)
        if event is None and self._machine.state is GroupState.HEALTHY and self._processes is not None:
            self._take_exits(self._processes.wait(pause_s))
        elif event is None:
            event = self._inbox.get(pause_s, self._round_token)
        if event is not None:
            self._step(event)
        if self._end is None and self._clock.now() >= self._machine.next_deadline():
            self._step(Ticked())

    def _take_exits(self, exits: list[WorkerExit]) -> None:
        """Tell the machine of workers that ended by themselves; all that failed at one moment are in the report."""
        events = []
        for exited in exits:
            detail = ""
            rank = self._group.workers[exited.local_rank].global_rank
            if exited.returncode != 0:
                error_file = str(self._logs[exited.local_rank].error_file)
                failure = ProcessFailure(exited.local_rank, exited.pid, exited.returncode, error_file)
                self._failures[rank] = failure
                detail = failure.message if failure.traceback is not None else self._watchdog.reason(exited.pid)
                if failure.traceback is None and detail:
                    failure.message = f"{failure.message}: {detail}"
            elif self._processes is not None:
                self._values[rank] = self._processes.value(exited.local_rank)
            events.append(WorkerExited(exited.local_rank, exited.returncode, detail))
        for event in events:
            self._step(event)

    def _step(self, event: Event) -> None:
        before = self._machine.state
        decision = self._machine.step(event, self._clock.now())
        if isinstance(event, SignalReceived) and self._signal is None:
            self._signal = event.number
        self._tell(event, decision, has_changed=decision.state is not before)
        self._group.state = WORKER_STATES[decision.state]
        self._reporter.became(self._group.state, self._machine.restarts_used)
        for effect in decision.effects:
            self._carry_out(effect)

    def _tell(self, event: Event, decision: Decision, *, has_changed: bool) -> None:
        """Say what was decided and why, once for each reason."""
        if not has_changed and not decision.effects and not isinstance(event, Ticked):
            emit(_NOTES.get(type(event), "agent.note"), decision.why)
        elif decision.why != self._why:
            self._why = decision.why
            emit(f"agent.{decision.state.name.lower()}", decision.why)

    # --- effects out ---------------------------------------------------------------------------------------

    def _carry_out(self, effect: Effect) -> None:
        assert self._membership is not None, "effects come from a run"
        match effect:
            case Rendezvous():
                self._round_token += 1
                self._reporter.joining(self._clock.now())
                self._membership.join()
            case StartWorkers():
                self._start(effect)
            case StopWorkers():
                self._stop(effect)
            case ReportFailure(message, returncode, final):
                self._membership.report_failure(message, returncode, final)
            case ReportSuccess():
                self._membership.report_success()
            case ReportGoing(why):
                self._membership.report_going(why)
            case Leave(why):
                self._membership.leave(why)
            case Finish():
                self._end = effect

    def _start(self, effect: StartWorkers) -> None:
        assert self._membership is not None, "a round was joined"
        assert self._guard is not None, "the guard runs as long as the agent"
        inbox, token = self._inbox, self._round_token
        self._membership.watch(lambda event: inbox.put(event, token))  # not self: a circle would keep the store open
        self._failures, self._values = {}, {}
        assert self._membership.joined is not None, "workers start in a round"
        take_places(self._group, self._membership.joined)
        self._reporter.joined(self._clock.now())
        try:
            self._logs = self._folders.open_round(
                effect.round, {w.local_rank: w.global_rank for w in self._group.workers}, self._spec.role
            )
            if self._folders.private is not None:
                self._guard.tidy(self._folders.private)
            commands = [self._command(worker.local_rank, effect) for worker in self._group.workers]
            if (ended := self._membership.end_of_round()) is None:  # all this may have taken long
                self._processes = WorkerProcesses.start(commands, guard=self._guard)
        except (AgentError, OSError) as error:
            self._step(StartFailed(str(error), NOT_STARTED))
            return
        if ended is not None:
            self._step(ended)
            self._step(StartFailed("the round was over before its workers were started", NOT_STARTED))
            return
        assert self._processes is not None, "they were started"
        for worker in self._group.workers:
            worker.id = self._processes.pids[worker.local_rank]
        self._reporter.started(self._clock.now(), effect.restarts_used)
        self._inbox.wake = self._processes.wake
        self._step(Started(self._processes.pids))

    def _command(self, local_rank: int, effect: StartWorkers) -> WorkerCommand:
        logs = self._logs[local_rank]
        place = place_of(self._group, local_rank, effect, str(logs.error_file))
        argv, call = program_of(self._spec, self._start_method)
        env = {**self._environment(place), **self._watchdog.env}
        return WorkerCommand(local_rank, argv, env, logs.stdout, logs.stderr, call)

    def _stop(self, effect: StopWorkers) -> None:
        processes = self._processes
        if processes is None:
            self._step(StopFinished())
        elif self._stopper is not None and self._stopper.is_alive():
            processes.hurry()
        else:
            self._inbox.wake = None
            self._stopper = threading.Thread(
                target=self._run_stop, args=(processes, effect), name="rallypoint-stop", daemon=True
            )
            self._stopper.start()

    def _run_stop(self, processes: WorkerProcesses, effect: StopWorkers) -> None:
        """End the workers; runs in a thread of its own, which has the processes to itself until it is through."""

        def tell(exited: WorkerExit) -> None:
            self._inbox.put(WorkerExited(exited.local_rank, exited.returncode))

        try:
            for exited in processes.stop(effect.signal_number, effect.grace_s, tell):
                tell(exited)
        except Exception:  # noqa: BLE001 - the loop waits for StopFinished, whatever happens here
            _log.exception("stopping the workers failed")
        for local_rank, pid in processes.running.items():
            emit("agent.trouble", f"worker {local_rank} (pid {pid}) does not end, even by SIGKILL", pid=pid)
        for failure in self._failures.values():
            failure.stderr_tail = processes.tail(failure.local_rank)
        self._processes = None
        self._inbox.put(StopFinished())

    # --- the end -------------------------------------------------------------------------------------------

    def _stop_leftovers(self) -> None:
        """Stop what an unexpected exception has left running."""
        if self._stopper is not None:
            self._stopper.join()
        if self._processes is not None:
            self._processes.stop(signal.SIGTERM, self._grace_s)

    def _close_logs(self) -> None:
        self._folders.close(clean=self._end is not None and self._end.state is not GroupState.FAILED)

    def _result(self, end: Finish) -> RunResult:
        state = WORKER_STATES[end.state]
        ranks = [worker.global_rank for worker in self._group.workers if worker.global_rank >= 0]
        return RunResult(
            state,
            read_values(self._values, ranks) if state is WorkerState.SUCCEEDED else {},
            self._failures if state is WorkerState.FAILED else {},
            end.exit_code,
            self._why,
            self._signal if state is WorkerState.STOPPED else None,
        )
