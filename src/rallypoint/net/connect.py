"""Connecting once, over all the addresses of a name.

The first that answers wins. No address keeps the others waiting for long, and none is asked twice: who wants to try
again comes to ``retry``.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from collections import deque
from time import monotonic

from rallypoint.clock import Deadline
from rallypoint.errors import ConnectTimeoutError, DistNetworkError
from rallypoint.net.address import Resolved, format_endpoint, resolve
from rallypoint.net.stream import WAIT_SLICE_S, Stream
from rallypoint.types import Endpoint

__all__ = ["CONNECT_STAGGER_S", "connect"]

CONNECT_STAGGER_S = 0.25
"""How long one address of a name may keep the next one waiting, in seconds. Source: RFC 8305, section 8."""


def connect(endpoint: Endpoint, deadline: Deadline) -> Stream:
    """Try once to connect, over all the addresses of the endpoint's name.

    The addresses are tried in the resolver's order; one that stays silent keeps the next one waiting for
    ``CONNECT_STAGGER_S`` only, and the first that answers wins.

    Args:
        endpoint: a TCP endpoint, or ``Endpoint("unix:PATH", 0)``.
        deadline: covers the name's resolution too; a passed one still looks once.

    Raises:
        ConnectTimeoutError: if nobody answered in time.
        DistNetworkError: if the name has no address, or all its addresses refused; says why the last one did.
    """
    addresses = deque(resolve(endpoint.host, endpoint.port, deadline))
    poller = select.poll()
    pending: dict[int, socket.socket] = {}
    refusals: list[OSError] = []
    next_start = 0.0
    try:
        while True:
            if addresses and (not pending or monotonic() >= next_start):
                begun = _begin(addresses.popleft())
                if isinstance(begun, OSError):
                    refusals.append(begun)
                    continue
                pending[begun.fileno()] = begun
                poller.register(begun, select.POLLOUT)
                next_start = monotonic() + CONNECT_STAGGER_S
            if not pending and not addresses:
                raise _refused(endpoint, refusals) from refusals[-1]
            for fd, _ in poller.poll(min(WAIT_SLICE_S, deadline.remaining_s()) * 1000):
                poller.unregister(fd)
                outcome = _finish(pending.pop(fd), endpoint)
                if isinstance(outcome, Stream):
                    return outcome
                refusals.append(outcome)
            if pending and deadline.has_passed():
                raise ConnectTimeoutError(
                    f"{format_endpoint(endpoint)} did not answer within {deadline.waited_s():.3f} s",
                    endpoint=endpoint,
                    waited_s=deadline.waited_s(),
                    attempts=1,
                )
    finally:
        for sock in pending.values():
            sock.close()


def _begin(address: Resolved) -> socket.socket | OSError:
    """Start to connect; a refusal leaves no socket behind."""
    try:
        sock = socket.socket(address.family, socket.SOCK_STREAM)
    except OSError as error:
        return error
    sock.setblocking(False)
    try:
        sock.connect(address.sockaddr)
    except OSError as error:
        # For a Unix domain socket with a full backlog the system says EAGAIN, and there is nothing to wait for.
        if error.errno != errno.EINPROGRESS:
            sock.close()
            return error
    return sock


def _finish(sock: socket.socket, endpoint: Endpoint) -> Stream | OSError:
    """Give the stream of a connection attempt that ended well, else why it did not, and no socket is left."""
    try:
        number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not number and sock.family != socket.AF_UNIX and sock.getsockname() == sock.getpeername():
            # Connecting to a free port of the ephemeral range, the kernel may pick that very port for our end, and
            # connects us to ourselves.
            number = errno.ECONNREFUSED
        if not number:
            return Stream(sock, endpoint)
    except OSError as error:  # gone again already
        sock.close()
        return error
    sock.close()
    return OSError(number, os.strerror(number))


def _refused(endpoint: Endpoint, refusals: list[OSError]) -> DistNetworkError:
    last = refusals[-1]
    reason = os.strerror(last.errno).lower() if last.errno is not None else str(last)
    count = f", as on its {len(refusals) - 1} other addresses" if len(refusals) > 1 else ""
    return DistNetworkError(f"no connection to {format_endpoint(endpoint)}: {reason}{count}", endpoint=endpoint)
