"""``torch.distributed.elastic.utils.data.elastic_distributed_sampler``."""

from __future__ import annotations

from rallypoint.primitives.sampler import (
    ElasticDistributedSampler,
)

__all__ = [
    "ElasticDistributedSampler",
]
