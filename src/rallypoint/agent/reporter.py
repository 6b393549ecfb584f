"""What an agent records of its run, and the metrics it puts, for tools that were made for torch's agents.

Records go to the destination that ``WorkerSpec.event_log_handler`` names, each ``torchelastic.worker.status.<STATE>``:

===================  ======  ==================================================================
RENDEZVOUS           AGENT   a round was joined; with the milliseconds that it took
ASSIGN_WORKER_RANKS  AGENT   the ranks of its workers are known
START                WORKER  a worker was started
SUCCEEDED            WORKER  at the end of the run, once: the worker ended well
FAILED               WORKER  the worker failed; with exit code, process id and error
TERMINATED           WORKER  the agent ended it
SUCCEEDED, FAILED    AGENT   once: the agent did its work, whatever its workers did; or an error ended it
===================  ======  ==================================================================

Metrics, in the group ``torchelastic``: ``workers.<role>.`` followed by ``remaining_restarts`` and the group's state (1)
at each change; at the end, once, ``run_total``, ``run_{success,failed}_{with,no}_retries`` (0 or 1) and ``flakiness``
(0 no restart was used, 100 the run failed).

Source: names, metadata and values as observed in torch 2.13.0. torch puts its states ten times a second, and times
private methods of its own; there is neither here.
"""

from __future__ import annotations

import json
import time
import traceback
from typing import TYPE_CHECKING

from rallypoint.agent.moves import GroupState
from rallypoint.agent.spec import RunResult, Worker, WorkerGroup, WorkerState
from rallypoint.observe import records
from rallypoint.observe.metrics import put_metric
from rallypoint.observe.records import Event, EventSource

if TYPE_CHECKING:
    from rallypoint.agent.spec import WorkerSpec

__all__ = ["WORKER_STATES", "Reporter"]

WORKER_STATES = {
    GroupState.INIT: WorkerState.INIT,
    GroupState.RENDEZVOUS: WorkerState.INIT,
    GroupState.STARTING: WorkerState.INIT,
    GroupState.HEALTHY: WorkerState.HEALTHY,
    GroupState.STOPPING: WorkerState.STOPPED,
    GroupState.SUCCEEDED_WAITING: WorkerState.SUCCEEDED,
    GroupState.STOPPED: WorkerState.STOPPED,
    GroupState.FAILED: WorkerState.FAILED,
    GroupState.SUCCEEDED: WorkerState.SUCCEEDED,
}
"""torch's word for each state."""


class Reporter:
    """Records one agent's run.

    Args:
        group: the workers as they stand; the agent's.
        began_at: when the run began, on the agent's clock.

    Raises:
        ValueError: if the spec's destination is unknown.
    """

    def __init__(self, group: WorkerGroup, began_at: float) -> None:
        self._group = group
        self._spec: WorkerSpec = group.spec
        self._began_at = self._joining_at = began_at
        self._restarts_used = 0
        self._state: WorkerState | None = None
        try:
            records.get_logging_handler(self._spec.event_log_handler)
        except KeyError as error:
            raise ValueError(f"event_log_handler: {error.args[0]}") from error

    def joining(self, now: float) -> None:
        """Begin to measure a rendezvous."""
        self._joining_at = now

    def joined(self, now: float) -> None:
        """Record that a round was joined and its ranks are known."""
        self._record("RENDEZVOUS", EventSource.AGENT, now, duration_ms=(now - self._joining_at) * 1000)
        self._record("ASSIGN_WORKER_RANKS", EventSource.AGENT, now)

    def started(self, now: float, restarts_used: int) -> None:
        """Record that the workers of a round were started."""
        self._restarts_used = restarts_used
        for worker in self._group.workers:
            self._record("START", EventSource.WORKER, now, worker)

    def became(self, state: WorkerState, restarts_used: int) -> None:
        """Put what the group has become, if that is news."""
        self._restarts_used = restarts_used
        if state is not self._state:
            self._state = state
            self._put("remaining_restarts", self._spec.max_restarts - restarts_used)
            self._put(state.name.lower(), 1)

    def ended(self, result: RunResult, now: float) -> None:
        """Record how the run ended, and put its sums."""
        for worker in self._group.workers:
            if worker.id is None:
                continue
            failure = result.failures.get(worker.global_rank)
            if failure is not None:
                raw, code = json.dumps(failure.error_file_data), failure.exitcode
                self._record("FAILED", EventSource.WORKER, now, worker, raw_error=raw, exit_code=code, pid=failure.pid)
            else:
                state = "SUCCEEDED" if result.state is WorkerState.SUCCEEDED else "TERMINATED"
                self._record(state, EventSource.WORKER, now, worker)
        self._record("SUCCEEDED", EventSource.AGENT, now)
        is_failed, is_retried = result.is_failed(), self._restarts_used > 0
        self._put("flakiness", self._flakiness(is_failed=is_failed))
        self._put("run_total", 1)
        self._put("run_success_with_retries", int(not is_failed and is_retried))
        self._put("run_success_no_retries", int(not is_failed and not is_retried))
        self._put("run_failed_with_retries", int(is_failed and is_retried))
        self._put("run_failed_no_retries", int(is_failed and not is_retried))

    def broke(self, error: BaseException, now: float) -> None:
        """Record that an error ended the agent itself."""
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        self._record("FAILED", EventSource.AGENT, now, raw_error=text)
        self._put("flakiness", 100)

    def note(self, name: str, message: str, now: float) -> None:
        """Record something else about this agent."""
        self._record(name, EventSource.AGENT, now, raw_error=message or None, is_status=False)

    def _flakiness(self, *, is_failed: bool) -> int:
        if is_failed:
            return 100
        allowed = self._spec.max_restarts
        return int(100 - 100 * (allowed - self._restarts_used + 1) / (allowed + 1))

    def _put(self, name: str, value: int) -> None:
        put_metric(f"workers.{self._spec.role}.{name}", value)

    def _record(
        self,
        state: str,
        source: EventSource,
        now: float,
        worker: Worker | None = None,
        *,
        raw_error: str | None = None,
        duration_ms: float | None = None,
        exit_code: int | None = None,
        pid: int | None = None,
        is_status: bool = True,
    ) -> None:
        spec, group = self._spec, self._group
        if not records.is_heard(spec.event_log_handler):
            return
        details: dict[str, object] = {
            "group_world_size": group.group_world_size,
            "entry_point": spec.get_entrypoint_name(),
        }
        if worker is not None:
            details |= {
                "local_rank": [worker.local_rank],
                "role_rank": [worker.role_rank],
                "role_world_size": [worker.role_world_size],
                "exit_code": [exit_code],
                "worker_pid": [pid],
            }
        metadata: dict[str, records.EventMetadataValue] = {
            "run_id": spec.rdzv_handler.get_run_id(),
            "global_rank": None if worker is None else worker.global_rank,
            "group_rank": group.group_rank,
            "worker_id": None if worker is None else str(worker.id),
            "role": spec.role,
            "hostname": records.host_name(),
            "state": state,
            "total_run_time": int(now - self._began_at),
            "rdzv_backend": spec.rdzv_handler.get_backend(),
            "raw_error": raw_error,
            "metadata": json.dumps(details),
            "agent_restarts": self._restarts_used,
            "duration_ms": duration_ms,
        }
        name = f"torchelastic.worker.status.{state}" if is_status else state
        records.record(Event(name, source, int(time.time()), metadata), spec.event_log_handler)
