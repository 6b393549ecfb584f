"""Many requests in one round trip: what a ``with store.pipeline()`` block collects is sent together at its end."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from rallypoint.errors import DistStoreError
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.store import connections
from rallypoint.store.attendant import attend
from rallypoint.store.calls import Patience
from rallypoint.store.wires import as_integer, as_wire, lease_ms, seconds_of
from rallypoint.types import Text, as_bytes

if TYPE_CHECKING:
    from rallypoint.store.session import SessionClient

__all__ = ["REQUESTS_MAX", "Pipeline", "Promise"]

T = TypeVar("T")

REQUESTS_MAX: Final = 1024
"""Requests that are under way at a time."""

SIZE_MAX: Final = 1 << 20
"""Bytes of keys and values that are, as far as one request alone is not larger."""


class Promise(Generic[T]):
    """What one request of a pipeline will give."""

    __slots__ = ("_convert", "_error", "_fields", "request")

    def __init__(self, verb: SessionVerb, fields: tuple[Any, ...], convert: Callable[[tuple[Any, ...]], T]) -> None:
        self.request = (verb, fields)
        self._convert = convert
        self._fields: tuple[Any, ...] | None = None
        self._error: Exception | None = None

    def keep(self, fields: tuple[Any, ...]) -> None:
        """Take the answer's fields."""
        self._fields, self._error = fields, None

    def break_with(self, error: Exception) -> None:
        """Take the error that there is instead of an answer."""
        self._error = error

    @property
    def error(self) -> Exception | None:
        """Why there is no value, if that is known."""
        return self._error

    @property
    def value(self) -> T:
        """What the call would have returned.

        Raises:
            DistStoreError: what the call would have raised; or the pipeline was not flushed yet.
        """
        if self._error is not None:
            raise self._error
        if self._fields is None:
            raise DistStoreError("this request of a pipeline was not sent yet: leave the block, or flush() it")
        return self._convert(self._fields)


class Pipeline:
    """Requests to be sent together, in order. They are applied one after the other; others may come in between.

    Leaving the block, or ``flush``, sends them, waits for all answers and raises the first error; the promises have
    each one's own. Leaving it by an exception sends nothing.

    Cost: one round trip for ``REQUESTS_MAX`` requests or 1 MiB.
    Threads: one.
    """

    def __init__(self, client: SessionClient, patience: Patience, prefix: bytes = b"") -> None:
        self._client = client
        self._patience = patience
        self._prefix = prefix
        self._promises: list[Promise[Any]] = []

    def under(self, prefix: bytes) -> Pipeline:
        """Give a pipeline whose keys stand behind a prefix, inside this one's own."""
        return Pipeline(self._client, self._patience, self._prefix + prefix)

    def _wire(self, key: Text) -> bytes:
        return as_wire(self._prefix + as_bytes(key, "key"))

    def _attend(self) -> None:
        attend(self._client)

    def _add(self, verb: SessionVerb, fields: tuple[Any, ...], convert: Callable[[tuple[Any, ...]], T]) -> Promise[T]:
        promise = Promise(verb, fields, convert)
        self._promises.append(promise)
        return promise

    def set(self, key: Text, value: Text, /) -> Promise[None]:
        """Store ``value`` under ``key``."""
        return self._add(SessionVerb.SET, (self._wire(key), as_bytes(value)), _nothing)

    def append(self, key: Text, value: Text, /) -> Promise[None]:
        """Add to the end of a value."""
        return self._add(SessionVerb.APPEND, (self._wire(key), as_bytes(value)), _nothing)

    def add(self, key: Text, amount: int, /) -> Promise[int]:
        """Add to a counter; promises its new value."""
        return self._add(SessionVerb.ADD, (self._wire(key), as_integer(amount, "amount")), _first)

    def compare_set(self, key: Text, expected: Text, desired: Text, /) -> Promise[bytes]:
        """Replace a value if it is the expected one; promises what is there then."""
        fields = (self._wire(key), as_bytes(expected, "expected"), as_bytes(desired, "desired"))
        return self._add(SessionVerb.COMPARE_SET, fields, _first)

    def swap(self, key: Text, revision: int, value: Text, *, lease: int = 0) -> Promise[tuple[bool, int]]:
        """Write a value if the key has the expected revision; promises what :meth:`Store.swap` gives."""
        fields = (self._wire(key), as_integer(revision, "revision"), as_bytes(value), as_integer(lease, "lease"))
        return self._add(SessionVerb.SWAP, fields, _swapped)

    def delete_key(self, key: Text, /) -> Promise[bool]:
        """Remove a key; promises whether there was one."""
        return self._add(SessionVerb.DELETE_KEY, (self._wire(key),), _is_any)

    def queue_push(self, key: Text, value: Text, /) -> Promise[None]:
        """Put an item at the end of a queue."""
        return self._add(SessionVerb.QUEUE_PUSH, (self._wire(key), as_bytes(value)), _nothing)

    def read(self, key: Text, /) -> Promise[bytes | None]:
        """Promise the value of a key as it is then, ``None`` if it is absent; does not wait for it."""
        return self._add(SessionVerb.READ, (self._wire(key),), _value_if_any)

    def lease_grant(self, ttl_s: float | None, /) -> Promise[int]:
        """Begin a lease of so many seconds, ``None`` for one that lasts as long as the session; promises its number."""
        if ttl_s is None:
            self._attend()
        return self._add(SessionVerb.LEASE_GRANT, (lease_ms(ttl_s),), _first)

    def lease_renew(self, lease: int, /) -> Promise[int]:
        """Let a lease live on; promises for how many milliseconds."""
        return self._add(SessionVerb.LEASE_RENEW, (as_integer(lease, "lease"),), _first)

    def __len__(self) -> int:
        return len(self._promises)

    def flush(self) -> None:
        """Send what was collected, and wait for all answers.

        Raises:
            DistStoreError: the first error of a request's own.
            DistNetworkError: the answers did not come; which requests were applied is not known.
        """
        promises, self._promises = self._promises, []
        first: Exception | None = None
        for start, stop in _batches(promises):
            for promise in promises[start:stop]:
                promise.break_with(DistStoreError("the answer to this request of a pipeline did not come"))
            self._run(promises[start:stop])
        for promise in promises:
            first = first or promise.error
        if first is not None:
            raise first

    def _run(self, promises: list[Promise[Any]]) -> None:
        client, trunk = self._client, self._client.trunk
        client.check_owner()
        until = monotonic() + seconds_of(self._patience) + connections.REPLY_GRACE_S
        if trunk.is_amid():
            for promise in promises:
                client.settle(promise, trunk.ask(*promise.request, seconds_of(self._patience)))
            return
        tickets = trunk.begin([promise.request for promise in promises])
        try:
            for promise, ticket in zip(promises, tickets, strict=True):
                try:
                    trunk.await_owed(ticket, until)
                finally:
                    trunk.leave(ticket)
                client.settle(promise, ticket)
        except BaseException:
            for ticket in tickets:
                trunk.forget(ticket)
            raise

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()
        self._promises.clear()


def _batches(promises: list[Promise[Any]]) -> list[tuple[int, int]]:
    """Cut requests into batches; each has one request at least."""
    batches = []
    start = size = 0
    for number, promise in enumerate(promises):
        one = sum(len(field) for field in promise.request[1] if isinstance(field, bytes))
        if number > start and (number - start == REQUESTS_MAX or size + one > SIZE_MAX):
            batches.append((start, number))
            start, size = number, 0
        size += one
    if start < len(promises):
        batches.append((start, len(promises)))
    return batches


def _nothing(_: tuple[Any, ...]) -> None:
    """Give what a call without a result gives."""


def _first(fields: tuple[Any, ...]) -> Any:
    return fields[0]


def _is_any(fields: tuple[Any, ...]) -> bool:
    return bool(fields[0])


def _swapped(fields: tuple[Any, ...]) -> tuple[bool, int]:
    is_swapped, revision = fields
    return bool(is_swapped), revision


def _value_if_any(fields: tuple[Any, ...]) -> bytes | None:
    revision, value = fields
    return value if revision else None
