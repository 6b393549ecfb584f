"""The calls of a TCP store in Python: each is a plan of ``store.plans``, run on ``store.connections``.

One method for each call, each with its *patience* last: the seconds that the caller waits, or the store whose own
timeout counts. ``rallypoint._native.Client`` is the compiled twin of :class:`PythonClient`, with the same methods.
"""

from __future__ import annotations

import os
import time
import weakref
from abc import ABC, abstractmethod
from typing import Protocol, TypeAlias, TypeVar

from rallypoint.errors import DistNetworkError, ForkedStoreError
from rallypoint.protocol import client
from rallypoint.store import plans
from rallypoint.store.connections import Connections
from rallypoint.store.plans import Plan
from rallypoint.types import Endpoint, Keys, Text

__all__ = ["Inherited", "Patience", "Patient", "PythonClient", "forked"]

T = TypeVar("T")


class Patient(Protocol):
    """Something with a timeout of its own: a store."""

    @property
    def _timeout_s(self) -> float: ...


Patience: TypeAlias = float | Patient
"""How long a call may wait, in seconds, or whose timeout says so."""

_forks = [0]  # how many forks lie between this process and the one that loaded this module


_clients: weakref.WeakSet[Inherited] = weakref.WeakSet()


def _count_fork() -> None:
    _forks[0] += 1
    for inherited in list(_clients):
        inherited.close("it belongs to another process")  # a call that goes on in a signal's handler must read nothing


os.register_at_fork(after_in_child=_count_fork)


def forked(owner_pid: int) -> ForkedStoreError:
    """Make the error of a store that is used in a process that inherited it."""
    return ForkedStoreError(
        f"this store belongs to process {owner_pid}, process {os.getpid()} inherited it by a fork: "
        "its connections cannot be shared; make a new TCPStore here, or use store.clone()",
        owner_pid=owner_pid,
    )


class Inherited(ABC):
    """A client that a forked child inherits, and must not use.

    Attributes:
        owner_pid: the process that made it.
    """

    def __init__(self) -> None:
        self.owner_pid = os.getpid()
        self._generation = _forks[0]
        _clients.add(self)

    def check_owner(self) -> None:
        """Refuse in any process but the owner.

        Raises:
            ForkedStoreError: this is another.
        """
        if self._generation != _forks[0]:
            raise forked(self.owner_pid) from None

    @abstractmethod
    def close(self, reason: str) -> None:
        """Close every connection; later calls, and those that other threads have under way, are told why."""


class PythonClient(Inherited):
    """The calls, on connections that one process owns.

    Args:
        connections: as made; the client owns them from now on.
    """

    def __init__(self, connections: Connections) -> None:
        super().__init__()
        self._connections = connections

    def _run(self, plan: Plan[T], patience: Patience) -> T:
        self.check_owner()
        connections = self._connections
        timeout_s = patience if isinstance(patience, float) else patience._timeout_s  # noqa: SLF001 - see Patient
        started = time.monotonic()
        try:
            return connections.run(plan.begin, timeout_s, settles=plan.settles)
        except client.WaitExpired as expired:
            waited_s = time.monotonic() - started
            raise plan.explain(expired, timeout_s, waited_s, connections.endpoint) from None
        except DistNetworkError:
            self.check_owner()
            raise

    def _post(self, plan: Plan[None], patience: Patience) -> None:
        self.check_owner()
        timeout_s = patience if isinstance(patience, float) else patience._timeout_s  # noqa: SLF001 - see Patient
        try:
            self._connections.post(plan.begin, timeout_s)
        except DistNetworkError:
            self.check_owner()
            raise

    # --- the calls, as the store's ----------------------------------------------------------------------

    def set(self, key: Text, value: Text, patience: Patience) -> None:  # noqa: D102 - as plans.set_value
        self._post(plans.set_value(key, value), patience)

    def get(self, key: Text, patience: Patience) -> bytes:  # noqa: D102 - as the plan, so are all of these
        return self._run(plans.get(key), patience)

    def add(self, key: Text, amount: int, patience: Patience) -> int:  # noqa: D102
        return self._run(plans.add(key, amount), patience)

    def count_workers(self, amount: int, patience: Patience) -> int:  # noqa: D102
        return self._run(plans.count_workers(amount), patience)

    def compare_set(self, key: Text, expected: Text, desired: Text, patience: Patience) -> bytes:  # noqa: D102
        return self._run(plans.compare_set(key, expected, desired), patience)

    def check(self, keys: Keys, patience: Patience) -> bool:  # noqa: D102
        return self._run(plans.check(keys), patience)

    def wait(self, keys: Keys, patience: Patience) -> None:  # noqa: D102
        self._run(plans.wait(keys), patience)

    def delete_key(self, key: Text, patience: Patience) -> bool:  # noqa: D102
        return self._run(plans.delete_key(key), patience)

    def num_keys(self, patience: Patience) -> int:  # noqa: D102
        return self._run(plans.num_keys(), patience)

    def list_keys(self, patience: Patience) -> list[bytes]:  # noqa: D102
        return self._run(plans.list_keys(), patience)

    def append(self, key: Text, value: Text, patience: Patience) -> None:  # noqa: D102
        self._post(plans.append(key, value), patience)

    def multi_get(self, keys: Keys, patience: Patience) -> list[bytes]:  # noqa: D102
        return self._run(plans.multi_get(keys), patience)

    def multi_set(self, keys: Keys, values: Keys, patience: Patience) -> None:  # noqa: D102
        self._post(plans.multi_set(keys, values), patience)

    def queue_push(self, key: Text, value: Text, patience: Patience) -> None:  # noqa: D102
        self._post(plans.queue_push(key, value), patience)

    def queue_pop(self, key: Text, block: bool, patience: Patience) -> bytes:  # noqa: D102
        return self._run(plans.queue_pop(key, block), patience)

    def queue_len(self, key: Text, patience: Patience) -> int:  # noqa: D102
        return self._run(plans.queue_len(key), patience)

    def barrier(self, key: Text, world_size: int, patience: Patience) -> None:  # noqa: D102
        self._run(plans.barrier(key, world_size), patience)

    # --- the connections ---------------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Tell whether a call waits on the main connection."""
        return self._connections.is_waiting

    def ends(self) -> tuple[int, Endpoint, Endpoint] | None:
        """Give the main connection's descriptor and the addresses of both ends; ``None`` if it is closed."""
        stream = self._connections.main.stream
        return None if stream.fileno() == -1 else (stream.fileno(), stream.local, stream.peer)

    def close(self, reason: str) -> None:
        """Close every connection; later calls, and those that other threads have under way, are told why."""
        self._connections.close(reason)
