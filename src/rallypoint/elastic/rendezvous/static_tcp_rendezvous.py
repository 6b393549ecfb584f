"""``torch.distributed.elastic.rendezvous.static_tcp_rendezvous``."""

from __future__ import annotations

from rallypoint.rendezvous.static import StaticTCPRendezvous, create_rdzv_handler

__all__ = ["StaticTCPRendezvous", "create_rdzv_handler"]
