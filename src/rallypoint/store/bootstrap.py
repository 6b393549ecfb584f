"""From nothing to a store: the first server, ports without races, a time limit for one caller.

Source: the names, arguments and keys of ``torch.distributed.elastic.utils.distributed`` and ``.store`` as observed in
torch 2.13.0.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

from rallypoint.errors import StoreTimeoutError, WorkersMissingError
from rallypoint.store.base import LAST_MEMBER, MEMBER_COUNT, Store, as_timeout_s, timeout_override
from rallypoint.store.prefix import PrefixStore, as_foreign_timeout
from rallypoint.types import Endpoint, Timeout

if TYPE_CHECKING:
    from rallypoint.net.tls import Tls
    from rallypoint.store.tcp import TCPStore

__all__ = [
    "create_c10d_store",
    "get_free_port",
    "get_socket_with_port",
    "open_endpoint",
    "store_timeout",
    "wants_libuv",
]

_log = logging.getLogger(__name__)

FULL_RANK_PREFIX = "_tcp_store/num_members"
"""Where the members that :func:`create_c10d_store` brings together count themselves, torch's among them."""

LAST_MEMBER_VALUE = "<val_ignored>"


def create_c10d_store(  # noqa: PLR0917 - torch's signature
    is_server: bool,
    server_addr: str,
    server_port: int = -1,
    world_size: int = 1,
    timeout: Timeout = 600,
    wait_for_workers: bool = True,
    retries: int = 3,
    use_libuv: bool | None = None,
) -> TCPStore:
    """Make a TCPStore and, unless told otherwise, wait until all its members are there.

    Args:
        is_server: whether this process holds the server.
        server_addr: the server's host name or address.
        server_port: its port; -1 or 0 lets the kernel choose one, which only a server can do (``store.port`` tells).
        world_size: how many members meet, the server's own process included.
        timeout: seconds or a ``timedelta`` for each step, and the new store's timeout.
        wait_for_workers: whether to return only when all members are there.
        retries: accepted for torch's sake. Nothing is retried: a port that is asked for is free or it is not, and a
            port that is not asked for is never guessed.
        use_libuv: deprecated and ignored, with a line in the log; set ``USE_LIBUV`` instead.

    Raises:
        ValueError: no port although others have to find the server.
        BindError: the port is in use.
        ConnectTimeoutError: nobody serves at the address.
        DistStoreError: members are missing when the time is up.

    Cost: the store's constructor; with ``wait_for_workers`` 3 more calls.
    """
    del retries
    if server_port == -1 and world_size > 1:
        raise ValueError(
            f"server_port must be specified when world_size > 1, got server_port={server_port}, world_size={world_size}"
        )
    if use_libuv is not None:
        _log.warning(
            "the argument use_libuv=%s is deprecated and ignored: set the environment variable USE_LIBUV to 0 or 1",
            use_libuv,
        )
    from rallypoint.store.tcp import TCPStore

    timeout_s = as_timeout_s(timeout)
    store = TCPStore(
        server_addr,
        max(server_port, 0),
        world_size,
        is_server,
        timeout_s,
        wait_for_workers,
        use_libuv=wants_libuv(),
    )
    if wait_for_workers:
        try:
            _meet(store, world_size)
        except BaseException:
            store.close()
            raise
    return store


def open_endpoint(
    endpoint: Endpoint,
    is_host: bool = False,
    *,
    timeout: Timeout,
    session_timeout: Timeout | None = None,
    dialect: str | None = None,
    tls: Tls | bool | None = None,
) -> TCPStore:
    """Reach, or serve, the store at an endpoint, as no member of a group: nobody is waited for.

    Args:
        endpoint: the place; its host may name several, with commas, of a store that is reached.
        is_host: whether to serve it here, for others of this process, too.
        timeout: for connecting, and the store's.
        session_timeout: as of ``TCPStore``.
        dialect: as of ``TCPStore``.
        tls: as of ``TCPStore``.

    Raises:
        DistError, ValueError: as ``TCPStore``.
    """
    from rallypoint.store.tcp import TCPStore

    return TCPStore(
        endpoint.host,
        endpoint.port,
        is_master=is_host,
        timeout=timeout,
        wait_for_workers=False,
        multi_tenant=True,
        session_timeout=session_timeout,
        dialect=dialect,
        tls=tls,
    )


def _meet(store: Store, world_size: int) -> None:
    """Wait for all members with the keys and operations that torch's members use for it."""
    count_key, last_key = FULL_RANK_PREFIX + MEMBER_COUNT, FULL_RANK_PREFIX + LAST_MEMBER
    if store.add(count_key, 1) == world_size:
        store.set(last_key, LAST_MEMBER_VALUE)
    try:
        store.wait([last_key])
    except StoreTimeoutError as error:
        arrived = store.add(count_key, 0)
        raise WorkersMissingError(
            f"Timed out after {error.waited_s:.1f} seconds waiting for members. {arrived}/{world_size} members came.",
            arrived=arrived,
            expected=world_size,
            waited_s=error.waited_s,
            endpoint=error.endpoint,
        ) from error


def wants_libuv() -> bool:
    """Tell what ``USE_LIBUV`` says: true unless it is ``0``."""
    return os.environ.get("USE_LIBUV", "1") == "1"


def get_free_port() -> int:
    """Give a TCP port that nobody uses at this moment.

    Another process may take it before the caller does. Where that matters, let the server bind port 0 and publish
    ``store.port``, or keep the socket: :func:`get_socket_with_port`.
    """
    with contextlib.closing(get_socket_with_port()) as listener:
        port: int = listener.getsockname()[1]
        return port


def get_socket_with_port() -> socket.socket:
    """Give a socket that listens on a port of this machine's loopback address; the caller owns it.

    ``TCPStore(..., port=s.getsockname()[1], is_master=True, master_listen_fd=s.detach())`` serves on it with no moment
    in which somebody else can take the port.

    Raises:
        OSError: no address of ``localhost`` can be listened on.
    """
    refusal = OSError("localhost has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM):
        try:
            listener = socket.socket(family, kind, protocol)
        except OSError as error:
            refusal = error
            continue
        try:
            listener.bind(address)
            listener.listen()
        except OSError as error:
            listener.close()
            refusal = error
        else:
            return listener
    raise refusal


@contextlib.contextmanager
def store_timeout(store: Store, timeout: Timeout) -> Iterator[None]:
    """Let a store wait ``timeout`` until the block ends, however it ends.

    On our own stores the time holds for the calling thread or task only: others that use the same object keep
    theirs. A foreign store (torch's own, or a class with a ``set_timeout`` of its own) has one timeout an object, so
    there it is set, and put back when nobody is inside any more; threads that share such an object see the time of
    whoever came last.

    Args:
        store: any store; through :class:`PrefixStore` the wrapped one is meant.
        timeout: seconds or a ``timedelta``; 0 looks once.

    Raises:
        ValueError: the timeout is negative or not a number.
    """
    seconds = as_timeout_s(timeout)
    target = store
    while isinstance(target, PrefixStore):
        target = target.underlying_store
    holds = timeout_override(target, seconds) if _keeps_our_time(target) else _foreign_timeout(target, seconds)
    with holds:
        yield


def _keeps_our_time(store: object) -> bool:
    if not isinstance(store, Store):
        return False
    kind = type(store)
    return kind.set_timeout is Store.set_timeout and kind.timeout is Store.timeout


class _Borrowed:
    """A foreign store's timeout while somebody has changed it.

    Attributes:
        before: what it was, to be put back at the end.
        wanted: what those inside want, by a key of their own; the latest holds.
    """

    def __init__(self, before: timedelta) -> None:
        self.before = before
        self.wanted: dict[object, timedelta] = {}


_borrowed: dict[int, _Borrowed] = {}  # by the store's id, which is its own as long as somebody is inside
_borrowing = threading.Lock()


@contextlib.contextmanager
def _foreign_timeout(store: Store, seconds: float) -> Iterator[None]:
    me = object()
    with _borrowing:
        loan = _borrowed.get(id(store)) or _Borrowed(store.timeout)
        store.set_timeout(as_foreign_timeout(seconds))
        loan.wanted[me] = as_foreign_timeout(seconds)
        _borrowed[id(store)] = loan
    try:
        yield
    finally:
        with _borrowing:
            del loan.wanted[me]
            if not loan.wanted:
                del _borrowed[id(store)]
            store.set_timeout(list(loan.wanted.values())[-1] if loan.wanted else loan.before)
