"""Any store of ours as a ``torch.distributed.Store``: what torch's process groups take as ``store=``.

torch's C++ side calls a store written in Python through a table of method names (``deleteKey`` and ``getNumKeys`` are
its own spelling), and has three traps, each dealt with in one place here:

- *Lifetime.* C++ keeps only its own half of the object. Were the Python half collected, the next call would find no
  methods and end in torch's internal assertion. So every adapter, clones included, is held here (``_kept``) until it
  is told to ``close``. How many references C++ has cannot be asked, so nothing here can know that by itself.
- *Time.* ``set_timeout``, torch's own call included, lands in C++. So the time is read there for every call, and holds
  for that call only.
- *Errors.* torch's loops catch torch's classes alone. So ours are raised again as those, with our text and the
  original as their cause.

torch's C++ never asks a Python store for queues or ``list_keys``; callers in Python get them.
"""

from __future__ import annotations

import atexit
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from rallypoint.errors import DistBackendError, DistError, DistNetworkError, DistStoreError, QueueEmptyError
from rallypoint.store.base import Store
from rallypoint.store.bootstrap import store_timeout
from rallypoint.store.prefix import PrefixStore, as_foreign_timeout

if TYPE_CHECKING:
    from rallypoint.types import Text, Timeout

__all__ = ["TorchCalls", "as_torch_store", "torchs_errors"]

_CLOSED = Store()
"""What an adapter has once it gave up its store."""

_kept: dict[int, TorchCalls] = {}
"""Every adapter that C++ may call, by the ``id`` of its store."""


def as_torch_store(store: Store) -> Any:
    """Give a store as torch takes it.

    ::

        store = as_torch_store(rallypoint.TCPStore("head", 29500))
        torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
        ...
        torch.distributed.destroy_process_group()
        store.close()

    Args:
        store: any store of ours or of a user's; one of torch's is given back as it is. A store without
            ``compare_set`` or ``append`` lacks them here, too; groups of gloo need ``set``, ``get`` and ``wait`` only.

    Returns:
        A ``torch.distributed.Store``, the same one for the same store. Its timeout begins as the store's and is its own
        from then on. It stays alive, and its store with it, until its ``close()`` is called.

    Raises:
        ImportError: if torch is not installed.

    Cost: about a kilobyte until it is closed, and some microseconds for each call.
    Threads: as the store. In a forked child, as the store; a ``clone()`` made there is the child's own.
    """
    import torch.distributed as dist

    if isinstance(store, dist.Store):
        return store
    known = _kept.get(id(store))
    if known is None:
        known = _kept.setdefault(id(store), _adapter_class()(store))
    return known


@contextmanager
def torchs_errors() -> Iterator[None]:
    """Raise our errors again as torch's, with our text.

    Of the network: ``DistNetworkError``; an empty queue: ``QueueEmptyError``; all else: ``DistStoreError``.
    """
    try:
        yield
    except DistError as error:
        raise _torchs_class(error)(str(error)) from error


def _torchs_class(error: DistError) -> Any:
    import torch.distributed as dist

    for ours in (QueueEmptyError, DistNetworkError, DistStoreError, DistBackendError):
        if isinstance(error, ours):
            return getattr(dist, ours.__name__)
    return dist.DistStoreError


@functools.cache
def _adapter_class() -> type[Any]:
    import torch.distributed as dist

    atexit.register(_let_stores_go)
    return type("RallypointStore", (TorchCalls, dist.Store), {"__doc__": TorchCalls.__doc__, "__module__": __name__})


def _innermost(store: Store) -> Store:
    """Give the store that holds the connections: a PrefixStore that is closed leaves the one below it open."""
    while isinstance(store, PrefixStore):
        store = store.underlying_store
    return store


def _let_stores_go() -> None:
    """Give up the stores before the interpreter takes modules apart; C++ may still call, and is told why not."""
    for adapter in list(_kept.values()):
        adapter.detach()


class TorchCalls:
    """The half of an adapter that is written in Python; the other half is ``torch.distributed.Store``.

    Attributes:
        store: the store of ours that does the work.
    """

    timeout: timedelta  # C++ has it

    def __init__(self, store: Store) -> None:
        super().__init__()  # makes the C++ half
        self.store = store
        self._is_owner = False
        self._clones: list[TorchCalls] = []
        self.set_timeout(as_foreign_timeout(store.timeout))

    if TYPE_CHECKING:

        def set_timeout(self, timeout: timedelta, /) -> None:
            """Change the timeout; C++ has it, too."""

    def __repr__(self) -> str:
        return f"as_torch_store({self.store!r})"

    # --- beginning and end -------------------------------------------------------------------------------

    def clone(self) -> Any:
        """Give an adapter of a clone of the store; both end with its ``close``, or with this one's: C++ closes none."""
        with torchs_errors():
            store = self.store.clone()
        twin = as_torch_store(store)
        if store is not self.store:
            twin.own()
            self._clones.append(twin)
        twin.set_timeout(self.timeout)
        return twin

    def own(self) -> None:
        """Have ``close`` close the store too, which nobody else holds."""
        self._is_owner = True

    def close(self) -> None:
        """Let go of this adapter and its clones: call it when no group uses them any more. Closing twice is fine.

        The store that was given to ``as_torch_store`` stays open: it was the caller's before.
        """
        clones, self._clones = self._clones, []
        for clone in clones:
            clone.close()
        _kept.pop(id(self.store), None)
        self.detach()

    def detach(self) -> None:
        """Give up the store; calls are refused from now on, whoever makes them."""
        store, self.store = self.store, _CLOSED
        if self._is_owner:
            _innermost(store).close()

    # --- what C++ calls ----------------------------------------------------------------------------------

    def set(self, key: Text, value: Text) -> None:
        """Store a value."""
        self._call("set", key, value)

    def get(self, key: Text) -> bytes:
        """Give the value of a key, waiting for it until the timeout."""
        return bytes(self._call("get", key))

    def add(self, key: Text, amount: int) -> int:
        """Add to a counter, and give its new value."""
        return int(self._call("add", key, amount))

    def compare_set(self, key: Text, expected: Text, desired: Text) -> bytes:
        """Replace a value if it is the expected one."""
        return bytes(self._call("compare_set", key, expected, desired))

    def check(self, keys: Sequence[Text]) -> bool:
        """Tell whether all keys are there."""
        return bool(self._call("check", keys))

    def wait(self, keys: Sequence[Text], timeout: Timeout | None = None) -> None:
        """Wait until all keys are there."""
        if timeout is None:
            self._call("wait", keys)
        else:
            self._call("wait", keys, timeout)

    def deleteKey(self, key: Text) -> bool:  # noqa: N802 - torch's C++ looks for this name
        """Remove a key; tell whether there was one."""
        return bool(self._call("delete_key", key))

    def getNumKeys(self) -> int:  # noqa: N802 - torch's C++ looks for this name
        """Count the keys."""
        return int(self._call("num_keys"))

    def append(self, key: Text, value: Text) -> None:
        """Add to the end of a value."""
        self._call("append", key, value)

    def multi_get(self, keys: Sequence[Text]) -> list[bytes]:
        """Give the values of several keys in order, waiting for all."""
        return [bytes(value) for value in self._call("multi_get", keys)]

    def multi_set(self, keys: Sequence[Text], values: Sequence[Text]) -> None:
        """Store several values."""
        self._call("multi_set", keys, values)

    def has_extended_api(self) -> bool:
        """Tell what the store says."""
        return bool(self.store.has_extended_api())

    # --- what only callers in Python get ------------------------------------------------------------------

    def delete_key(self, key: Text) -> bool:
        """Remove a key; tell whether there was one."""
        return self.deleteKey(key)

    def num_keys(self) -> int:
        """Count the keys."""
        return self.getNumKeys()

    def list_keys(self) -> list[str]:
        """Give the names of all keys."""
        return list(self._call("list_keys"))

    def queue_push(self, key: Text, value: Text) -> None:
        """Put an item at the end of a queue."""
        self._call("queue_push", key, value)

    def queue_pop(self, key: Text, block: bool = True) -> bytes:
        """Take the oldest item of a queue."""
        return bytes(self._call("queue_pop", key, block))

    def queue_len(self, key: Text) -> int:
        """Give the number of items in a queue."""
        return int(self._call("queue_len", key))

    # A barrier is made by C++ from add, set and wait, so that callers in Python and in C++ meet in the same keys.

    def _call(self, verb: str, *arguments: Any) -> Any:
        store, timeout = self.store, self.timeout
        try:
            if store is _CLOSED:
                raise DistStoreError(f"{verb}() on a store that is closed: close it after destroy_process_group()")
            if store.timeout == timeout:
                return getattr(store, verb)(*arguments)
            with store_timeout(store, timeout):
                return getattr(store, verb)(*arguments)
        except DistError as error:
            raise _torchs_class(error)(str(error)) from error
