"""``torch.distributed.elastic.rendezvous.registry``."""

from __future__ import annotations

from rallypoint.rendezvous.handler import RendezvousHandler, RendezvousParameters
from rallypoint.rendezvous.registry import discover_handlers as _register_out_of_tree_handlers
from rallypoint.rendezvous.registry import get_rendezvous_handler, rendezvous_handler_registry
from rallypoint.rendezvous.registry import register_default_handlers as _register_default_handlers
from rallypoint.rendezvous.registry import rendezvous_handler_registry as handler_registry

__all__ = [
    "RendezvousHandler",
    "RendezvousParameters",
    "_register_default_handlers",
    "_register_out_of_tree_handlers",
    "get_rendezvous_handler",
    "handler_registry",
    "rendezvous_handler_registry",
]
