"""What users say, turned into calls: wire keys, a call of ``protocol.client``, and the error if its time is up.

Both twins run these plans, ``store.calls.PythonClient`` every time, ``rallypoint._native.Client`` when a call does not
go its usual course. Keys are the user's; on the wire a ``/`` stands in front of them.

Every function here raises ``TypeError`` for arguments of a wrong type, and nothing else; limits are the encoder's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

from rallypoint.errors import BarrierTimeoutError, StoreTimeoutError
from rallypoint.protocol import client
from rallypoint.store.base import check_lengths, decode_key, wait_timed_out
from rallypoint.store.connections import Begin
from rallypoint.types import Endpoint, Keys, Text, as_bytes, as_keys

__all__ = [
    "WORKER_COUNT",
    "Plan",
    "add",
    "append",
    "barrier",
    "check",
    "compare_set",
    "count_workers",
    "delete_key",
    "get",
    "list_keys",
    "multi_get",
    "multi_set",
    "num_keys",
    "queue_len",
    "queue_pop",
    "queue_push",
    "set_value",
    "wait",
]

T = TypeVar("T")

WORKER_COUNT = b"init/"
"""Where joining clients count themselves; out of users' reach, whose keys begin with ``/``."""


class Plan(Generic[T]):
    """A call that can be begun.

    Attributes:
        begin: makes the call, given whether the server must be asked carefully.
        wires: the wire keys that it may wait for.
        settles: it may wait without asking anything first.
    """

    __slots__ = ("begin", "settles", "wires")

    def __init__(self, begin: Begin[T], wires: Sequence[bytes] = (), *, settles: bool = False) -> None:
        self.begin = begin
        self.wires = wires
        self.settles = settles

    def explain(
        self, expired: client.WaitExpired, timeout_s: float, waited_s: float, endpoint: Endpoint
    ) -> StoreTimeoutError | BarrierTimeoutError:
        """Make the error that the user sees when the call's time was up."""
        return wait_timed_out(
            [wire[1:] for wire in self.wires],
            [wire[1:] for wire in expired.missing],
            timeout_s=timeout_s,
            waited_s=waited_s,
            endpoint=endpoint,
        )


class _Barrier(Plan[None]):
    """A barrier, whose error tells how many came."""

    __slots__ = ("world_size",)

    def __init__(self, begin: Begin[None], wire: bytes, world_size: int) -> None:
        super().__init__(begin, [wire], settles=True)
        self.world_size = world_size

    def explain(
        self, expired: client.WaitExpired, timeout_s: float, waited_s: float, endpoint: Endpoint
    ) -> BarrierTimeoutError:
        arrived = expired.arrived
        return BarrierTimeoutError(
            f"barrier timeout after {int(timeout_s * 1000)}ms, key: {decode_key(self.wires[0][1:])} "
            f"({'?' if arrived is None else arrived} of {self.world_size} came; waited {waited_s:.3f} s on {endpoint})",
            arrived=arrived or 0,
            expected=self.world_size,
            waited_s=waited_s,
            endpoint=endpoint,
        )


def _wire(key: Text) -> bytes:
    return b"/" + as_bytes(key, "key")


def _wire_keys(keys: Keys) -> list[bytes]:
    return [b"/" + key for key in as_keys(keys)]


def _as_integer(number: int, what: str) -> int:
    if not isinstance(number, int):
        raise TypeError(f"{what} must be an int, not {type(number).__name__}")
    return int(number)


# --- keys and values -------------------------------------------------------------------------------------


def set_value(key: Text, value: Text) -> Plan[None]:
    """Store a value."""
    wire, content = _wire(key), as_bytes(value)
    return Plan(lambda _: client.set_value(wire, content))


def get(key: Text) -> Plan[bytes]:
    """Read a value, waiting for its key."""
    wire = _wire(key)
    return Plan(lambda is_careful: client.get(wire, is_careful=is_careful), [wire])


def add(key: Text, amount: int) -> Plan[int]:
    """Add to a counter; give the sum."""
    wire, delta = _wire(key), _as_integer(amount, "amount")
    return Plan(lambda _: client.add(wire, delta))


def count_workers(amount: int) -> Plan[int]:
    """Add to the count of workers; give the sum."""
    return Plan(lambda _: client.add(WORKER_COUNT, amount))


def compare_set(key: Text, expected: Text, desired: Text) -> Plan[bytes]:
    """Replace a value if it is the expected one; give what is there then."""
    wire, old, new = _wire(key), as_bytes(expected, "expected"), as_bytes(desired, "desired")
    return Plan(lambda _: client.compare_set(wire, old, new))


def check(keys: Keys) -> Plan[bool]:
    """Tell whether all keys are there."""
    wires = _wire_keys(keys)
    return Plan(lambda _: client.check(wires))


def wait(keys: Keys) -> Plan[None]:
    """Wait until all keys are there."""
    wires = _wire_keys(keys)
    return Plan(lambda _: client.wait(wires), wires)


def delete_key(key: Text) -> Plan[bool]:
    """Remove a key; tell whether there was one."""
    wire = _wire(key)
    return Plan(lambda _: client.delete_key(wire))


def num_keys() -> Plan[int]:
    """Count the server's keys."""
    return Plan(lambda _: client.num_keys())


def list_keys() -> Plan[list[bytes]]:
    """Give the wire keys that the server has."""
    return Plan(lambda _: client.list_keys())


def append(key: Text, value: Text) -> Plan[None]:
    """Add to the end of a value."""
    wire, suffix = _wire(key), as_bytes(value)
    return Plan(lambda _: client.append(wire, suffix))


def multi_get(keys: Keys) -> Plan[list[bytes]]:
    """Read several values, waiting for all keys."""
    wires = _wire_keys(keys)
    return Plan(lambda is_careful: client.multi_get(wires, is_careful=is_careful), wires)


def multi_set(keys: Keys, values: Keys) -> Plan[None]:
    """Store several values at once.

    Raises:
        DistStoreError: if there are not as many values as keys.
    """
    wires, contents = _wire_keys(keys), as_keys(values)
    check_lengths(wires, contents)
    pairs = list(zip(wires, contents, strict=True))
    return Plan(lambda _: client.multi_set(pairs))


# --- queues and barriers ---------------------------------------------------------------------------------


def queue_push(key: Text, value: Text) -> Plan[None]:
    """Put an item into a queue."""
    wire, item = _wire(key), as_bytes(value)
    return Plan(lambda _: client.queue_push(wire, item))


def queue_pop(key: Text, block: bool) -> Plan[bytes]:
    """Take the oldest item of a queue, or wait for one."""
    wire, is_blocking = _wire(key), bool(block)
    return Plan(lambda _: client.queue_pop(wire, is_blocking=is_blocking), [wire])


def queue_len(key: Text) -> Plan[int]:
    """Count a queue's items."""
    wire = _wire(key)
    return Plan(lambda _: client.queue_len(wire))


def barrier(key: Text, world_size: int) -> Plan[None]:
    """Arrive, and wait until ``world_size`` callers have."""
    wire, size = _wire(key), _as_integer(world_size, "world_size")
    return _Barrier(lambda _: client.barrier(wire, size), wire, size)
