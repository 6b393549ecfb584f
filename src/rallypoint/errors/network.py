"""What the network, or the peer behind it, did not do."""

from __future__ import annotations

from rallypoint.errors.root import DistError, rebuild
from rallypoint.types import Endpoint

__all__ = [
    "AuthenticationError",
    "BindError",
    "ConnectTimeoutError",
    "ConnectionLostError",
    "DistNetworkError",
    "RemoteProtocolError",
    "ReplyTimeoutError",
    "SessionLostError",
    "UnreachableError",
]


class DistNetworkError(DistError):
    """The network, or the peer behind it, failed.

    Attributes:
        endpoint: the peer, or the address of our own that was meant; ``None`` where there is none.
    """

    def __init__(self, message: str, *, endpoint: Endpoint | None = None) -> None:
        super().__init__(message)
        self.endpoint = endpoint


class BindError(DistNetworkError, OSError):
    """An address could not be listened on.

    Attributes:
        endpoint: the address that was asked for.
        errno: the system's error number, ``errno.EADDRINUSE`` for a port in use.
    """

    def __init__(self, message: str, *, endpoint: Endpoint | None = None, errno: int | None = None) -> None:
        super().__init__(message, endpoint=endpoint)
        self.errno = errno

    def __reduce__(self) -> tuple[object, ...]:
        return rebuild, (type(self), self.args, {**self.__dict__, "errno": self.errno})

    def __str__(self) -> str:
        # OSError would print the number in front of the sentence, which names it already.
        return str(self.args[0])


class ConnectTimeoutError(DistNetworkError, TimeoutError):
    """Nobody answered in time, or what answered is no store.

    Attributes:
        endpoint: the address that was tried.
        waited_s: how long, in seconds.
        attempts: how often a connection was tried.
    """

    def __init__(
        self, message: str, *, endpoint: Endpoint | None = None, waited_s: float = 0.0, attempts: int = 0
    ) -> None:
        super().__init__(message, endpoint=endpoint)
        self.waited_s = waited_s
        self.attempts = attempts


class ReplyTimeoutError(DistNetworkError, TimeoutError):
    """The server took a request and stayed silent until the caller's deadline.

    Attributes:
        endpoint: the server.
        waited_s: how long, in seconds.
    """

    def __init__(self, message: str, *, endpoint: Endpoint | None = None, waited_s: float = 0.0) -> None:
        super().__init__(message, endpoint=endpoint)
        self.waited_s = waited_s


class ConnectionLostError(DistNetworkError, ConnectionError):
    """The peer closed or reset the connection."""


class AuthenticationError(DistNetworkError):
    """Who the peer is could not be proven, or the peer takes no proof of ours. Trying again would not help.

    Attributes:
        endpoint: the peer.
        reason: the code with which the peer refused, empty if it said none.
    """

    reason: str = ""


class SessionLostError(ConnectionLostError):
    """The server is there, but does not know the session any more, or not the data that the session had seen.

    Where it has only forgotten the session, whether this request was applied is not known, and the store can go on;
    where its data is other data, every later call of this store fails, too.
    """


class UnreachableError(ConnectionLostError, TimeoutError):
    """The connection was lost, and no other could be made before the caller's deadline.

    Attributes:
        endpoint: the server.
        waited_s: how long this caller waited, in seconds.
        unreachable_s: for how long the server had not been reached then, in seconds.
    """

    def __init__(
        self,
        message: str,
        *,
        endpoint: Endpoint | None = None,
        waited_s: float = 0.0,
        unreachable_s: float = 0.0,
    ) -> None:
        super().__init__(message, endpoint=endpoint)
        self.waited_s = waited_s
        self.unreachable_s = unreachable_s


class RemoteProtocolError(DistNetworkError):
    """The peer broke the protocol."""
