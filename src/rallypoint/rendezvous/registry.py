"""Which rendezvous backends there are: the built-in ones, those that programs register, and installed plug-ins.

A plug-in is an entry point of group ``torchrun.handlers``, the same that torchrun reads: a callable without
arguments that gives a creator. They are looked for when a name is asked for that nobody registered, so a plug-in that
is broken or slow to import costs only those who ask for it.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import logging
from collections.abc import Callable

from rallypoint.events import emit
from rallypoint.rendezvous.adapter import adapt_handler
from rallypoint.rendezvous.endpoint import refuse_unknown_options
from rallypoint.rendezvous.handler import RendezvousHandler, RendezvousHandlerCreator, RendezvousParameters

__all__ = [
    "COORDINATED_BACKENDS",
    "ENTRY_POINT_GROUP",
    "RendezvousHandlerRegistry",
    "discover_handlers",
    "get_rendezvous_handler",
    "register_default_handlers",
    "rendezvous_handler_registry",
]

ENTRY_POINT_GROUP = "torchrun.handlers"
"""Where installed packages announce rendezvous backends."""

COORDINATED_BACKENDS = ("rallypoint", "etcd", "etcd-v2")
"""Rendezvous through a coordinator: over a server of ours, and over etcd, where both of torch's names mean v3."""

_log = logging.getLogger("rallypoint.rendezvous")

_STATIC_OPTIONS = frozenset({"rank", "timeout"})


class RendezvousHandlerRegistry:
    """Creators of handlers by the name of their backend.

    Args:
        discover: called with a name that is not registered; it may register it.
    """

    def __init__(self, discover: Callable[[str], None] | None = None) -> None:
        self._registry: dict[str, RendezvousHandlerCreator] = {}
        self._discover = discover

    def register(self, backend: str, creator: RendezvousHandlerCreator) -> None:
        """Make a backend known; doing it again with the same creator changes nothing.

        Args:
            backend: its name.
            creator: makes a handler from parameters.

        Raises:
            ValueError: if the name is empty, or taken by another creator.
        """
        if not backend:
            raise ValueError("The rendezvous backend name must be a non-empty string.")
        known = self._registry.setdefault(backend, creator)
        if known is not creator and known != creator:
            raise ValueError(
                f"The rendezvous backend '{backend}' cannot be registered with '{creator}' as it is already "
                f"registered with '{known}'."
            )

    def knows(self, backend: str) -> bool:
        """Tell whether a backend is registered, without looking for plug-ins."""
        return backend in self._registry

    def create_handler(self, params: RendezvousParameters) -> RendezvousHandler:
        """Make the handler of one node.

        A handler that does not derive from :class:`RendezvousHandler` is wrapped, so that it has all its methods.

        Raises:
            ValueError: if the backend is unknown, or its creator refuses the parameters.
            RuntimeError: if the handler calls itself otherwise than the backend that was asked for.
        """
        if params.backend not in self._registry and self._discover is not None:
            self._discover(params.backend)
        creator = self._registry.get(params.backend)
        if creator is None:
            raise ValueError(
                f"The rendezvous backend '{params.backend}' is not registered. Did you forget to call `register`?"
                f"{self._name_known(params.backend)}"
            )
        handler = creator(params)
        if handler.get_backend() != params.backend:
            raise RuntimeError(
                f"The rendezvous backend '{handler.get_backend()}' does not match the requested backend "
                f"'{params.backend}'."
            )
        return adapt_handler(handler)

    def _name_known(self, backend: str) -> str:
        near = difflib.get_close_matches(backend, self._registry, 1)
        hint = f" Or did you mean '{near[0]}'?" if near else ""
        return f"{hint} Registered are {', '.join(sorted(self._registry))}." if self._registry else ""


def discover_handlers(backend: str | None = None) -> list[str]:
    """Register what installed packages announce; again and again, if packages may have come since.

    A plug-in that cannot be loaded, or whose name is taken, is one warning; the others are registered all the same.

    Args:
        backend: load only plug-ins of this name; ``None`` loads all.

    Returns:
        The names that were loaded.
    """
    announced = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    wanted = [point for point in announced if backend is None or point.name == backend]
    return [point.name for point in wanted if not _is_ours(point) and _register_plug_in(point)]


def _is_ours(point: importlib.metadata.EntryPoint) -> bool:
    """Tell whether this package itself announces it: to torchrun, for here its backends are built in."""
    return point.value.startswith("rallypoint.")


def _register_plug_in(point: importlib.metadata.EntryPoint) -> bool:
    try:
        rendezvous_handler_registry.register(point.name, point.load()())
    except Exception as error:  # noqa: BLE001 - whatever a plug-in does wrong is its own affair
        why = f"the rendezvous backend '{point.name}' of entry point '{point.value}' is left out: {error!r}"
        _log.warning(why)
        emit("rendezvous.plugin_failed", why, backend=point.name, entry_point=point.value)
        return False
    return True


def _discover_one(backend: str) -> None:
    discover_handlers(backend)


rendezvous_handler_registry = RendezvousHandlerRegistry(_discover_one)
"""The backends of this process."""


def get_rendezvous_handler(params: RendezvousParameters) -> RendezvousHandler:
    """Make the handler of one node, from any backend known to this process or installed on the machine.

    Raises:
        ValueError: if the backend is unknown, or its creator refuses the parameters.
        RuntimeError: if the handler calls itself otherwise than the backend that was asked for.
    """
    return rendezvous_handler_registry.create_handler(params)


def _create_c10d_handler(params: RendezvousParameters) -> RendezvousHandler:
    from rallypoint.rendezvous.c10d import create_backend
    from rallypoint.rendezvous.dynamic import create_handler
    from rallypoint.rendezvous.other_backend import look_for_coordinator, tell_of_other_backend
    from rallypoint.rendezvous.settings import KNOWN_OPTIONS

    refuse_unknown_options(params, KNOWN_OPTIONS)  # before a port is bound
    backend, store = create_backend(params)
    try:
        handler = create_handler(store, backend, params)
    except BaseException:
        store.close()
        raise
    tell_of_other_backend(store, params.run_id, "c10d", "rallypoint", look_for_coordinator(store, params.run_id))
    return handler


def _create_static_handler(params: RendezvousParameters) -> RendezvousHandler:
    from rallypoint.rendezvous.static import create_rdzv_handler

    refuse_unknown_options(params, _STATIC_OPTIONS)
    return create_rdzv_handler(params)


def _create_coordinated_handler(params: RendezvousParameters) -> RendezvousHandler:
    from rallypoint.rendezvous.coordinated_store import create_coordinated_handler

    return create_coordinated_handler(params)


def register_default_handlers() -> None:
    """Register the built-in backends; done when this module is imported."""
    rendezvous_handler_registry.register("c10d", _create_c10d_handler)
    rendezvous_handler_registry.register("static", _create_static_handler)
    for backend in COORDINATED_BACKENDS:
        rendezvous_handler_registry.register(backend, _create_coordinated_handler)


register_default_handlers()
