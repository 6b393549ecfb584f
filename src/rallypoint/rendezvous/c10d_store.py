"""Reach, or start, the server at a rendezvous endpoint: who is its host, and who connects.

What this file does not know: what the store is for.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from rallypoint.errors import BindError, RendezvousConnectionError
from rallypoint.events import emit
from rallypoint.rendezvous.endpoint import matches_machine_hostname, parse_rendezvous_endpoint
from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.rendezvous.patience import told_if_slow
from rallypoint.store.bootstrap import open_endpoint
from rallypoint.store.tcp import TCPStore
from rallypoint.types import Endpoint, Timeout

__all__ = ["DEFAULT_PORT", "UNREACHABLE", "open_tcp_store"]

DEFAULT_PORT = 29400
"""The port of a rendezvous endpoint that names none."""

UNREACHABLE = "The connection to the C10d store has failed. See inner exception for details."
"""What is said where there is no store, or none any more. Source: as observed in torch 2.13.0."""

READ_TIMEOUT_S = 60.0
"""How long reaching the store may take, in seconds, unless told otherwise."""


def open_tcp_store(
    params: RendezvousParameters, *, session_timeout: Timeout | None = None, dialect: str | None = None
) -> tuple[TCPStore, str, bool]:
    """Reach, or start, the store at the endpoint that the parameters name, as ``create_backend`` says.

    Args:
        params: the endpoint, and the options ``is_host`` and ``read_timeout``.
        session_timeout: as of ``TCPStore``.
        dialect: as of ``TCPStore``.

    Returns:
        The store, where others reach it, and whether it is served here.

    Raises:
        ValueError: if an option or the endpoint is wrong.
        RendezvousConnectionError: if the store cannot be reached, or not be started.
    """
    endpoint = parse_rendezvous_endpoint(params.endpoint, DEFAULT_PORT)
    is_host = params.get_as_bool("is_host")
    timeout_s = _read_timeout_s(params)
    is_unix = endpoint.host.startswith("unix:")
    if endpoint.port == 0 and not is_unix and (is_host is False or (is_host is None and params.max_nodes > 1)):
        raise ValueError(
            f"the rendezvous endpoint '{params.endpoint}' has port 0, which {params.max_nodes} nodes cannot find: "
            f"name a port, as in {Endpoint(endpoint.host, DEFAULT_PORT)}"
        )
    open_store = partial(open_endpoint, timeout=timeout_s, session_timeout=session_timeout, dialect=dialect)
    try:
        with told_if_slow(endpoint, timeout_s, params.run_id):
            store, is_host = _reach(endpoint, is_host, open_store)
    except (OSError, RuntimeError, ValueError) as error:
        raise RendezvousConnectionError(UNREACHABLE) from error
    place = Endpoint(store.host, store.port)
    if is_host and params.max_nodes > 1 and not params.endpoint.strip():
        emit(
            "rendezvous.wait",
            f"no rendezvous endpoint was given, so {place} was taken, where no other machine looks for it: give "
            f"the nodes of all machines the same one, as in --rdzv-endpoint=HOST:{place.port}",
            run_id=params.run_id,
        )
    return store, str(place), is_host


_Open: TypeAlias = Callable[[Endpoint, bool], TCPStore]


def _reach(endpoint: Endpoint, is_host: bool | None, open_store: _Open) -> tuple[TCPStore, bool]:
    if is_host is None and (endpoint.host.startswith("unix:") or matches_machine_hostname(endpoint.host)):
        return _host_or_connect(endpoint, open_store)
    return open_store(endpoint, bool(is_host)), bool(is_host)


def _host_or_connect(endpoint: Endpoint, open_store: _Open) -> tuple[TCPStore, bool]:
    try:
        return open_store(endpoint, True), True
    except BindError as error:
        if error.errno != errno.EADDRINUSE:
            raise
    return open_store(endpoint, False), False


def _read_timeout_s(params: RendezvousParameters) -> float:
    try:
        timeout_s = params.get_as_seconds("read_timeout", READ_TIMEOUT_S)
    except ValueError:
        timeout_s = None
    if not timeout_s:
        raise ValueError(
            f"The read timeout must be a positive integer. It is {params.get('read_timeout')!r}; write a number of "
            "seconds, as in read_timeout=60."
        )
    return timeout_s
