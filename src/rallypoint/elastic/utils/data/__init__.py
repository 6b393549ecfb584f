"""``torch.distributed.elastic.utils.data``."""

from __future__ import annotations

from rallypoint.primitives.cycling import (
    CyclingIterator,
)
from rallypoint.primitives.sampler import (
    ElasticDistributedSampler,
)

__all__ = [
    "CyclingIterator",
    "ElasticDistributedSampler",
]
