"""``torch.distributed.elastic.multiprocessing``, as far as rallypoint has it."""

from __future__ import annotations

from rallypoint.agent.context import (
    MultiprocessContext,
    PContext,
    RunProcsResult,
    SubprocessContext,
    start_processes,
)
from rallypoint.agent.failure import ProcessFailure
from rallypoint.agent.logs import Std, to_map
from rallypoint.agent.logspecs import DefaultLogsSpecs, LogsDest, LogsSpecs
from rallypoint.errors import SignalException

__all__ = [
    "DefaultLogsSpecs",
    "LogsDest",
    "LogsSpecs",
    "MultiprocessContext",
    "PContext",
    "ProcessFailure",
    "RunProcsResult",
    "SignalException",
    "Std",
    "SubprocessContext",
    "start_processes",
    "to_map",
]
