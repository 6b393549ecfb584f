"""``torch.distributed.elastic.events.handlers``."""

from __future__ import annotations

from rallypoint.observe.records import (
    get_logging_handler,
)

__all__ = [
    "get_logging_handler",
]
