"""``torch.distributed.elastic.utils.api``."""

from __future__ import annotations

from rallypoint.launch.env import (
    get_env_variable_or_raise,
)
from rallypoint.launch.macros import (
    macros,
)
from rallypoint.store.bootstrap import (
    get_socket_with_port,
)

__all__ = [
    "get_env_variable_or_raise",
    "get_socket_with_port",
    "macros",
]
