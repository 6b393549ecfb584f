"""The store that rank 0 serves for the workers of a round: a fresh server each time, so no round reads another."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from rallypoint.types import Endpoint

if TYPE_CHECKING:
    from rallypoint.store.base import Store

__all__ = [
    "EmbeddedSpace",
    "GatewaySpace",
    "MakeGateway",
    "Served",
    "WorkerSpace",
    "WorkerStore",
    "is_sharing_off",
    "known_gateway",
    "prepare_to_serve",
    "serve_store",
    "use_gateway",
]

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


def prepare_to_serve() -> None:
    """Load what ``serve_store`` needs: all others wait for rank 0 when it has to serve."""
    from rallypoint.store.hosting import load_server

    load_server()


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


class WorkerSpace(Protocol):
    """Where the workers of one round share keys, and those of no other round.

    Attributes:
        is_plain: what serves them speaks c10d only, and only on this machine.
    """

    is_plain: bool

    def open(self, proposal: int, number: int) -> Endpoint:
        """Make ready what the workers of a proposal need; only rank 0 is asked to.

        Args:
            proposal: its number.
            number: of the round that it is to become.

        Raises:
            DistNetworkError: if no server can be started.
        """
        ...

    def enter(self, number: int, rank: int, endpoint: Endpoint) -> Endpoint:
        """Give where the workers of this node find their store, now that the round is complete.

        Args:
            number: of the round.
            rank: this node's.
            endpoint: what rank 0 gave.

        Raises:
            DistNetworkError: if no server can be started.
        """
        ...

    def close(self) -> None:
        """End what is served here."""
        ...


class EmbeddedSpace:
    """A server of rank 0, made anew for each round.

    Args:
        store: what this node serves.

    Attributes:
        is_plain: no.
    """

    is_plain = False

    def __init__(self, store: WorkerStore) -> None:
        self._store = store

    def open(self, proposal: int, number: int) -> Endpoint:  # noqa: ARG002 - every proposal has a server of its own
        """See ``WorkerSpace``."""
        return self._store.open(proposal)

    def enter(self, number: int, rank: int, endpoint: Endpoint) -> Endpoint:  # noqa: ARG002 - see ``open``
        """See ``WorkerSpace``."""
        if rank != 0:
            self._store.close()  # of a proposal that came to nothing
        return endpoint

    def close(self) -> None:
        """See ``WorkerSpace``."""
        self._store.close()


MakeGateway: TypeAlias = "Callable[[Store, str], Served]"
"""Serves a store to this machine's workers, given what stands before each of their keys there."""


class GatewaySpace:
    """A server on each node, which hands all that its workers ask on to the run's own store.

    Args:
        store: the run's.
        prefix_of: gives what stands before every key of a round's workers.
        make: starts a gateway.

    Attributes:
        is_plain: yes.
    """

    is_plain = True

    def __init__(self, store: Store, prefix_of: Callable[[int], str], make: MakeGateway) -> None:
        self._store = store
        self._prefix_of = prefix_of
        self._make = make
        self._served: Served | None = None
        self._number = -1

    def open(self, proposal: int, number: int) -> Endpoint:  # noqa: ARG002 - nothing is written before the round is whole
        """See ``WorkerSpace``."""
        return self._serve(number)

    def enter(self, number: int, rank: int, endpoint: Endpoint) -> Endpoint:  # noqa: ARG002 - each node has its own
        """See ``WorkerSpace``."""
        return self._serve(number)

    def close(self) -> None:
        """See ``WorkerSpace``."""
        served, self._served = self._served, None
        if served is not None:
            served.close()

    def _serve(self, number: int) -> Endpoint:
        if self._served is None or self._number != number:
            self.close()
            self._served = self._make(self._store, self._prefix_of(number))
            self._number = number
        return Endpoint("127.0.0.1", self._served.port)


_gateways: list[MakeGateway] = []


def use_gateway(make: MakeGateway) -> None:
    """Say how a store is served to this machine's workers; who knows that is above this layer."""
    _gateways[:] = [make]


def known_gateway() -> MakeGateway:
    """Give what ``use_gateway`` was told.

    Raises:
        ValueError: if it was told nothing.
    """
    if not _gateways:
        raise ValueError(
            "worker_store=gateway needs rallypoint.gateway, which is not loaded: start the node with rallypoint run, "
            "or call rallypoint.rendezvous.worker_store.use_gateway first"
        )
    return _gateways[0]
