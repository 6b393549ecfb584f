"""``torch.distributed.elastic.rendezvous.c10d_rendezvous_backend``."""

from __future__ import annotations

from rallypoint.rendezvous.c10d import DEFAULT_PORT, C10dRendezvousBackend, create_backend

__all__ = ["DEFAULT_PORT", "C10dRendezvousBackend", "create_backend"]
