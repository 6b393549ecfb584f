"""``torch.distributed.elastic.utils``, as far as rallypoint has it."""

from __future__ import annotations

from rallypoint.store.bootstrap import get_socket_with_port

__all__ = ["get_socket_with_port"]
