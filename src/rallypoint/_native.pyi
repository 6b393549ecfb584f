"""The compiled twin as Python sees it."""

from typing import TypeAlias

from rallypoint.store.calls import Patience
from rallypoint.store.native import Helper
from rallypoint.types import Endpoint, Keys, Text

RawEffect: TypeAlias = tuple[int] | tuple[int, bytes] | tuple[int, int, str]
"""``(peer,)`` a pause, ``(peer, bytes)`` a reply, ``(peer, position in CloseReason, detail)`` a close."""

class Engine:
    """One server's state without sockets.

    Args:
        limits: the fields of ``Limits``, in their order.

    Raises:
        OSError: if the system gives no random bytes.
    """

    def __new__(cls, limits: tuple[float, int, int, int, int, int, int, int], /) -> Engine: ...
    def step(self, event: int, peer: int, data: bytes, now: float, /) -> list[RawEffect]:
        """Take an event: 0 connected, 1 received, 2 resumed, 3 disconnected, 4 ticked.

        Raises:
            AssertionError: if a peer of that number is connected already.
        """

    def next_deadline(self) -> float | None: ...
    def statistics(self) -> list[int]:
        """Give the fields of ``Statistics`` in their order, then, for each ``CloseReason``, how many were closed."""

class Reactor:
    """One server, engine and loop, on a thread of its own that never needs the interpreter lock.

    Args:
        limits: the fields of ``Limits``, in their order.
        listeners: descriptors of bound and listening sockets; they belong to the reactor, unless there is an error.
        linger_s: how long a refused peer may take to read the end of its stream, in seconds.
        spin_s: how long to look for events before sleeping, after the last ones, in seconds.

    Raises:
        OSError: if there are no descriptors left.

    In a forked child there is no reactor any more: its copies of all descriptors are closed, and calls do nothing.
    """

    def __new__(
        cls,
        limits: tuple[float, int, int, int, int, int, int, int],
        listeners: tuple[int, ...],
        linger_s: float,
        spin_s: float,
        /,
    ) -> Reactor: ...
    def start(self) -> None:
        """Start the thread; once.

        Raises:
            OSError: if the system gives none.
        """

    def stop(self, drain_s: float, /) -> None:
        """End the thread, after draining for ``drain_s`` seconds at most. Safe in a Python signal handler."""

    def join(self) -> None:
        """Wait for the end of the thread, without the interpreter lock, and give back all descriptors."""

    def fileno(self) -> int:
        """Give the descriptor that can be read when there are notices, or when the answers below have changed."""

    def take_notices(self) -> tuple[int, bytes]:
        """Give what was refused since the last call.

        Returns:
            How many were left out because nobody took them, and the others, a zero byte behind each: the position of
            the reason in ``CloseReason``, or -1, a space and one line.
        """

    def has_ended(self) -> bool:
        """Tell whether the thread has served its last."""

    def is_listening(self) -> bool:
        """Tell whether the listeners are open."""

    def statistics(self) -> list[int]:
        """Give the fields of ``Statistics`` in their order, then, for each ``CloseReason``, how many were closed."""

    def connections(self) -> list[int]:
        """Give three numbers for each connection: its descriptor, the bytes that it is owed, whether it is blocked."""

class Client:
    """The twin of ``store.calls.PythonClient``: the same calls, on connections of its own."""

    def __new__(cls, helper: Helper, fd: int, is_careful: bool, spin_us: int, owner_pid: int, /) -> Client: ...
    def set(self, key: Text, value: Text, patience: Patience, /) -> None: ...
    def get(self, key: Text, patience: Patience, /) -> bytes: ...
    def add(self, key: Text, amount: int, patience: Patience, /) -> int: ...
    def count_workers(self, amount: int, patience: Patience, /) -> int: ...
    def compare_set(self, key: Text, expected: Text, desired: Text, patience: Patience, /) -> bytes: ...
    def check(self, keys: Keys, patience: Patience, /) -> bool: ...
    def wait(self, keys: Keys, patience: Patience, /) -> None: ...
    def delete_key(self, key: Text, patience: Patience, /) -> bool: ...
    def num_keys(self, patience: Patience, /) -> int: ...
    def list_keys(self, patience: Patience, /) -> list[bytes]: ...
    def append(self, key: Text, value: Text, patience: Patience, /) -> None: ...
    def multi_get(self, keys: Keys, patience: Patience, /) -> list[bytes]: ...
    def multi_set(self, keys: Keys, values: Keys, patience: Patience, /) -> None: ...
    def queue_push(self, key: Text, value: Text, patience: Patience, /) -> None: ...
    def queue_pop(self, key: Text, block: bool, patience: Patience, /) -> bytes: ...
    def queue_len(self, key: Text, patience: Patience, /) -> int: ...
    def barrier(self, key: Text, world_size: int, patience: Patience, /) -> None: ...
    @property
    def is_waiting(self) -> bool: ...
    def ends(self) -> tuple[int, Endpoint, Endpoint] | None: ...
    def close(self, reason: str, /) -> None: ...
