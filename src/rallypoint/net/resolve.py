"""From a host to its addresses, within a deadline."""

from __future__ import annotations

import errno
import socket
import threading
from typing import NamedTuple, TypeAlias

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectTimeoutError, DistNetworkError
from rallypoint.net.unix import UNIX_PREFIX
from rallypoint.types import Endpoint

__all__ = ["Resolved", "SocketAddress", "resolve"]

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int] | str
"""What the socket calls take: IPv4, IPv6, or the path of a Unix domain socket."""

_SLICE_S = 0.1  # a signal that another thread received is noticed after this long


class Resolved(NamedTuple):
    """One address to connect to or to listen on, as the socket calls take it."""

    family: int
    sockaddr: SocketAddress


def resolve(host: str, port: int, deadline: Deadline) -> list[Resolved]:
    """Give every address of a host, in the order in which they should be tried.

    Addresses and Unix paths are answered at once. A name is looked up in a helper thread, because the system's
    resolver knows no deadline: when the caller's deadline passes first, the thread is left to end by itself, which
    it does when the resolver gives up.

    Args:
        host: a name, an address, or ``unix:PATH``.
        port: the TCP port; ignored for ``unix:PATH``.
        deadline: how long a look-up may take.

    Raises:
        DistNetworkError: if the name has no address.
        ConnectTimeoutError: if the resolver did not answer before the deadline.
    """
    endpoint = Endpoint(host, port)
    if host.startswith(UNIX_PREFIX):
        return [Resolved(socket.AF_UNIX, host[len(UNIX_PREFIX) :])]
    try:
        return _look_up(host, port, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        pass  # not an address, so a name
    answer: list[list[Resolved] | Exception] = []
    done = threading.Event()

    def ask() -> None:
        try:
            answer.append(_look_up(host, port, 0))
        except (OSError, UnicodeError) as error:
            answer.append(error)
        done.set()

    threading.Thread(target=ask, name="rallypoint-resolver", daemon=True).start()
    while not done.wait(min(_SLICE_S, deadline.remaining_s())):
        if deadline.has_passed():
            raise ConnectTimeoutError(
                f"the host name {host!r} was not resolved within {deadline.waited_s():.1f} s",
                endpoint=endpoint,
                waited_s=deadline.waited_s(),
            )
    outcome = answer[0]
    if isinstance(outcome, Exception):
        reason = outcome.strerror if isinstance(outcome, OSError) else str(outcome)
        raise DistNetworkError(f"the host name {host!r} cannot be resolved: {reason}", endpoint=endpoint) from outcome
    return outcome


def _look_up(host: str, port: int, flags: int) -> list[Resolved]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    unique = dict.fromkeys(Resolved(int(family), _checked(address)) for family, _, _, _, address in found)
    return list(unique)


def _checked(address: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]) -> SocketAddress:
    if isinstance(address[0], int):  # an interpreter without IPv6 gives such addresses raw
        raise OSError(errno.EAFNOSUPPORT, "this Python was built without IPv6")
    return address
