"""``torch.distributed.elastic.multiprocessing.errors``."""

from __future__ import annotations

from rallypoint.agent.failure import ChildFailedError, ErrorHandler, ProcessFailure, get_error_handler, record

__all__ = ["ChildFailedError", "ErrorHandler", "ProcessFailure", "get_error_handler", "record"]
