"""The server that a store runs because it was told to (``is_master``): its port, its life, who shares it.

A server lives as long as the stores that hold it: one, or with ``multi_tenant`` all stores of this process on the same
port. It does not live on in a forked child: the child's copies of those stores leave the parent's server alone.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from socket import AF_INET6, socket
from typing import TYPE_CHECKING

from rallypoint.errors import BindError, DistNetworkError, DistStoreError
from rallypoint.net.address import PORT_MAX, UNIX_PREFIX, adopt_listener, listen, local_endpoint
from rallypoint.net.url import refuse_user, without_secrets
from rallypoint.server.limits import SPIN_US_MAX
from rallypoint.twin import native
from rallypoint.types import Endpoint

if TYPE_CHECKING:
    from rallypoint.server.daemon import ServerHandle, ServerMode
    from rallypoint.server.security import Security

__all__ = ["HostedServer", "check_arguments", "host_server", "is_agent_store", "server_mode", "server_spin_us"]

SERVER_MODES: tuple[ServerMode, ...] = ("process", "thread")

_lock = threading.RLock()  # the collector may drop a store, and release its server, in the thread that holds it
_shared: dict[tuple[int, int], HostedServer] = {}  # servers for several tenants, by process and port


class HostedServer:
    """A running server and the number of stores that hold it.

    Attributes:
        port: where it listens.
        reachable_at: the address at which this machine's own clients reach it, whatever name others use.
        holders: how many stores hold it; 0 once it has ended.
    """

    def __init__(self, handle: ServerHandle, reachable_at: Endpoint) -> None:
        self.port = reachable_at.port
        self.reachable_at = reachable_at
        self._handle = handle
        self.holders = 1
        self._owner_pid = os.getpid()

    def release(self) -> None:
        """Let go of the server; the last holder ends it."""
        if os.getpid() != self._owner_pid:
            return
        with _lock:
            self.holders -= 1
            is_last = self.holders == 0
            if is_last and _shared.get((self._owner_pid, self.port)) is self:
                del _shared[self._owner_pid, self.port]
        if is_last:
            self._handle.close()

    def _hold(self) -> HostedServer:
        self.holders += 1
        return self


def check_arguments(host_name: object, port: object, world_size: object, is_master: object) -> None:
    """Refuse what a TCPStore cannot be made of.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: a world size of 0, a port outside 0..65535, no host's name, a URL, or one with a port, a user or a
            password in it.
        DistNetworkError: port 0 for a client.
    """
    if not isinstance(host_name, str):
        raise TypeError(f"TCPStore: host_name must be a str, not {type(host_name).__name__}")
    if not isinstance(is_master, bool):
        raise TypeError(f"TCPStore: is_master must be a bool, not {type(is_master).__name__}")
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"TCPStore: port must be an int, not {type(port).__name__}")
    if world_size is not None and (isinstance(world_size, bool) or not isinstance(world_size, int)):
        raise TypeError(f"TCPStore: world_size must be an int or None, not {type(world_size).__name__}")
    if not 0 <= port <= PORT_MAX:
        raise ValueError(f"TCPStore port must be from 0 to {PORT_MAX}, not {port}")
    if not host_name:
        raise ValueError("TCPStore: host_name is empty: name the server's host, 'localhost' for this one")
    refuse_user(host_name)
    if "://" in host_name:
        shown = without_secrets(host_name)
        raise ValueError(f"TCPStore: host_name is the URL {shown!r}: write the host alone, the port is an argument")
    host, _, digits = host_name.partition(":")
    if digits.isdecimal() and host and "," not in host and not host_name.startswith(UNIX_PREFIX):
        raise ValueError(
            f"TCPStore: host_name is {host_name!r}: the port is an argument of its own, TCPStore({host!r}, {digits})"
        )
    if port == 0 and not is_master and not host_name.startswith(UNIX_PREFIX):
        # A network error as in torch, whose client tries until its timeout; nobody can listen there, so we need not.
        raise DistNetworkError(
            f"no server can be reached on port 0 of {host_name}: 0 lets a server choose, a client must name the port",
            endpoint=Endpoint(host_name, port),
        )
    if world_size == 0:
        raise ValueError("TCPStore world size cannot be 0")


def host_server(
    host_name: str,
    port: int,
    *,
    listen_fd: int | None,
    multi_tenant: bool,
    mode: ServerMode,
    security: Security | None = None,
) -> HostedServer:
    """Run a server for a store, or share the one that this process runs already.

    Args:
        host_name: the name that clients use; decides whether loopback or every interface is bound.
        port: the TCP port; 0 lets the kernel choose.
        listen_fd: a bound socket to serve on; the server takes it over.
        multi_tenant: share the server with this process's other stores on the same port that say so too.
        mode: where it runs.
        security: what those who connect must prove, and may do; ``None`` for nothing and everything. A server that runs
            already wants what it wants.

    Raises:
        BindError: if the port is in use.
        DistStoreError: if ``listen_fd`` is bound to another port.
        DistNetworkError: if ``listen_fd`` is no bound socket.
    """
    if not multi_tenant or port == 0:
        server = _start(host_name, port, listen_fd, mode, security)
        if multi_tenant:
            with _lock:
                _shared[os.getpid(), server.port] = server
        return server
    with _lock:
        running = _shared.get((os.getpid(), port))
        if running is not None:
            return running._hold()  # noqa: SLF001 - our own class, under our own lock
        _shared[os.getpid(), port] = server = _start(host_name, port, listen_fd, mode, security)
        return server


def load_server() -> None:
    """Load what a server needs, which takes longer than starting one, now rather than when somebody waits for it."""
    import rallypoint.server.daemon  # noqa: F401 - plain clients need no server in memory


def _start(
    host_name: str, port: int, listen_fd: int | None, mode: ServerMode, security: Security | None
) -> HostedServer:
    from rallypoint.server.daemon import start_server  # plain clients need no server in memory

    spin_us = server_spin_us()
    listeners = listen(host_name, port) if listen_fd is None else [_adopt(listen_fd, port)]
    reachable_at = _own_address(listeners)
    return HostedServer(start_server(listeners, mode, spin_us=spin_us, security=security), reachable_at)


def _adopt(fd: int, port: int) -> socket:
    listener = adopt_listener(fd)
    bound = local_endpoint(listener).port
    if port not in (bound, 0):
        listener.detach()  # a refused descriptor stays the caller's
        raise DistStoreError(f"listen fd {fd} is bound to port {bound}, expected to be bound to port {port}")
    return listener


def _own_address(listeners: Sequence[socket]) -> Endpoint:
    """Give the address at which this machine reaches a server, without asking a name service."""
    bound = local_endpoint(listeners[0])
    if bound.host.startswith(UNIX_PREFIX):
        return bound
    if bound.host in ("::", "0.0.0.0"):  # noqa: S104 - compared with, not bound
        return bound._replace(host="::1" if listeners[0].family == AF_INET6 else "127.0.0.1")
    return bound


def is_agent_store(port: int, error: BindError) -> bool:
    """Tell whether a failed bind only means that the launcher's own store serves on that port already.

    Torch's rule: the environment says ``TORCHELASTIC_USE_AGENT_STORE`` and ``MASTER_PORT`` is this port.

    Args:
        port: the port that could not be bound.
        error: why; only a port in use counts.
    """
    uses_agent_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE", "").lower() in ("1", "true")
    return uses_agent_store and os.environ.get("MASTER_PORT") == str(port) and error.errno == errno.EADDRINUSE


def server_mode(asked: str | None, *, needs_python: bool = False) -> ServerMode:
    """Give where an embedded server runs: as asked, else as ``RALLYPOINT_SERVER`` says, else where its twin does well.

    The compiled server runs in a thread, the Python one in a process of its own.

    Args:
        asked: what the program says.
        needs_python: the server is to want more than the compiled one knows.

    Raises:
        ValueError: for anything but ``process`` and ``thread``.
    """
    wanted = asked if asked is not None else os.environ.get("RALLYPOINT_SERVER")
    if not wanted and asked is None:
        return "process" if native() is None or needs_python else "thread"
    for mode in SERVER_MODES:
        if wanted == mode:
            return mode
    source = "server" if asked is not None else "RALLYPOINT_SERVER"
    raise ValueError(f"{source} must be 'process' or 'thread', not {wanted!r}")


def server_spin_us() -> int:
    """Give how long an embedded server looks for requests before it sleeps: ``RALLYPOINT_SPIN_US``, in microseconds.

    Raises:
        ValueError: for anything but a number from 0 to ``SPIN_US_MAX``.
    """
    word = os.environ.get("RALLYPOINT_SPIN_US") or "0"
    if not (word.isascii() and word.isdigit() and int(word) <= SPIN_US_MAX):
        raise ValueError(f"RALLYPOINT_SPIN_US must be a number of microseconds from 0 to {SPIN_US_MAX}, not {word!r}")
    return int(word)
