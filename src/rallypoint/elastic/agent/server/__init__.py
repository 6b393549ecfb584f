"""``torch.distributed.elastic.agent.server``, as far as rallypoint has it."""

from __future__ import annotations

from rallypoint.agent.spec import (
    RunResult,
    Worker,
    WorkerGroup,
    WorkerSpec,
    WorkerState,
)
from rallypoint.launch.local_agent import (
    ElasticAgent,
)

__all__ = [
    "ElasticAgent",
    "RunResult",
    "Worker",
    "WorkerGroup",
    "WorkerSpec",
    "WorkerState",
]
