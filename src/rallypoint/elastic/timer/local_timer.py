"""``torch.distributed.elastic.timer.local_timer``."""

from __future__ import annotations

from rallypoint.agent.expiry_queue import (
    LocalTimerClient,
    LocalTimerServer,
    MultiprocessingRequestQueue,
)

__all__ = [
    "LocalTimerClient",
    "LocalTimerServer",
    "MultiprocessingRequestQueue",
]
