"""``torch.distributed.elastic.utils.log_level``."""

from __future__ import annotations

from rallypoint.observe.loggers import (
    get_log_level,
)

__all__ = [
    "get_log_level",
]
