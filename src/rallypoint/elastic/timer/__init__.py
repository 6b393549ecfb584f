"""``torch.distributed.elastic.timer``."""

from __future__ import annotations

from rallypoint.agent.expiry import (
    TimerClient,
    TimerRequest,
    TimerServer,
    configure,
    expires,
)
from rallypoint.agent.expiry_fifo import (
    FileTimerClient,
    FileTimerRequest,
    FileTimerServer,
)
from rallypoint.agent.expiry_queue import (
    LocalTimerClient,
    LocalTimerServer,
)

__all__ = [
    "FileTimerClient",
    "FileTimerRequest",
    "FileTimerServer",
    "LocalTimerClient",
    "LocalTimerServer",
    "TimerClient",
    "TimerRequest",
    "TimerServer",
    "configure",
    "expires",
]
