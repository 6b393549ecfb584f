"""``torch.distributed.elastic.utils.store``."""

from __future__ import annotations

from rallypoint.primitives.barrier import barrier
from rallypoint.primitives.exchange import get_all, synchronize
from rallypoint.store.bootstrap import store_timeout

__all__ = ["barrier", "get_all", "store_timeout", "synchronize"]
