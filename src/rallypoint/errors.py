"""Every exception of the package, on one page.

::

    DistError(RuntimeError)
    ├── DistBackendError
    ├── DistStoreError                          the store could not do what was asked
    │   ├── QueueEmptyError                     a queue had no item
    │   ├── NotANumberError (ValueError)        add() met a value that is no 64-bit number: .key
    │   ├── StoreTimeoutError (TimeoutError)    keys did not appear in time: .keys .missing .waited_s .endpoint
    │   ├── WorkersMissingError (TimeoutError)  too few clients joined a new store: .arrived .expected .waited_s
    │   ├── BarrierTimeoutError (TimeoutError)  members did not arrive in time: .missing .waiting .arrived .expected
    │   ├── BarrierBrokenError                  a member of a barrier is known to be gone: .gone .expected .waited_s
    │   ├── DuplicateMemberError                a rank arrived twice in one generation: .member
    │   ├── LeaseLostError                      a lease, and what was held by it, ended early: .lease
    │   ├── LockTimeoutError (TimeoutError)     others held a lock all the time: .name .holder .waited_s
    │   ├── AccessDeniedError (PermissionError) the server's rules do not let this identity: .endpoint
    │   ├── RefusedError                        the server refuses this request, and says why: .reason
    │   ├── CorruptStoreError                   the data behind a store is torn or foreign: .path .offset
    │   └── ForkedStoreError                    a store was used in a process that inherited it: .owner_pid
    ├── DistNetworkError                        the network, or the peer behind it, failed
    │   ├── BindError (OSError)                 an address could not be listened on: .endpoint .errno
    │   ├── ConnectTimeoutError (TimeoutError)  nobody answered in time: .endpoint .waited_s .attempts
    │   ├── ReplyTimeoutError (TimeoutError)    the server took a request and stayed silent: .endpoint .waited_s
    │   ├── ConnectionLostError (ConnectionError) the peer closed or reset the connection: .endpoint
    │   │   ├── SessionLostError                the server has forgotten the session, or lost its data
    │   │   └── UnreachableError (TimeoutError) no new connection could be made in time: .waited_s .unreachable_s
    │   ├── AuthenticationError                 who the peer is, or who we are, could not be proven: .endpoint
    │   └── RemoteProtocolError                 the peer broke the protocol: .endpoint
    ├── LocalProtocolError (ValueError)         the caller asked for what the protocol cannot carry
    ├── RendezvousError                         who takes part could not be agreed
    │   ├── RendezvousClosedError               the run has ended: .outcome
    │   ├── RendezvousTimeoutError (TimeoutError) too few nodes came in time: .waited_s .arrived .expected
    │   ├── RendezvousConnectionError (ConnectionError) the backend cannot be reached
    │   ├── RendezvousStateError                the backend's state is corrupt or foreign
    │   └── RendezvousGracefulExitError         not a failure: this node is no longer needed
    └── AgentError                              the workers of this node
        ├── ChildFailedError                    workers failed: .name .failures (in rallypoint.agent.failure)
        ├── WorkerStartError                    a worker could not be started: .local_rank .argv .errno
        └── SignalException                     a signal asked the launcher to stop: .sigval

Two axes: the layer, and whose fault. Every timeout is also a ``TimeoutError``, every lost connection also a
``ConnectionError``, and all of them are ``RuntimeError``, so that ``except RuntimeError`` and ``except
DistStoreError`` written for torch go on working. Each instance carries its data; ``str()`` is one sentence with
the numbers in it.

Source: names and bases of the Dist* and Rendezvous* classes as observed in torch 2.13.0.
"""

from __future__ import annotations

from collections.abc import Sequence

from rallypoint.types import Endpoint, Member

__all__ = [
    "AccessDeniedError",
    "AgentError",
    "AuthenticationError",
    "BarrierBrokenError",
    "BarrierTimeoutError",
    "BindError",
    "ConnectTimeoutError",
    "ConnectionLostError",
    "CorruptStoreError",
    "DistBackendError",
    "DistError",
    "DistNetworkError",
    "DistStoreError",
    "DuplicateMemberError",
    "ForkedStoreError",
    "LeaseLostError",
    "LocalProtocolError",
    "LockTimeoutError",
    "NotANumberError",
    "QueueEmptyError",
    "RefusedError",
    "RemoteProtocolError",
    "RendezvousClosedError",
    "RendezvousConnectionError",
    "RendezvousError",
    "RendezvousGracefulExitError",
    "RendezvousStateError",
    "RendezvousTimeoutError",
    "ReplyTimeoutError",
    "SessionLostError",
    "SignalException",
    "StoreTimeoutError",
    "UnreachableError",
    "WorkerStartError",
    "WorkersMissingError",
]


class DistError(RuntimeError):
    """The root of all errors of this package.

    Instances survive being copied and being sent between processes, their data included.
    """

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[DistError], args: tuple[object, ...], data: dict[str, object]) -> DistError:
    # The attribute kind.__new__ is RuntimeError's, which refuses classes laid out as OSError.
    new = OSError.__new__ if issubclass(kind, OSError) else RuntimeError.__new__
    error: DistError = new(kind, *args)
    error.args = args
    for name, value in data.items():
        setattr(error, name, value)
    return error


class DistBackendError(DistError):
    """A communication backend failed; kept for code that catches torch's name."""


# --- stores ----------------------------------------------------------------------------------------------


class DistStoreError(DistError):
    """A store could not do what was asked."""


class QueueEmptyError(DistStoreError):
    """A queue had no item, or another caller took it first."""


class NotANumberError(DistStoreError, ValueError):
    """``add`` met a value that is not the decimal text of a 64-bit number.

    Attributes:
        key: the counter, as the caller named it.
    """

    def __init__(self, message: str, *, key: str) -> None:
        super().__init__(message)
        self.key = key


class StoreTimeoutError(DistStoreError, TimeoutError):
    """Keys did not appear in time.

    Attributes:
        keys: the keys that were waited for, as the caller named them.
        missing: those of them that were not there when the time was up.
        waited_s: how long the caller waited, in seconds.
        endpoint: the server that was asked, or ``None`` for a store without one.
    """

    def __init__(
        self,
        message: str,
        *,
        keys: Sequence[str] = (),
        missing: Sequence[str] = (),
        waited_s: float = 0.0,
        endpoint: Endpoint | None = None,
    ) -> None:
        super().__init__(message)
        self.keys = tuple(keys)
        self.missing = tuple(missing)
        self.waited_s = waited_s
        self.endpoint = endpoint


class WorkersMissingError(DistStoreError, TimeoutError):
    """Too few clients joined a new store in time.

    Attributes:
        arrived: the clients that joined, the server's own included.
        expected: the world size that was waited for.
        waited_s: how long, in seconds.
        endpoint: where the server listens.
    """

    def __init__(
        self, message: str, *, arrived: int, expected: int, waited_s: float, endpoint: Endpoint | None = None
    ) -> None:
        super().__init__(message)
        self.arrived = arrived
        self.expected = expected
        self.waited_s = waited_s
        self.endpoint = endpoint


class BarrierTimeoutError(DistStoreError, TimeoutError):
    """Members of a barrier did not arrive in time.

    Attributes:
        missing: the members that did not come, decoded for people; empty where members gave no name.
        missing_members: the same with rank and label, where members have ranks.
        waiting: the members that did come, the caller aside, with the times that they have waited.
        arrived: how many came; at most so many where more members are missing than the server names.
        expected: how many were waited for.
        waited_s: how long the caller waited, in seconds.
        endpoint: the server behind the barrier, where there is one.
    """

    def __init__(
        self,
        message: str,
        *,
        missing: Sequence[str] = (),
        missing_members: Sequence[Member] = (),
        waiting: Sequence[Member] = (),
        arrived: int,
        expected: int,
        waited_s: float,
        endpoint: Endpoint | None = None,
    ) -> None:
        super().__init__(message)
        self.missing = tuple(missing)
        self.missing_members = tuple(missing_members)
        self.waiting = tuple(waiting)
        self.arrived = arrived
        self.expected = expected
        self.waited_s = waited_s
        self.endpoint = endpoint


class BarrierBrokenError(DistStoreError):
    """A member of a barrier or an exchange is known to be gone, so that it cannot become complete.

    Attributes:
        gone: the members that are gone, decoded for people.
        gone_members: the same with rank and label.
        expected: how many members were waited for.
        waited_s: how long the caller waited, in seconds.
        endpoint: the server behind the barrier, where there is one.
    """

    def __init__(
        self,
        message: str,
        *,
        gone: Sequence[str] = (),
        gone_members: Sequence[Member] = (),
        expected: int,
        waited_s: float,
        endpoint: Endpoint | None = None,
    ) -> None:
        super().__init__(message)
        self.gone = tuple(gone)
        self.gone_members = tuple(gone_members)
        self.expected = expected
        self.waited_s = waited_s
        self.endpoint = endpoint


class DuplicateMemberError(DistStoreError):
    """One member arrived twice in one generation of a barrier: two processes hold the same rank.

    Attributes:
        member: the member, decoded for people.
    """

    def __init__(self, message: str, *, member: str) -> None:
        super().__init__(message)
        self.member = member


class AccessDeniedError(DistStoreError, PermissionError):
    """The server's access rules do not let this identity do what was asked; nothing was changed.

    Attributes:
        endpoint: the server; ``None`` where there is none.
    """

    def __init__(self, message: str, *, endpoint: Endpoint | None = None) -> None:
        super().__init__(message)
        self.endpoint = endpoint


class LeaseLostError(DistStoreError):
    """A lease ended before its holder ended it, and with it what was held by it: a lock, an office.

    Attributes:
        lease: the lease's number.
    """

    def __init__(self, message: str, *, lease: int) -> None:
        super().__init__(message)
        self.lease = lease


class LockTimeoutError(DistStoreError, TimeoutError):
    """Others held a lock, or an office, until the time was up.

    Attributes:
        name: the lock's.
        holder: the label of whoever holds it, where it is known.
        waited_s: how long the caller waited, in seconds.
    """

    def __init__(self, message: str, *, name: str, holder: str | None = None, waited_s: float = 0.0) -> None:
        super().__init__(message)
        self.name = name
        self.holder = holder
        self.waited_s = waited_s


class RefusedError(DistStoreError):
    """The server took a request and refuses to do it; nothing was changed, and others may follow.

    Attributes:
        reason: the code of the reason, a word such as ``"no_such_lease"``.
        endpoint: the server.
    """

    def __init__(self, message: str, *, reason: str, endpoint: Endpoint | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.endpoint = endpoint


class CorruptStoreError(DistStoreError):
    """The data behind a store is torn, truncated or of another kind.

    Attributes:
        path: the file.
        offset: the byte at which the first bad record begins.
    """

    def __init__(self, message: str, *, path: str, offset: int) -> None:
        super().__init__(message)
        self.path = path
        self.offset = offset


class ForkedStoreError(DistStoreError):
    """A store was used in a process that inherited it by ``fork``.

    Attributes:
        owner_pid: the process that made the store.
    """

    def __init__(self, message: str, *, owner_pid: int) -> None:
        super().__init__(message)
        self.owner_pid = owner_pid


# --- network ---------------------------------------------------------------------------------------------


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
        return _rebuild, (type(self), self.args, {**self.__dict__, "errno": self.errno})

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
    """


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


class LocalProtocolError(DistError, ValueError):
    """The caller asked for something that the protocol cannot carry: a key too long, a value too large."""


# --- rendezvous ------------------------------------------------------------------------------------------


class RendezvousError(DistError):
    """Who takes part in a run could not be agreed."""


class RendezvousClosedError(RendezvousError):
    """The run has ended and takes nobody in any more.

    Attributes:
        outcome: ``"succeeded"``, ``"failed"`` or ``"closed"`` (told to), where it is known.
    """

    def __init__(self, message: str = "the rendezvous is closed", *, outcome: str | None = None) -> None:
        super().__init__(message)
        self.outcome = outcome


class RendezvousTimeoutError(RendezvousError, TimeoutError):
    """Too few nodes came, or the store did not answer, before the caller's deadline.

    Attributes:
        waited_s: how long, in seconds.
        arrived: the nodes that were there.
        expected: the fewest nodes that would have done.
    """

    def __init__(
        self,
        message: str = "the rendezvous timed out",
        *,
        waited_s: float = 0.0,
        arrived: int | None = None,
        expected: int | None = None,
    ) -> None:
        super().__init__(message)
        self.waited_s = waited_s
        self.arrived = arrived
        self.expected = expected


class RendezvousConnectionError(RendezvousError, ConnectionError):
    """The rendezvous backend cannot be reached."""


class RendezvousStateError(RendezvousError):
    """The state that the rendezvous backend holds is corrupt, or of another kind than ours."""


class RendezvousGracefulExitError(RendezvousError):
    """Not a failure: the run ended while this node stood by, and it is no longer needed."""


# --- agent -----------------------------------------------------------------------------------------------


class AgentError(DistError):
    """Something went wrong around the workers of this node."""


class WorkerStartError(AgentError):
    """A worker could not be started; those that already ran have been ended.

    Attributes:
        local_rank: which worker.
        argv: its command.
        errno: the system's error number, ``errno.ENOENT`` for a missing program.
    """

    def __init__(self, message: str, *, local_rank: int, argv: Sequence[str], errno: int | None = None) -> None:
        super().__init__(message)
        self.local_rank = local_rank
        self.argv = tuple(argv)
        self.errno = errno


class SignalException(AgentError):  # noqa: N818 - torch's name
    """A signal asked the launcher to stop.

    Attributes:
        sigval: the signal's number.
    """

    def __init__(self, message: str, sigval: int) -> None:
        super().__init__(message)
        self.sigval = sigval
