"""``torch.distributed.elastic.multiprocessing.api``."""

from __future__ import annotations

from rallypoint.agent.context import (
    MultiprocessContext,
    PContext,
    RunProcsResult,
    SubprocessContext,
    start_processes,
)
from rallypoint.agent.context import validate_full_rank as _validate_full_rank
from rallypoint.agent.logs import (
    Std,
    to_map,
)
from rallypoint.agent.logspecs import (
    DefaultLogsSpecs,
    LogsDest,
    LogsSpecs,
)
from rallypoint.agent.redirect import (
    get_std_cm,
)
from rallypoint.errors import (
    SignalException,
)

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
    "_validate_full_rank",
    "get_std_cm",
    "start_processes",
    "to_map",
]
