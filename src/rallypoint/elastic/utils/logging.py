"""``torch.distributed.elastic.utils.logging``."""

from __future__ import annotations

from rallypoint.observe.loggers import derive_module_name as _derive_module_name
from rallypoint.observe.loggers import get_logger

__all__ = ["_derive_module_name", "get_logger"]
