"""The store that rank 0 serves for the workers of a round: a fresh server each time, so no round reads another."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol

from rallypoint.types import Endpoint

__all__ = ["Served", "WorkerStore", "is_sharing_off", "serve_store"]

SHARING_OFF = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"


class Served(Protocol):
    """A server that runs until it is closed."""

    @property
    def port(self) -> int:
        """The TCP port."""
        ...

    def close(self) -> None:
        """End it."""
        ...


def is_sharing_off() -> bool:
    """Tell whether the environment asks that worker 0 serves the store itself (torch's variable, ``1``)."""
    return os.environ.get(SHARING_OFF, "0") == "1"


def serve_store(host: str) -> Served:
    """Start a server on a port that the kernel chooses; a loopback ``host`` binds loopback only.

    Any other host binds all addresses and is not looked up: where nodes have no DNS of their own, only the others may
    know this node's name.
    """
    from rallypoint.net.address import is_loopback
    from rallypoint.store.tcp import TCPStore

    reach = host if is_loopback(host) else "0.0.0.0"  # noqa: S104 - as torch does, see docs/decisions/0003
    return TCPStore(reach, 0, is_master=True, wait_for_workers=False)


class WorkerStore:
    """What this node serves for workers: nothing, or one server.

    Args:
        address: where other nodes reach this one.
        is_shared: ``False``: serve nothing and only find a free port, for a server of worker 0.
        serve: starts a server.
    """

    def __init__(self, address: str, is_shared: bool, serve: Callable[[str], Served] = serve_store) -> None:
        self._address = address
        self._is_shared = is_shared
        self._serve = serve
        self._served: Served | None = None
        self._endpoint: Endpoint | None = None
        self._proposal = -1

    def open(self, proposal: int) -> Endpoint:
        """Serve for one proposal, and for no earlier one.

        Args:
            proposal: its number; asked again for the same, the same server is given.

        Raises:
            DistNetworkError: if no server can be started.
        """
        if self._endpoint is None or self._proposal != proposal:
            self.close()
            self._endpoint = Endpoint(self._address, self._open_port())
            self._proposal = proposal
        return self._endpoint

    def close(self) -> None:
        """End the server, if there is one."""
        served, self._served, self._endpoint = self._served, None, None
        if served is not None:
            served.close()

    def _open_port(self) -> int:
        if not self._is_shared:
            from rallypoint.store.bootstrap import get_free_port

            return get_free_port()
        self._served = self._serve(self._address)
        return self._served.port
