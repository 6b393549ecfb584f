"""Which client a TCP store has, the compiled or the Python one, and what the compiled one leaves to Python.

``rallypoint._native.Client`` runs whole calls, from the user's arguments to the result. Everything rare is asked of a
:class:`Helper`: connections, whose making has names, retries and a handshake in it, and every error, so that both
twins fail in the same words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias, cast

from rallypoint import twin
from rallypoint.errors import (
    BarrierTimeoutError,
    ConnectionLostError,
    DistNetworkError,
    LocalProtocolError,
    QueueEmptyError,
    RemoteProtocolError,
    ReplyTimeoutError,
    StoreTimeoutError,
)
from rallypoint.net.stream import lost, silent, translate
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import REQUEST_SIZE_MAX, Verb
from rallypoint.store import connections
from rallypoint.store.base import check_lengths, wait_timed_out
from rallypoint.store.calls import PythonClient, as_integer, barrier_timed_out, forked
from rallypoint.store.connections import Connection, Connections, connect
from rallypoint.types import Endpoint, Text, as_bytes, as_keys

if TYPE_CHECKING:
    from rallypoint._native import Client as NativeClient

__all__ = ["Client", "Helper", "make_client"]

Client: TypeAlias = "PythonClient | NativeClient"
"""Either twin."""


def make_client(public: Endpoint, timeout_s: float, *, via: Endpoint | None = None, is_careful: bool = False) -> Client:
    """Connect to a server, and give the client whose calls it will serve.

    Args:
        public: the server, as everybody calls it.
        timeout_s: seconds for connecting.
        via: where this process reaches it, if that is a shorter way.
        is_careful: assume torch's legacy server.

    Raises:
        ConnectTimeoutError: if nobody answered as a store does.
    """
    endpoint = via or public
    main = connect(public, timeout_s, via=via)
    module = twin.native()
    if not hasattr(module, "Client"):
        return PythonClient(Connections(endpoint, main, is_careful=is_careful))
    helper = Helper(endpoint, connect)
    return cast("NativeClient", module.Client(helper, helper.hand_over(main), is_careful, os.getpid()))


class Helper:
    """What the compiled client asks Python for. Errors are given to it, not raised.

    Args:
        endpoint: the server.
        reconnect: makes one more connection, within some seconds.

    Attributes:
        ends: the addresses of both ends of each connection handed over, by descriptor.
    """

    as_bytes = staticmethod(as_bytes)
    as_keys = staticmethod(as_keys)
    as_integer = staticmethod(as_integer)
    check_lengths = staticmethod(check_lengths)
    forked = staticmethod(forked)

    def __init__(self, endpoint: Endpoint, reconnect: Callable[[Endpoint, float], Connection]) -> None:
        self.endpoint = endpoint
        self.ends: dict[int, tuple[Endpoint, Endpoint]] = {}
        self._reconnect = reconnect

    def grace_s(self) -> float:
        """Give how much longer than the caller's timeout an answer may take that is owed at once."""
        return connections.REPLY_GRACE_S

    # --- connections -------------------------------------------------------------------------------------

    def connect(self, timeout_s: float) -> int:
        """Make a connection, and give its descriptor, which is the caller's from now on."""
        return self.hand_over(self._reconnect(self.endpoint, timeout_s))

    def hand_over(self, connection: Connection) -> int:
        """Take a connection's descriptor out of it."""
        stream = connection.stream
        ends = (stream.local, stream.peer)
        fd = stream.detach()
        self.ends[fd] = ends
        return fd

    # --- what a caller asked wrongly ---------------------------------------------------------------------

    def refused(self, verb: int, *fields: object) -> LocalProtocolError:
        """Give the encoder's refusal of a request that is over a limit."""
        try:
            encode_request(Verb(verb), *fields)
        except LocalProtocolError as error:
            return error
        raise AssertionError(f"{Verb(verb).name} is within the limits")

    def request_too_large(self, verb: int, size: int) -> LocalProtocolError:
        """Make the refusal of a request that is too long as a whole."""
        return LocalProtocolError(
            f"{Verb(verb).name} would be {size} bytes long, the limit for one request is {REQUEST_SIZE_MAX}"
        )

    # --- what did not come -------------------------------------------------------------------------------

    def expired(
        self, keys: Sequence[bytes], missing: Sequence[bytes], timeout_s: float, waited_s: float
    ) -> StoreTimeoutError:
        """Make the error of a wait whose time was up; the keys are the user's."""
        return wait_timed_out(keys, missing, timeout_s=timeout_s, waited_s=waited_s, endpoint=self.endpoint)

    def barrier_expired(
        self, key: Text, arrived: int | None, expected: int, timeout_s: float, waited_s: float
    ) -> BarrierTimeoutError:
        """Make the error of a barrier to which too few came."""
        return barrier_timed_out(
            key, arrived=arrived, expected=expected, timeout_s=timeout_s, waited_s=waited_s, endpoint=self.endpoint
        )

    def empty(self, text: str) -> QueueEmptyError:
        """Make the error of a queue without items."""
        return QueueEmptyError(text)

    # --- what went wrong on the way ----------------------------------------------------------------------

    def silent(self, what: str, waited_s: float) -> ReplyTimeoutError:
        """Make the error of a server that owes something."""
        return silent(self.endpoint, what, waited_s)

    def lost(self) -> ConnectionLostError:
        """Make the error of a connection that the server closed."""
        return lost(self.endpoint)

    def broken(self, number: int) -> DistNetworkError:
        """Make the error of a connection on which the system reports an error."""
        cause = OSError(number, os.strerror(number))
        error = translate(cause, self.endpoint)
        error.__cause__ = cause
        return error

    def ended(self, reason: str, cause: BaseException | None) -> ConnectionLostError:
        """Make the error of a client that has ended."""
        error = ConnectionLostError(reason, endpoint=self.endpoint)
        error.__cause__ = cause
        return error

    def remote(self, text: str) -> RemoteProtocolError:
        """Make the error of an answer that cannot be."""
        return RemoteProtocolError(text)

    def __repr__(self) -> str:
        return f"Helper({self.endpoint})"
