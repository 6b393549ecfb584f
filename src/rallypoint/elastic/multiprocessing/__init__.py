"""``torch.distributed.elastic.multiprocessing``, as far as rallypoint has it."""

from __future__ import annotations

from rallypoint.agent.failure import ProcessFailure
from rallypoint.agent.logs import Std, to_map
from rallypoint.errors import SignalException

__all__ = ["ProcessFailure", "SignalException", "Std", "to_map"]
