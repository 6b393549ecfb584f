"""``torch.distributed.elastic.multiprocessing.tail_log``."""

from __future__ import annotations

from rallypoint.agent.tail import (
    TailLog,
)

__all__ = [
    "TailLog",
]
