"""Where a server listens and where a client finds it: endpoints as text, listening sockets.

Three kinds of listeners, all with close-on-exec, and ``SO_REUSEADDR`` where the kernel knows it:

- ``listen`` is for servers embedded in a program: a literal loopback name or address binds loopback only, any other
  host binds every interface, because the name that clients use may be translated on its way (NAT, a virtual
  address) and need not be an address of this machine;
- ``listen_exactly`` is for people who say what they want bound: those addresses, all of them, and nothing else;
- ``listen_unix`` makes a socket file, readable and writable by its owner only.

A port in use is an error at once. Port 0 is chosen by the kernel; where one call makes several listeners they
share one port number.

An endpoint of a Unix domain socket is ``Endpoint("unix:PATH", 0)``.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Sequence

from rallypoint.clock import Deadline
from rallypoint.errors import BindError, DistNetworkError
from rallypoint.net.resolve import Resolved, SocketAddress, resolve
from rallypoint.net.unix import UNIX_PREFIX, bind_socket_file, remove_stale_file
from rallypoint.net.url import refuse_user, without_secrets
from rallypoint.types import Endpoint

__all__ = [
    "BACKLOG",
    "PORT_MAX",
    "UNIX_PREFIX",
    "Resolved",
    "SocketAddress",
    "adopt_listener",
    "close_listener",
    "format_endpoint",
    "is_loopback",
    "listen",
    "listen_exactly",
    "listen_unix",
    "local_endpoint",
    "parse_endpoint",
    "resolve",
]

BACKLOG = 65535
"""Connections that may wait to be accepted; the kernel lowers it to its own maximum (``somaxconn``)."""

PORT_MAX = 65535

_SHARED_PORT_ATTEMPTS = 16  # tries to find one port number that is free on both loopback addresses
_WILDCARD_HOSTS = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound
_NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
_LOCALHOST = (Resolved(socket.AF_INET, ("127.0.0.1", 0)), Resolved(socket.AF_INET6, ("::1", 0, 0, 0)))


# --- endpoints as text -----------------------------------------------------------------------------------


def parse_endpoint(text: str, default_port: int | None = None) -> Endpoint:
    """Read ``host:port``, ``[IPv6]:port``, ``unix:PATH``, or, with a default port, a host alone.

    Args:
        text: what a person wrote.
        default_port: the port if none is written; ``None`` makes a missing port an error.

    Raises:
        ValueError: in one sentence, with what would be right.
    """
    if text.startswith(UNIX_PREFIX):
        if not text[len(UNIX_PREFIX) :]:
            raise ValueError(f"the endpoint {text!r} has no path: write unix:/path/of/socket")
        return Endpoint(text, 0)
    refuse_user(text)
    if "://" in text:
        raise ValueError(f"the endpoint {without_secrets(text)!r} is a URL: write host:port alone")
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"the endpoint {text!r} is not an IPv6 address in brackets: write [::1]:29500")
        port = rest[1:] if rest else None
    elif text.count(":") > 1:
        raise ValueError(f"the endpoint {text!r} is ambiguous: write an IPv6 address in brackets, as in [::1]:29500")
    else:
        host, colon, rest = text.partition(":")
        port = rest if colon else None
    if not host:
        raise ValueError(f"the endpoint {text!r} names no host: write host:port")
    if port is None:
        if default_port is None:
            raise ValueError(f"the endpoint {text!r} has no port: write {text}:29500")
        return Endpoint(host, default_port)
    if not (port.isascii() and port.isdigit()):  # not quoted: it is a password, where the host was forgotten
        raise ValueError(f"the endpoint '{host}:...' has no port that is a number from 0 to {PORT_MAX}")
    if int(port) > PORT_MAX:
        raise ValueError(f"the endpoint {text!r} has the port {port!r}: a port is a number from 0 to {PORT_MAX}")
    return Endpoint(host, int(port))


def format_endpoint(endpoint: Endpoint) -> str:
    """Give ``host:port``, ``[IPv6]:port`` or ``unix:PATH``."""
    return endpoint.host if endpoint.host.startswith(UNIX_PREFIX) else str(endpoint)


def is_loopback(host: str) -> bool:
    """Tell whether a host is literally this machine's loopback: ``localhost``, ``127.x.y.z`` or ``::1``.

    No name is resolved: a name that happens to lead to 127.0.0.1 (Debian's ``127.0.1.1 myhost``) does not count.
    """
    if _is_localhost(host) or host == "::1":
        return True
    try:
        return socket.inet_pton(socket.AF_INET, host)[0] == 127
    except OSError:
        return False


def _is_localhost(host: str) -> bool:
    return host.lower().rstrip(".") == "localhost"


def local_endpoint(sock: socket.socket) -> Endpoint:
    """Give the address that a socket is bound to."""
    return _endpoint_of(sock.getsockname())


def _endpoint_of(address: object) -> Endpoint:
    if isinstance(address, tuple):
        return Endpoint(str(address[0]), int(address[1]))
    path = os.fsdecode(address) if isinstance(address, bytes) else str(address)
    return Endpoint(f"{UNIX_PREFIX}{path}", 0)


# --- listening -------------------------------------------------------------------------------------------


def listen(host: str, port: int, *, backlog: int = BACKLOG) -> list[socket.socket]:
    """Listen for a server embedded in a program.

    Args:
        host: the name or address that clients use. A literal loopback one binds loopback only (``localhost``: both
            127.0.0.1 and ::1, where the machine has them); any other binds every interface, IPv6 and IPv4.
            ``unix:PATH`` is possible too.
        port: the TCP port; 0 lets the kernel choose.
        backlog: connections that may wait to be accepted.

    Returns:
        One or two listening sockets on one port number.

    Raises:
        BindError: if the port is in use or may not be bound; at once, and naming the port.
    """
    if host.startswith(UNIX_PREFIX):
        return [listen_unix(host[len(UNIX_PREFIX) :], backlog=backlog)]
    if not is_loopback(host):
        return [_listen_everywhere(host, port, backlog)]
    if _is_localhost(host):
        return _listen_together(host, port, backlog, _LOCALHOST)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return _listen_together(host, port, backlog, [Resolved(family, (host, 0))])


def listen_exactly(hosts: Sequence[str], port: int, *, backlog: int = BACKLOG) -> list[socket.socket]:
    """Listen on the addresses that these names mean, on all of them, and on nothing else.

    Args:
        hosts: addresses and names of this machine, or ``unix:PATH``. ``0.0.0.0`` is every IPv4 address, ``::`` every
            address, IPv4 included.
        port: the TCP port; 0 lets the kernel choose one that is free on all the addresses.
        backlog: connections that may wait to be accepted.

    Returns:
        At least one listener for each host, in their order, TCP before socket files.

    Raises:
        BindError: if an address cannot be bound.
        DistNetworkError: if a name cannot be resolved.
    """
    addresses: dict[Resolved, None] = {}
    paths: list[str] = []
    for host in hosts:
        if host.startswith(UNIX_PREFIX):
            paths.append(host[len(UNIX_PREFIX) :])
        elif _is_localhost(host):
            addresses.update(dict.fromkeys(_LOCALHOST))
        else:
            addresses.update(dict.fromkeys(resolve(host, 0, Deadline.never())))
    listeners = _listen_together(", ".join(hosts), port, backlog, list(addresses)) if addresses else []
    try:
        for path in paths:
            listeners.append(listen_unix(path, backlog=backlog))
    except BindError:
        for listener in listeners:
            close_listener(listener)
        raise
    return listeners


def listen_unix(path: str, *, backlog: int = BACKLOG) -> socket.socket:
    """Listen on a socket file that only its owner may use.

    The file of a dead server is replaced; the file of a living one, or a file that is no socket, is an error.
    Close the listener by ``close_listener``, which removes the file.

    Raises:
        BindError: if the path is in use, too long for the system, or may not be written.
    """
    try:
        return bind_socket_file(path, backlog)
    except OSError as error:
        endpoint = Endpoint(f"{UNIX_PREFIX}{path}", 0)
        raise BindError(
            f"The server socket has failed to listen on {endpoint.host}. {_describe(error)}",
            endpoint=endpoint,
            errno=error.errno,
        ) from error


def adopt_listener(fd: int, port: int = 0, *, backlog: int = BACKLOG) -> socket.socket:
    """Take over a bound socket that somebody else made, listening or not.

    From a successful call on, the descriptor belongs to the returned socket; after an error it is still the caller's.

    Args:
        fd: the descriptor.
        port: the port that it must be bound to; 0 accepts any.
        backlog: connections that may wait to be accepted.

    Raises:
        DistNetworkError: if the descriptor is not open, is no stream socket, or is bound to another port.
    """
    try:
        sock = socket.socket(fileno=fd)
    except OSError as error:
        raise DistNetworkError(f"Failed to open existing socket. socket: {fd}, {_describe(error)}") from error
    try:
        bound = _endpoint_of(sock.getsockname())
        is_expected = port in (bound.port, 0)
        if is_expected:
            sock.listen(backlog)
            sock.set_inheritable(False)
    except OSError as error:
        sock.detach()
        raise DistNetworkError(f"Failed to listen on existing socket. socket: {fd}, {_describe(error)}") from error
    if not is_expected:
        sock.detach()
        raise DistNetworkError(f"listen fd {fd} is bound to port {bound.port}, expected to be bound to port {port}")
    return sock


def close_listener(listener: socket.socket) -> None:
    """Close a listener; a socket file that nobody listens on any more is removed with it."""
    try:
        path = listener.getsockname() if listener.family == socket.AF_UNIX else ""
    except OSError:
        path = ""  # closed already
    listener.close()
    if isinstance(path, str) and path:  # a local name comes as bytes
        remove_stale_file(path)


def _listen_everywhere(host: str, port: int, backlog: int) -> socket.socket:
    try:
        return _listen_one(Resolved(socket.AF_INET6, ("::", 0)), port, backlog)
    except OSError as error:
        if error.errno not in _NO_SUCH_FAMILY:
            raise _bind_error(host, port, socket.AF_INET6, error) from error
    try:
        return _listen_one(Resolved(socket.AF_INET, ("0.0.0.0", 0)), port, backlog)  # noqa: S104 - asked for
    except OSError as error:
        raise _bind_error(host, port, socket.AF_INET, error) from error


def _listen_together(host: str, port: int, backlog: int, addresses: Sequence[Resolved]) -> list[socket.socket]:
    """Listen on several addresses with one port number.

    Of the two addresses of ``localhost`` one may be missing, on a machine without IPv6 or without IPv4.
    """
    for attempt in range(_SHARED_PORT_ATTEMPTS):
        listeners: list[socket.socket] = []
        missing: tuple[int, OSError] | None = None
        for address in addresses:
            shared = listeners[0].getsockname()[1] if listeners else port
            try:
                listeners.append(_listen_one(address, shared, backlog))
            except OSError as error:
                if address in _LOCALHOST and error.errno in _NO_SUCH_FAMILY:
                    missing = (address.family, error)
                    continue
                for listener in listeners:
                    listener.close()
                is_clash = port == 0 and len(listeners) > 0 and error.errno == errno.EADDRINUSE
                if is_clash and attempt < _SHARED_PORT_ATTEMPTS - 1:
                    break
                raise _bind_error(host, port, address.family, error) from error
        else:
            if listeners or missing is None:
                return listeners
            raise _bind_error(host, port, *missing) from missing[1]
    raise AssertionError("the last attempt returns or raises")


def _listen_one(address: Resolved, port: int, backlog: int) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address.sockaddr[0] == "::" else 1)
        sock.bind((address.sockaddr[0], port, *address.sockaddr[2:]))
        sock.listen(backlog)
    except BaseException:
        sock.close()
        raise
    return sock


def _bind_error(host: str, port: int, family: int, error: OSError) -> BindError:
    is_ipv6 = "true" if family == socket.AF_INET6 and host not in _WILDCARD_HOSTS and is_loopback(host) else "false"
    return BindError(
        "The server socket has failed to listen on any local network address. "
        f"port: {port}, useIpv6: {is_ipv6}, {_describe(error)} (host: {host})",
        endpoint=Endpoint(host, port),
        errno=error.errno,
    )


def _describe(error: OSError) -> str:
    """Give ``code: -98, name: EADDRINUSE, message: address already in use``."""
    if error.errno is None:  # Python's own check, as of a path that is too long
        return f"message: {error}"
    name = errno.errorcode.get(error.errno, "UNKNOWN")
    return f"code: -{error.errno}, name: {name}, message: {os.strerror(error.errno).lower()}"
