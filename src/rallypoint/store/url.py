"""Stores by URL: ``env://``, ``tcp://host:port``, ``tls://host:port``, ``file:///path``, ``etcd://``, and others' own.

::

    store, rank, world_size = next(rendezvous("tcp://host:29500?rank=0&world_size=4"))

Source: names, arguments and error texts of ``torch.distributed.rendezvous`` as observed in torch 2.13.0.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias
from urllib.parse import ParseResult, parse_qsl, urlencode, urlparse

from rallypoint.net.url import split_url, without_secrets
from rallypoint.store.base import DEFAULT_TIMEOUT, Store
from rallypoint.store.bootstrap import wants_libuv
from rallypoint.types import Endpoint, Timeout

__all__ = ["register_rendezvous_handler", "rendezvous"]

Meeting: TypeAlias = "tuple[Store, int, int]"
"""A store, the caller's rank, the world size."""

Handler: TypeAlias = Callable[..., Iterator[Meeting]]
"""Called with the URL and ``timeout=``; yields once."""


def register_rendezvous_handler(scheme: str, handler: Handler) -> None:
    """Make :func:`rendezvous` know one more scheme.

    Args:
        scheme: what stands before ``://``.
        handler: a generator function; it is called with the URL, rank and world size in its query, and the other
            arguments of :func:`rendezvous`, and yields ``(store, rank, world_size)``.

    Raises:
        RuntimeError: the scheme is taken.
    """
    if scheme in _handlers:
        raise RuntimeError(f"Rendezvous handler for {scheme}:// already registered")
    _handlers[scheme] = handler


def rendezvous(url: str, rank: int = -1, world_size: int = -1, **options: Any) -> Iterator[Meeting]:
    """Meet where a URL says.

    Args:
        url: ``env://`` (addresses and ranks from the environment), ``tcp://host:port`` (rank 0 serves),
            ``tls://host:port`` (the same by TLS), ``file:///path``, or ``etcd://`` and ``etcds://`` as ``EtcdStore``
            takes them; rank and world size may stand in its query.
        rank: the caller's; only if the URL has neither rank nor world size.
        world_size: how many members; likewise.
        options: ``timeout``, seconds or a ``timedelta``; others are the scheme's own affair.

    Returns:
        An iterator that gives ``(store, rank, world_size)`` once.

    Raises:
        RuntimeError: the URL is no string, rank or world size no integer, or nobody knows its scheme; and, when asked
            a second time, that these schemes meet only once.
        ValueError: something is missing in the URL or the environment.
        AssertionError: rank or world size stand in the URL and are arguments, too.
        BindError: rank 0 cannot serve on the port.
        ConnectTimeoutError: nobody serves there in time.
    """
    if not isinstance(url, str):
        raise RuntimeError(f"`url` must be a string. {type(url)}: {without_secrets(str(url))}")  # noqa: TRY004 - torch's class
    if not isinstance(rank, int):
        raise RuntimeError(f"`rank` must be an integer. {rank}")  # noqa: TRY004 - torch's class
    if not isinstance(world_size, int):
        raise RuntimeError(f"`world_size` must be an integer. {world_size}")  # noqa: TRY004 - torch's class
    split_url(url)  # its error shows no password
    parts = urlparse(url)
    if rank != -1 or world_size != -1:
        query = dict(parse_qsl(parts.query))
        if "rank" in query or "world_size" in query:
            raise AssertionError(
                f"The url: {without_secrets(url)} has node-specific arguments(rank, world_size) already."
            )
        if rank != -1:
            query["rank"] = str(rank)
        if world_size != -1:
            query["world_size"] = str(world_size)
        parts = parts._replace(query=urlencode(query))
    handler = _handlers.get(parts.scheme)
    if handler is None:
        known = ", ".join(f"{scheme}://" for scheme in sorted(_handlers))
        raise RuntimeError(f"No rendezvous handler for {parts.scheme}:// (there are {known})")
    return handler(parts.geturl(), **options)


def _meet_by_file(url: str, *, timeout: Timeout = DEFAULT_TIMEOUT, **_: Any) -> Iterator[Meeting]:
    parts = urlparse(url)
    if not parts.path:
        raise _missing("file", "path")
    rank, world_size = _place(parts, "file")
    from rallypoint.store.file import FileStore

    store = FileStore(parts.path, world_size)
    store.set_timeout(timeout)
    yield store, rank, world_size
    raise _once_only("file")


def _meet_by_tcp(url: str, *, timeout: Timeout = DEFAULT_TIMEOUT, **_: Any) -> Iterator[Meeting]:
    parts = urlparse(url)
    try:
        port = parts.port
    except ValueError:  # which quotes what stands in the port's place: it may be half of a password
        scheme = parts.scheme
        raise ValueError(f"what is a port in the {scheme}:// URL is no number: write {scheme}://host:29500") from None
    if port is None:
        raise _missing(parts.scheme, "port number")
    rank, world_size = _place(parts, parts.scheme)
    if parts.hostname is None:
        raise AssertionError("hostname cannot be None")
    yield _tcp_store(parts, Endpoint(parts.hostname, port), rank, world_size, timeout), rank, world_size
    raise _once_only(parts.scheme)


def _meet_by_etcd(url: str, *, timeout: Timeout = DEFAULT_TIMEOUT, **_: Any) -> Iterator[Meeting]:
    parts = urlparse(url)
    rank, world_size = _place(parts, parts.scheme)
    from rallypoint.store.etcd import EtcdStore

    yield EtcdStore(url, timeout=timeout), rank, world_size
    raise _once_only(parts.scheme)


def _meet_by_env(url: str, *, timeout: Timeout = DEFAULT_TIMEOUT, **_: Any) -> Iterator[Meeting]:
    parts = urlparse(url)
    query = dict(parse_qsl(parts.query))
    rank = int(query.get("rank") or _environment("RANK"))
    world_size = int(query.get("world_size") or _environment("WORLD_SIZE"))
    endpoint = Endpoint(_environment("MASTER_ADDR"), int(_environment("MASTER_PORT")))
    yield _tcp_store(parts, endpoint, rank, world_size, timeout), rank, world_size
    raise _once_only("env")


def _tcp_store(parts: ParseResult, endpoint: Endpoint, rank: int, world_size: int, timeout: Timeout) -> Store:
    from rallypoint.store.tcp import TCPStore

    asked = dict(parse_qsl(parts.query)).get("use_libuv")
    return TCPStore(
        endpoint.host,
        endpoint.port,
        world_size,
        rank == 0 and not _is_served_by_agent(endpoint),
        timeout,
        multi_tenant=True,
        use_libuv=wants_libuv() if asked is None else asked == "1",
        tls=True if parts.scheme == "tls" else None,
    )


def _is_served_by_agent(endpoint: Endpoint) -> bool:
    """Tell whether an agent serves at this very address; a job's other stores are none of its business."""
    return (
        os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() in {"1", "true"}
        and os.environ.get("MASTER_ADDR") == endpoint.host
        and os.environ.get("MASTER_PORT") == str(endpoint.port)
    )


def _place(parts: ParseResult, scheme: str) -> tuple[int, int]:
    query = dict(parse_qsl(parts.query))
    if "rank" not in query:
        raise _missing(scheme, "rank parameter")
    if "world_size" not in query:
        raise _missing(scheme, "world size parameter")
    return int(query["rank"]), int(query["world_size"])


def _environment(name: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise _missing("env", f"environment variable {name} expected, but not set", is_absent=False)
    return value


def _missing(scheme: str, what: str, *, is_absent: bool = True) -> ValueError:
    return ValueError(f"Error initializing rallypoint using {scheme}:// rendezvous: {what}{' missing' * is_absent}")


def _once_only(scheme: str) -> RuntimeError:
    return RuntimeError(f"Unable to perform re-rendezvous using {scheme}:// method")


_handlers: dict[str, Handler] = {
    "env": _meet_by_env,
    "etcd": _meet_by_etcd,
    "etcds": _meet_by_etcd,
    "file": _meet_by_file,
    "tcp": _meet_by_tcp,
    "tls": _meet_by_tcp,
}
