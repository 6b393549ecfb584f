"""``torch.distributed.elastic.utils.distributed``."""

from __future__ import annotations

from rallypoint.store.bootstrap import create_c10d_store, get_free_port, get_socket_with_port

__all__ = ["create_c10d_store", "get_free_port", "get_socket_with_port"]
