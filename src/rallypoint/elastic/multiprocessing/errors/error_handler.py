"""``torch.distributed.elastic.multiprocessing.errors.error_handler``."""

from __future__ import annotations

from rallypoint.agent.failure import ErrorHandler

__all__ = ["ErrorHandler"]
