"""What every store can do, and what a store gets for free.

:class:`Store` has torch's method names, positional arguments and return types. A subclass must bring ``set``, ``get``,
``add`` and ``compare_set``, and for waiting ``check`` and ``wait``; ``append``, ``multi_get``, ``multi_set`` and
``barrier`` are then made from those, and may be replaced by something quicker. Queues, ``list_keys`` and all of
``store.session_calls`` are optional.

Time: a timeout is seconds (``int`` or ``float``) or a ``timedelta``. ``0`` means "look once": the call succeeds if what
it waits for is there already. ``math.inf`` waits for ever. A negative timeout is a ``ValueError``: torch's TCPStore
waits for ever on one, which nobody means who computes "time left" and arrives late.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import timedelta
from types import TracebackType
from typing import TypeVar

from rallypoint.clock import Deadline
from rallypoint.errors import BarrierTimeoutError, DistStoreError, StoreTimeoutError
from rallypoint.store.session_calls import SessionCalls
from rallypoint.types import Endpoint, Keys, Text, Timeout, as_bytes, as_seconds

__all__ = [
    "DEFAULT_TIMEOUT",
    "Store",
    "as_timeout_s",
    "check_lengths",
    "decode_key",
    "timeout_override",
    "wait_timed_out",
]

DEFAULT_TIMEOUT = timedelta(seconds=300)
"""How long a store waits unless told otherwise."""

AnyStore = TypeVar("AnyStore", bound="Store")

FOREVER_S = 1e9
"""From here on (31 years) a timeout counts as infinite; system calls cannot take such durations."""

KEYS_SHOWN_MAX = 32
"""An error's sentence names so many keys; its attributes have them all."""

MEMBER_COUNT = "/num_members"
LAST_MEMBER = "/last_member"

_overrides: ContextVar[Mapping[int, float] | None] = ContextVar("rallypoint_store_timeouts", default=None)
"""Timeouts that hold for one caller only (thread or task), in seconds by the store's ``id``."""


def as_timeout_s(timeout: Timeout, what: str = "timeout") -> float:
    """Give a caller's timeout in seconds.

    Args:
        timeout: seconds or a ``timedelta``, at least 0; 0 means "look once", infinity "for ever".
        what: the argument's name, for the error.

    Returns:
        Seconds; ``math.inf`` for infinity and for anything above 31 years.

    Raises:
        TypeError: if it is neither.
        ValueError: if it is negative or not a number.
    """
    seconds = as_seconds(timeout, what)
    if seconds < 0:
        raise ValueError(f"{what} must be 0 or more seconds (math.inf waits for ever), not {seconds:g}")
    return math.inf if seconds > FOREVER_S else seconds


def decode_key(key: Text) -> str:
    """Give a key as people read it; bytes that are not UTF-8 appear as hexadecimal escapes."""
    return key if isinstance(key, str) else bytes(key).decode(errors="backslashreplace")


def check_lengths(keys: Sequence[object], values: Sequence[object]) -> None:
    """Refuse a ``multi_set`` whose keys and values do not pair up.

    Raises:
        DistStoreError: in torch's words, with the two numbers.
    """
    if len(keys) != len(values):
        raise DistStoreError(
            f"multiSet keys and values vectors must be of same size: got {len(keys)} keys and {len(values)} values"
        )


def wait_timed_out(
    keys: Sequence[Text],
    missing: Sequence[Text],
    *,
    timeout_s: float,
    waited_s: float,
    endpoint: Endpoint | None = None,
) -> StoreTimeoutError:
    """Make the error of a wait whose time was up.

    The sentence begins as torch's does, with the missing keys as they travel (``/`` in front), so that patterns
    written for torch match; what follows says the same in the caller's own words.

    Args:
        keys: the keys that were waited for, as the caller named them.
        missing: those of them that are not there.
        timeout_s: the time that was allowed, in seconds.
        waited_s: the time that was spent, in seconds.
        endpoint: the server that was asked, if the store has one.
    """
    wanted = [decode_key(key) for key in keys]
    absent = [decode_key(key) for key in missing]
    shown = absent[:KEYS_SHOWN_MAX]
    more = f", and {len(absent) - len(shown)} more" if len(absent) > len(shown) else ""
    if absent:
        noun = "key" if len(wanted) == 1 else "keys"
        detail = f"missing {len(absent)} of {len(wanted)} {noun}: {', '.join(map(repr, shown))}{more}"
    else:
        detail = f"none of the {len(wanted)} keys is missing any more"
    where = f" on {endpoint}" if endpoint else ""
    wire = ", ".join(f"/{key}" for key in shown)
    return StoreTimeoutError(
        f"wait timeout after {int(timeout_s * 1000)}ms, keys: {wire} ({detail}; waited {waited_s:.3f} s{where})",
        keys=wanted,
        missing=absent,
        waited_s=waited_s,
        endpoint=endpoint,
    )


class Store(SessionCalls):
    """A map from keys to bytes that several processes share; the base of all stores and of users' own.

    Keys and values are ``str`` (sent as UTF-8), ``bytes`` or ``bytearray``; values come back as ``bytes``. Key lists
    are any iterable of keys, but not one ``str``. Methods that a subclass does not bring raise ``RuntimeError`` ("Not
    implemented.").
    """

    _own_timeout_s: float = DEFAULT_TIMEOUT.total_seconds()

    @property
    def _timeout_s(self) -> float:
        """What a blocking call of this caller waits, in seconds: its :func:`timeout_override`, else the store's own."""
        overrides = _overrides.get()
        return self._own_timeout_s if overrides is None else overrides.get(id(self), self._own_timeout_s)

    @_timeout_s.setter
    def _timeout_s(self, seconds: float) -> None:
        overrides = _overrides.get()
        if overrides is not None and id(self) in overrides:
            _overrides.set({**overrides, id(self): seconds})
        else:
            self._own_timeout_s = seconds

    # --- what a subclass brings --------------------------------------------------------------------------

    def set(self, key: Text, value: Text, /) -> None:
        """Store ``value`` under ``key``, whatever was there."""
        raise NotImplementedError("Not implemented.")

    def get(self, key: Text, /) -> bytes:
        """Give the value of ``key``, waiting for it until the store's timeout.

        Raises:
            StoreTimeoutError: if the key did not appear in time.
        """
        raise NotImplementedError("Not implemented.")

    def add(self, key: Text, amount: int, /) -> int:
        """Add to a counter, kept as decimal text; a missing key counts as 0.

        Args:
            key: the counter.
            amount: a signed 64-bit number.

        Returns:
            The new value.
        """
        raise NotImplementedError("Not implemented.")

    def compare_set(self, key: Text, expected: Text, desired: Text, /) -> bytes:
        """Replace a value if it is the expected one.

        Returns:
            ``desired`` if it was written: the key held ``expected``, or was missing and ``expected`` is empty.
            Otherwise the present value, or ``expected`` itself if the key is missing.
        """
        raise NotImplementedError("Not implemented.")

    def check(self, keys: Keys, /) -> bool:
        """Tell whether all keys are there, without waiting."""
        raise NotImplementedError("Not implemented.")

    def wait(self, keys: Keys, timeout: Timeout | None = None, /) -> None:
        """Wait until all keys are there.

        Args:
            keys: the keys; an empty list returns at once.
            timeout: seconds or a ``timedelta``; ``None`` is the store's own, 0 looks once.

        Raises:
            StoreTimeoutError: if a key is missing when the time is up; it names the missing ones.
        """
        raise NotImplementedError("Not implemented.")

    def delete_key(self, key: Text, /) -> bool:
        """Remove a key.

        Returns:
            Whether there was one.
        """
        torchs = getattr(self, "deleteKey", None)  # as a subclass written for torch names it
        if torchs is None:
            raise NotImplementedError("Not implemented.")
        return bool(torchs(key))

    def num_keys(self) -> int:
        """Count the keys, the store's own bookkeeping keys included."""
        torchs = getattr(self, "getNumKeys", None)  # as a subclass written for torch names it
        if torchs is None:
            raise NotImplementedError("Not implemented.")
        return int(torchs())

    def clone(self) -> Store:
        """Give another, independent client of the same data."""
        raise NotImplementedError("Not implemented.")

    def list_keys(self) -> list[str]:
        """Give the names of all keys, in no particular order.

        Raises:
            NotImplementedError: if the store cannot tell.
            UnicodeDecodeError: if a key is not UTF-8.
        """
        raise NotImplementedError("listKeys support is not implemented.")

    def queue_push(self, key: Text, value: Text, /) -> None:
        """Put an item at the end of a queue; queues have a name space of their own.

        Raises:
            NotImplementedError: if the store has no queues.
        """
        raise NotImplementedError("queue support is not implemented.")

    def queue_pop(self, key: Text, block: bool = True) -> bytes:
        """Take the oldest item of a queue.

        Args:
            key: the queue.
            block: wait for an item until the store's timeout.

        Raises:
            QueueEmptyError: if there is none and ``block`` is false.
            StoreTimeoutError: if none came in time.
            NotImplementedError: if the store has no queues.
        """
        raise NotImplementedError("queue support is not implemented.")

    def queue_len(self, key: Text, /) -> int:
        """Give the number of items in a queue, 0 for one never used.

        Raises:
            NotImplementedError: if the store has no queues.
        """
        raise NotImplementedError("queue support is not implemented.")

    # --- what it gets for that ---------------------------------------------------------------------------

    def append(self, key: Text, value: Text, /) -> None:
        """Add to the end of a value; a missing key is created.

        This fallback swaps the longer value in. A swap answers with a value, not with a verdict, so two callers who
        append *the same text* at the same moment may count once; stores that can do better replace it.

        Cost: about 3 calls, more if others write the key meanwhile.
        """
        suffix = as_bytes(value)
        current = b""
        try:
            if self.check([key]):
                current = self.get(key)
        except NotImplementedError:
            pass  # a store that cannot look: start from "missing", the first swap tells
        while True:
            desired = current + suffix
            found = self.compare_set(key, current, desired)
            if found == desired:
                return
            current = found if found != current else b""  # an echo of what was expected: the key is gone

    def multi_get(self, keys: Keys, /) -> list[bytes]:
        """Give the values of several keys in order, waiting for them as :meth:`get` does."""
        return [self.get(key) for key in _as_list(keys)]

    def multi_set(self, keys: Keys, values: Keys, /) -> None:
        """Store several values.

        Raises:
            DistStoreError: if there are not as many values as keys; nothing is stored then.
        """
        names, contents = _as_list(keys), [as_bytes(value) for value in _as_list(values)]
        check_lengths(names, contents)
        for key, value in zip(names, contents, strict=True):
            self.set(key, value)

    def post_set(self, key: Text, value: Text, /) -> None:
        """Store a value without waiting until it is there, where that is less than ``set`` does."""
        self.set(key, value)

    def barrier(self, key: Text, world_size: int, timeout: Timeout | None = None) -> None:
        """Wait until ``world_size`` callers have come to the barrier ``key``; a name serves once.

        This fallback counts in ``<key>/num_members``; the last to come sets ``<key>/last_member``.

        Args:
            key: the barrier's name.
            world_size: how many callers are expected.
            timeout: seconds or a ``timedelta``; ``None`` is the store's own.

        Raises:
            BarrierTimeoutError: if too few came in time; the caller stays counted.
        """
        deadline = Deadline(self._timeout_s if timeout is None else as_timeout_s(timeout))
        count_key, last_key = _join(key, MEMBER_COUNT), _join(key, LAST_MEMBER)
        arrived = self.add(count_key, 1)
        if arrived == world_size or (arrived == 1 and world_size < 1):
            self.set(last_key, b"1")
        left_s = deadline.remaining_s()
        try:
            self.wait([last_key], timedelta.max if math.isinf(left_s) else timedelta(seconds=left_s))
        except StoreTimeoutError as error:
            raise BarrierTimeoutError(
                f"barrier timeout after {int(deadline.timeout_s * 1000)}ms, key: {decode_key(key)} "
                f"(wait timeout: {self.add(count_key, 0)} of {world_size} members came)",
                arrived=self.add(count_key, 0),
                expected=world_size,
                waited_s=deadline.waited_s(),
                endpoint=error.endpoint,
            ) from error

    def has_extended_api(self) -> bool:
        """Tell whether ``append``, ``multi_get`` and ``multi_set`` are the store's own and not made from others."""
        return False

    @property
    def timeout(self) -> timedelta:
        """How long this object waits where a call names no timeout; ``timedelta.max`` stands for ever."""
        return timedelta.max if math.isinf(self._timeout_s) else timedelta(seconds=self._timeout_s)

    def set_timeout(self, timeout: Timeout, /) -> None:
        """Change how long this object waits; others that share the data keep theirs.

        Args:
            timeout: seconds or a ``timedelta``; 0 looks once, ``math.inf`` waits for ever.
        """
        self._timeout_s = as_timeout_s(timeout)

    def close(self) -> None:
        """Give back what the store holds (connections, files); it cannot be used afterwards. Closing twice is fine."""

    def __enter__(self: AnyStore) -> AnyStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def timeout_override(store: Store, seconds: float) -> Iterator[None]:
    """Let ``store`` wait ``seconds`` for the calling thread or task, and for nobody else, until the block ends.

    Inside, ``store.timeout`` shows that time and ``store.set_timeout`` changes it; both end with the block.
    """
    token = _overrides.set({**(_overrides.get() or {}), id(store): seconds})
    try:
        yield
    finally:
        _overrides.reset(token)


def _as_list(texts: Keys) -> list[Text]:
    if isinstance(texts, (str, bytes, bytearray)):
        raise TypeError(f"expected a list, not one {type(texts).__name__}: write [{texts!r}]")
    return list(texts)


def _join(key: Text, suffix: str) -> Text:
    return key + suffix if isinstance(key, str) else bytes(key) + suffix.encode()
