"""How an open connection fails, in the words that callers see: the system's error, a silent peer, one that is gone."""

from __future__ import annotations

import errno
import os

from rallypoint.errors import ConnectionLostError, DistNetworkError, ReplyTimeoutError
from rallypoint.net.address import format_endpoint
from rallypoint.types import Endpoint

__all__ = ["lost", "silent", "translate"]

_PEER_IS_GONE = frozenset(
    {
        errno.ECONNRESET,
        errno.EPIPE,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENETDOWN,
        errno.EBADF,
    }
)


def translate(error: OSError, endpoint: Endpoint) -> DistNetworkError:
    """Give the error that callers see for one that the system gave on an open connection.

    ================================================================  ==========================
    the system says                                                   callers see
    ================================================================  ==========================
    the connection was reset, shut down, or the machine went silent   ``ConnectionLostError``
    anything else (no buffers, a firewall's refusal, ...)             ``DistNetworkError``
    ================================================================  ==========================

    That the peer closed its side, and that a deadline passed, are not errors of the system: see
    ``Stream.receive_exactly``.
    """
    kind = ConnectionLostError if error.errno in _PEER_IS_GONE else DistNetworkError
    reason = os.strerror(error.errno) if error.errno is not None else str(error)
    return kind(f"{reason}: the connection to {format_endpoint(endpoint)} is lost", endpoint=endpoint)


def silent(endpoint: Endpoint, what: str, waited_s: float) -> ReplyTimeoutError:
    """Make the error of a peer that did not do in time what it owes; ``what`` says that in words."""
    return ReplyTimeoutError(
        f"the server at {format_endpoint(endpoint)} {what} within {waited_s:.3f} s",
        endpoint=endpoint,
        waited_s=waited_s,
    )


def lost(endpoint: Endpoint) -> ConnectionLostError:
    """Make the error of a peer that closed its side."""
    return ConnectionLostError(
        "Failed to recv, got 0 bytes. Connection was likely closed. Did the remote server shutdown or crash? "
        f"The server was {format_endpoint(endpoint)}.",
        endpoint=endpoint,
    )
