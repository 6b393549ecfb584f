"""``torch.distributed.elastic.multiprocessing.errors.handlers``."""

from __future__ import annotations

from rallypoint.agent.failure import get_error_handler

__all__ = ["get_error_handler"]
