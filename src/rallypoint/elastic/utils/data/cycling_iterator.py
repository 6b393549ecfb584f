"""``torch.distributed.elastic.utils.data.cycling_iterator``."""

from __future__ import annotations

from rallypoint.primitives.cycling import (
    CyclingIterator,
)

__all__ = [
    "CyclingIterator",
]
