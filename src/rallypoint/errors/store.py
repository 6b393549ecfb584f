"""What a store could not do."""

from __future__ import annotations

from collections.abc import Sequence

from rallypoint.errors.root import DistError
from rallypoint.types import Endpoint, Member

__all__ = [
    "AccessDeniedError",
    "BarrierBrokenError",
    "BarrierTimeoutError",
    "CorruptStoreError",
    "DistStoreError",
    "DuplicateMemberError",
    "ForkedStoreError",
    "LeaseLostError",
    "LockTimeoutError",
    "NotANumberError",
    "QueueEmptyError",
    "RefusedError",
    "StoreTimeoutError",
    "WorkersMissingError",
]


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
