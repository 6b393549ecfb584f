"""``torch.distributed.elastic.timer.debug_info_logging``."""

from __future__ import annotations

from rallypoint.agent.expiry_fifo import (
    log_debug_info_for_expired_timers,
)

__all__ = [
    "log_debug_info_for_expired_timers",
]
