"""The calls of a TCP store in Python: what users say becomes wire keys, a call of ``protocol.client``, and errors.

One method for each call, each with its *patience* last: the seconds that the caller waits, or the store whose own
timeout counts, which is asked only if there is something to wait for. ``rallypoint._native.Client`` is the compiled
twin of :class:`PythonClient`; ``store.native`` says how the two meet.

Keys are the user's; on the wire a ``/`` stands in front of them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Protocol, TypeAlias, TypeVar

from rallypoint.errors import BarrierTimeoutError, ForkedStoreError
from rallypoint.protocol import client
from rallypoint.store.base import check_lengths, decode_key, wait_timed_out
from rallypoint.store.connections import Begin, Connections
from rallypoint.types import Endpoint, Keys, Text, as_bytes, as_keys

__all__ = ["WORKER_COUNT", "Patience", "Patient", "PythonClient", "as_integer", "barrier_timed_out", "forked"]

T = TypeVar("T")

WORKER_COUNT = b"init/"
"""Where joining clients count themselves; out of users' reach, whose keys begin with ``/``."""


class Patient(Protocol):
    """Something with a timeout of its own: a store."""

    @property
    def _timeout_s(self) -> float: ...


Patience: TypeAlias = float | Patient
"""How long a call may wait, in seconds, or whose timeout says so."""


def as_integer(number: int, what: str) -> int:
    """Give a plain ``int``.

    Raises:
        TypeError: for anything that is no ``int``.
    """
    if not isinstance(number, int):
        raise TypeError(f"{what} must be an int, not {type(number).__name__}")
    return int(number)


def barrier_timed_out(
    key: Text, *, arrived: int | None, expected: int, timeout_s: float, waited_s: float, endpoint: Endpoint
) -> BarrierTimeoutError:
    """Make the error of a barrier to which too few came; ``arrived`` is ``None`` if nobody knows how many."""
    return BarrierTimeoutError(
        f"barrier timeout after {int(timeout_s * 1000)}ms, key: {decode_key(key)} "
        f"({'?' if arrived is None else arrived} of {expected} came; waited {waited_s:.3f} s on {endpoint})",
        arrived=arrived or 0,
        expected=expected,
        waited_s=waited_s,
        endpoint=endpoint,
    )


def forked(owner_pid: int) -> ForkedStoreError:
    """Make the error of a store that is used in a process that inherited it."""
    return ForkedStoreError(
        f"this store belongs to process {owner_pid}, process {os.getpid()} inherited it by a fork: "
        "its connections cannot be shared; make a new TCPStore here, or use store.clone()",
        owner_pid=owner_pid,
    )


_forks = [0]  # how many forks lie between this process and the first that loaded this module


def _count_fork() -> None:
    _forks[0] += 1


os.register_at_fork(after_in_child=_count_fork)


def _wire(key: Text) -> bytes:
    return b"/" + as_bytes(key, "key")


def _wire_keys(keys: Keys) -> list[bytes]:
    return [b"/" + key for key in as_keys(keys)]


def _seconds(patience: Patience) -> float:
    return patience if isinstance(patience, float) else patience._timeout_s  # noqa: SLF001 - as the protocol above says


class PythonClient:
    """The calls, on connections that one process owns.

    Args:
        connections: as made; the client owns them from now on.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._owner_pid = os.getpid()
        self._generation = _forks[0]

    # --- keys and values ---------------------------------------------------------------------------------

    def set(self, key: Text, value: Text, patience: Patience) -> None:
        """Store a value."""
        wire, content = _wire(key), as_bytes(value)
        self._post(lambda _: client.set_value(wire, content), patience)

    def get(self, key: Text, patience: Patience) -> bytes:
        """Read a value, waiting for its key."""
        wire = _wire(key)
        return self._wait([wire], lambda is_careful: client.get(wire, is_careful=is_careful), patience)

    def add(self, key: Text, amount: int, patience: Patience) -> int:
        """Add to a counter; give the sum."""
        wire, delta = _wire(key), as_integer(amount, "amount")
        return self._run(lambda _: client.add(wire, delta), patience)

    def count_workers(self, amount: int, patience: Patience) -> int:
        """Add to the count of workers; give the sum."""
        return self._run(lambda _: client.add(WORKER_COUNT, amount), patience)

    def compare_set(self, key: Text, expected: Text, desired: Text, patience: Patience) -> bytes:
        """Replace a value if it is the expected one; give what is there then."""
        wire, old, new = _wire(key), as_bytes(expected, "expected"), as_bytes(desired, "desired")
        return self._run(lambda _: client.compare_set(wire, old, new), patience)

    def check(self, keys: Keys, patience: Patience) -> bool:
        """Tell whether all keys are there."""
        wires = _wire_keys(keys)
        return self._run(lambda _: client.check(wires), patience)

    def wait(self, keys: Keys, patience: Patience) -> None:
        """Wait until all keys are there."""
        wires = _wire_keys(keys)
        self._wait(wires, lambda _: client.wait(wires), patience)

    def delete_key(self, key: Text, patience: Patience) -> bool:
        """Remove a key; tell whether there was one."""
        wire = _wire(key)
        return self._run(lambda _: client.delete_key(wire), patience)

    def num_keys(self, patience: Patience) -> int:
        """Count the server's keys."""
        return self._run(lambda _: client.num_keys(), patience)

    def list_keys(self, patience: Patience) -> list[bytes]:
        """Give the wire keys that the server has."""
        return self._run(lambda _: client.list_keys(), patience)

    def append(self, key: Text, value: Text, patience: Patience) -> None:
        """Add to the end of a value."""
        wire, suffix = _wire(key), as_bytes(value)
        self._post(lambda _: client.append(wire, suffix), patience)

    def multi_get(self, keys: Keys, patience: Patience) -> list[bytes]:
        """Read several values, waiting for all keys."""
        wires = _wire_keys(keys)
        return self._wait(wires, lambda is_careful: client.multi_get(wires, is_careful=is_careful), patience)

    def multi_set(self, keys: Keys, values: Keys, patience: Patience) -> None:
        """Store several values at once."""
        wires, contents = _wire_keys(keys), as_keys(values)
        check_lengths(wires, contents)
        pairs = list(zip(wires, contents, strict=True))
        self._post(lambda _: client.multi_set(pairs), patience)

    # --- queues and barriers -----------------------------------------------------------------------------

    def queue_push(self, key: Text, value: Text, patience: Patience) -> None:
        """Put an item into a queue."""
        wire, item = _wire(key), as_bytes(value)
        self._post(lambda _: client.queue_push(wire, item), patience)

    def queue_pop(self, key: Text, block: bool, patience: Patience) -> bytes:
        """Take the oldest item of a queue, or wait for one."""
        wire, is_blocking = _wire(key), bool(block)
        return self._wait([wire], lambda _: client.queue_pop(wire, is_blocking=is_blocking), patience)

    def queue_len(self, key: Text, patience: Patience) -> int:
        """Count a queue's items."""
        wire = _wire(key)
        return self._run(lambda _: client.queue_len(wire), patience)

    def barrier(self, key: Text, world_size: int, patience: Patience) -> None:
        """Arrive, and wait until ``world_size`` callers have."""
        timeout_s = _seconds(patience)
        wire, size = _wire(key), as_integer(world_size, "world_size")
        started = time.monotonic()
        try:
            self._owned().run(lambda _: client.barrier(wire, size), timeout_s, settles=True)
        except client.WaitExpired as expired:
            raise barrier_timed_out(
                wire[1:],
                arrived=expired.arrived,
                expected=size,
                timeout_s=timeout_s,
                waited_s=time.monotonic() - started,
                endpoint=self._connections.endpoint,
            ) from None

    # --- the connections ---------------------------------------------------------------------------------

    def _owned(self) -> Connections:
        if self._generation != _forks[0]:
            raise forked(self._owner_pid)
        return self._connections

    def _run(self, begin: Begin[T], patience: Patience) -> T:
        return self._owned().run(begin, _seconds(patience))

    def _post(self, begin: Begin[None], patience: Patience) -> None:
        self._owned().post(begin, _seconds(patience))

    def _wait(self, wires: Sequence[bytes], begin: Begin[T], patience: Patience) -> T:
        timeout_s = _seconds(patience)
        started = time.monotonic()
        try:
            return self._owned().run(begin, timeout_s)
        except client.WaitExpired as expired:
            raise wait_timed_out(
                [wire[1:] for wire in wires],
                [wire[1:] for wire in expired.missing],
                timeout_s=timeout_s,
                waited_s=time.monotonic() - started,
                endpoint=self._connections.endpoint,
            ) from None

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
