"""``torch.distributed.elastic.multiprocessing.api``, as far as rallypoint has it."""

from __future__ import annotations

from rallypoint.agent.context import (
    MultiprocessContext,
    PContext,
    RunProcsResult,
    SubprocessContext,
)
from rallypoint.agent.logs import Std, to_map
from rallypoint.agent.logspecs import DefaultLogsSpecs, LogsDest, LogsSpecs
from rallypoint.errors import SignalException

__all__ = [
    "DefaultLogsSpecs",
    "LogsDest",
    "LogsSpecs",
    "MultiprocessContext",
    "PContext",
    "RunProcsResult",
    "SignalException",
    "Std",
    "SubprocessContext",
    "to_map",
]
