"""Which client a TCP store has, the compiled or the Python one, and what the compiled one leaves to Python.

``rallypoint._native.Client`` runs a call that goes its usual course from the user's arguments to the result. All else
it asks of a :class:`Helper`: connections, whose making has names, retries and a handshake in it; the plan of a call
that has to wait, or meets a limit or an answer that is not the usual one, to be driven from where it stands; errors.
Hence both twins send the same bytes and fail in the same words.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, cast

from rallypoint import twin
from rallypoint.clock import Deadline
from rallypoint.errors import (
    BarrierTimeoutError,
    ConnectionLostError,
    DistNetworkError,
    ForkedStoreError,
    ReplyTimeoutError,
    StoreTimeoutError,
)
from rallypoint.net.loss import lost, silent, translate
from rallypoint.protocol import client
from rallypoint.store import connections, plans
from rallypoint.store.calls import PythonClient, forked
from rallypoint.store.connection import IN_STEP, Connection, ping
from rallypoint.store.connections import Connections
from rallypoint.store.credentials import NO_CREDENTIALS, Credentials
from rallypoint.store.lane import open_lane
from rallypoint.store.reach import SESSION_TIMEOUT_S, Reacher
from rallypoint.store.route import connect
from rallypoint.store.session import SessionClient
from rallypoint.store.trunk import Trunk
from rallypoint.types import Endpoint

if TYPE_CHECKING:
    from rallypoint._native import Client as NativeClient

__all__ = ["Client", "Helper", "make_client"]

Client: TypeAlias = "PythonClient | NativeClient | SessionClient"
"""Either twin, or the client of a session."""


def make_client(
    public: Endpoint,
    timeout_s: float,
    *,
    via: Endpoint | None = None,
    is_careful: bool = False,
    spin_us: int = 0,
    dialect: str = "c10d",
    others: Sequence[Endpoint] = (),
    credentials: Credentials = NO_CREDENTIALS,
    session_timeout_s: float = SESSION_TIMEOUT_S,
) -> Client:
    """Connect to a server, and give the client whose calls it will serve.

    Args:
        public: the server, as everybody calls it.
        timeout_s: seconds for connecting.
        via: where this process reaches it, if that is a shorter way.
        is_careful: assume torch's legacy server.
        spin_us: how long to look for a reply before sleeping, in microseconds.
        dialect: ``"session"``, ``"c10d"``, or ``"auto"`` for what the server speaks.
        others: where the server may be found, too; not in c10d, which could not tell whether it is the same.
        credentials: what both sides prove. The compiled client knows no TLS: with it the Python one is given.
        session_timeout_s: how long a session asks to outlive its connection, in seconds.

    Raises:
        ConnectTimeoutError: if nobody answered as a store does.
        AuthenticationError: there is a token, and one side cannot prove that it has it.
    """
    endpoint = via or public
    module = twin.native()
    if dialect != "c10d":
        deadline = Deadline(timeout_s)
        reacher = Reacher(
            (public, *others),
            via=via,
            credentials=credentials,
            spin_us=spin_us,
            session_timeout_s=session_timeout_s,
        )
        link = reacher.open(timeout_s, may_be_plain=dialect == "auto")
        if link is not None:
            session = SessionClient(Trunk(endpoint, link, reacher))
            if module is not None and credentials.tls is None:
                open_lane(session, module)
            return session
        timeout_s = deadline.remaining_s()
    # A server that must be asked carefully is asked about no queue either.
    reach = partial(connect, spin_us=spin_us, is_direct=is_careful, tls=credentials.tls)
    main = reach(public, timeout_s, via=via)
    if module is None or credentials.tls is not None:
        return PythonClient(Connections(endpoint, main, is_careful=is_careful, reconnect=reach))
    helper = Helper(endpoint, reach)
    return cast("NativeClient", module.Client(helper, helper.hand_over(main), is_careful, spin_us))


class Helper:
    """What the compiled client asks Python for. Errors are given to it, not raised.

    Args:
        endpoint: the server.
        reconnect: makes one more connection, within some seconds.
    """

    plans = plans
    ping = staticmethod(ping)
    lost_error = ConnectionLostError
    legacy_error = client.LegacyServerError
    expired_error = client.WaitExpired
    in_step_errors = IN_STEP
    judged_errors = (lost_error, expired_error)  # what a call may go on after

    def __init__(self, endpoint: Endpoint, reconnect: Callable[[Endpoint, float], Connection]) -> None:
        self.endpoint = endpoint
        self._reconnect = reconnect
        self._owner_pid = os.getpid()
        self._ends: dict[int, tuple[Endpoint, Endpoint]] = {}

    def grace_s(self) -> float:
        """Give how much longer than the caller's timeout an answer may take that is owed at once."""
        return connections.REPLY_GRACE_S

    def connect(self, timeout_s: float) -> int:
        """Make a connection, and give its descriptor, which is the caller's from now on."""
        return self.hand_over(self._reconnect(self.endpoint, timeout_s))

    def hand_over(self, connection: Connection) -> int:
        """Take a connection's descriptor out of it."""
        stream = connection.stream
        ends = (stream.local, stream.peer)
        fd = stream.detach()
        self._ends[fd] = ends
        return fd

    def ends(self, fd: int) -> tuple[int, Endpoint, Endpoint]:
        """Give a connection's descriptor and the addresses of its ends."""
        return (fd, *self._ends[fd])

    def forked(self) -> ForkedStoreError:
        """Make the error of a client in a process that inherited it."""
        return forked(self._owner_pid)

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

    def explained(
        self, plan: plans.Plan[object], expired: client.WaitExpired, timeout_s: float, waited_s: float
    ) -> StoreTimeoutError | BarrierTimeoutError:
        """Make the error that the user sees when a call's time was up."""
        return plan.explain(expired, timeout_s, waited_s, self.endpoint)
