"""Handlers that others wrote, made whole: torch's methods are theirs, the rest has our defaults.

A plug-in for torchrun gives a handler that knows nothing of this package: its class derives from torch's, its errors
are torch's, its rounds have no number. It is recognised by its methods, never by importing torch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from rallypoint.errors import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousGracefulExitError,
    RendezvousStateError,
    RendezvousTimeoutError,
)
from rallypoint.rendezvous.handler import RendezvousHandler, RendezvousInfo, RendezvousStoreInfo

__all__ = ["AdaptedHandler", "adapt_handler"]

_OURS_ALONE = ("check_round", "wait_for_news", "report_success", "report_failure", "report_going", "leave")
_ERRORS: dict[str, type[RendezvousError]] = {
    kind.__name__: kind
    for kind in (
        RendezvousClosedError,
        RendezvousConnectionError,
        RendezvousError,
        RendezvousGracefulExitError,
        RendezvousStateError,
        RendezvousTimeoutError,
    )
}

Result = TypeVar("Result")


def adapt_handler(handler: Any) -> RendezvousHandler:
    """Give a handler with all methods of :class:`RendezvousHandler`; one that has them already is given back."""
    return handler if isinstance(handler, RendezvousHandler) else AdaptedHandler(handler)


class AdaptedHandler(RendezvousHandler):
    """Passes torch's methods on to a foreign handler, and our own too where it has them.

    Errors are translated by their class's name, so that ``except RendezvousClosedError`` catches torch's. Rounds
    without a number are counted.

    Args:
        handler: whatever has torch's methods.
    """

    def __init__(self, handler: Any) -> None:
        self.wrapped = handler
        self._rounds = 0
        for name in _OURS_ALONE:
            if hasattr(handler, name):
                setattr(self, name, getattr(handler, name))

    def get_backend(self) -> str:
        """See the base class."""
        return str(self.wrapped.get_backend())

    @property
    def use_agent_store(self) -> bool:
        """See the base class."""
        return bool(getattr(self.wrapped, "use_agent_store", False))

    def next_rendezvous(self) -> RendezvousInfo:
        """See the base class."""
        info = _call(self.wrapped.next_rendezvous)
        where = info.bootstrap_store_info
        number = getattr(info, "round", self._rounds)
        self._rounds = number + 1
        return RendezvousInfo(
            info.store,
            info.rank,
            info.world_size,
            RendezvousStoreInfo(where.master_addr, int(where.master_port)),
            number,
        )

    def is_closed(self) -> bool:
        """See the base class."""
        return bool(_call(self.wrapped.is_closed))

    def set_closed(self) -> None:
        """See the base class."""
        _call(self.wrapped.set_closed)

    def num_nodes_waiting(self) -> int:
        """See the base class."""
        return int(_call(self.wrapped.num_nodes_waiting))

    def get_run_id(self) -> str:
        """See the base class."""
        return str(self.wrapped.get_run_id())

    def shutdown(self) -> bool:
        """See the base class."""
        return bool(_call(self.wrapped.shutdown))


def _call(method: Callable[[], Any]) -> Any:
    try:
        return method()
    except RendezvousError:
        raise
    except Exception as error:
        for kind in type(error).__mro__:
            if kind.__name__ in _ERRORS:
                raise _ERRORS[kind.__name__](str(error)) from error
        raise
