"""Who takes part in this round of the run, and with which rank.

The names below are loaded on first use. The package can also be called, as torch users do with
``torch.distributed.rendezvous("tcp://…")``: that is :func:`rallypoint.store.url.rendezvous`, the meeting of workers at
a URL, and has only the name in common with the rest.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rallypoint.store.base import Store

_HOMES = {
    "rallypoint.errors": (
        "RendezvousClosedError",
        "RendezvousConnectionError",
        "RendezvousError",
        "RendezvousGracefulExitError",
        "RendezvousStateError",
        "RendezvousTimeoutError",
    ),
    "rallypoint.rendezvous.adapter": ("AdaptedHandler", "adapt_handler"),
    "rallypoint.rendezvous.backend": ("RendezvousBackend", "Token"),
    "rallypoint.rendezvous.c10d": ("C10dRendezvousBackend", "create_backend"),
    "rallypoint.rendezvous.coordinated": ("CoordinatedRendezvousHandler",),
    "rallypoint.rendezvous.coordinated_store": ("create_coordinated_handler",),
    "rallypoint.rendezvous.dynamic": (
        "DynamicRendezvousHandler",
        "RendezvousSettings",
        "RendezvousTimeout",
        "create_handler",
    ),
    "rallypoint.rendezvous.endpoint": ("parse_rendezvous_config", "parse_rendezvous_endpoint"),
    "rallypoint.rendezvous.handler": (
        "RendezvousHandler",
        "RendezvousHandlerCreator",
        "RendezvousInfo",
        "RendezvousParameters",
        "RendezvousStoreInfo",
        "RoundNews",
        "RoundStatus",
    ),
    "rallypoint.rendezvous.placement": ("Placement", "register_placement"),
    "rallypoint.rendezvous.registry": (
        "RendezvousHandlerRegistry",
        "discover_handlers",
        "get_rendezvous_handler",
        "rendezvous_handler_registry",
    ),
    "rallypoint.rendezvous.static": ("StaticTCPRendezvous",),
    "rallypoint.store.url": ("register_rendezvous_handler", "rendezvous"),
}

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - the names are the table's keys


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _CallableModule(ModuleType):
    def __call__(
        self, url: str, rank: int = -1, world_size: int = -1, **options: Any
    ) -> Iterator[tuple[Store, int, int]]:
        from rallypoint.store.url import rendezvous

        return rendezvous(url, rank, world_size, **options)


sys.modules[__name__].__class__ = _CallableModule
