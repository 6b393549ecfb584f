"""``torch.distributed.elastic.agent.server.api``, as far as rallypoint has it."""

from __future__ import annotations

from rallypoint.agent.spec import RunResult, Worker, WorkerGroup, WorkerSpec, WorkerState

__all__ = ["RunResult", "Worker", "WorkerGroup", "WorkerSpec", "WorkerState"]
