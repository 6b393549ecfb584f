"""``torch.distributed.elastic.rendezvous.dynamic_rendezvous``."""

from __future__ import annotations

from rallypoint.rendezvous.backend import RendezvousBackend, Token
from rallypoint.rendezvous.dynamic import (
    DynamicRendezvousHandler,
    RendezvousSettings,
    RendezvousTimeout,
    create_handler,
)

__all__ = [
    "DynamicRendezvousHandler",
    "RendezvousBackend",
    "RendezvousSettings",
    "RendezvousTimeout",
    "Token",
    "create_handler",
]
