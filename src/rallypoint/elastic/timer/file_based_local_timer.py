"""``torch.distributed.elastic.timer.file_based_local_timer``."""

from __future__ import annotations

from rallypoint.agent.expiry_fifo import (
    FileTimerClient,
    FileTimerRequest,
    FileTimerServer,
)

__all__ = [
    "FileTimerClient",
    "FileTimerRequest",
    "FileTimerServer",
]
