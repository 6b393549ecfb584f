"""``torch.distributed.elastic.control_plane``."""

from __future__ import annotations

from rallypoint.agent.worker_server import SOCKET_ENV as TORCH_WORKER_SERVER_SOCKET
from rallypoint.agent.worker_server import (
    worker_main,
)

__all__ = [
    "TORCH_WORKER_SERVER_SOCKET",
    "worker_main",
]
