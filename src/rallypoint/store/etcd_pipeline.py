"""A pipeline on etcd: the requests of a block, made one after the other at its end, neighbouring sets in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from rallypoint.errors import DistStoreError
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.store.pipeline import Pipeline, Promise

if TYPE_CHECKING:
    from rallypoint.store.base import Store

__all__ = ["EtcdPipeline"]

_Fields = tuple[Any, ...]


def _read(store: Store, key: bytes) -> _Fields:
    entry = store.read(key)
    return (0, b"") if entry is None else (entry.revision, entry.value)


_CALLS: Final[dict[SessionVerb, Callable[..., _Fields]]] = {
    SessionVerb.APPEND: lambda store, key, value: (store.append(key, value),),
    SessionVerb.ADD: lambda store, key, amount: (store.add(key, amount),),
    SessionVerb.COMPARE_SET: lambda store, key, old, new: (store.compare_set(key, old, new),),
    SessionVerb.SWAP: lambda store, key, revision, value, lease: store.swap(key, revision, value, lease=lease),
    SessionVerb.DELETE_KEY: lambda store, key: (store.delete_key(key),),
    SessionVerb.QUEUE_PUSH: lambda store, key, value: (store.queue_push(key, value),),
    SessionVerb.READ: _read,
    SessionVerb.LEASE_GRANT: lambda store, ttl_ms: (store.lease_grant(ttl_ms / 1000 if ttl_ms else None),),
    SessionVerb.LEASE_RENEW: lambda store, lease: (round(store.lease_renew(lease) * 1000),),
}


class EtcdPipeline(Pipeline):
    """Requests to be made together, in order; others may come in between. See ``Pipeline``.

    Args:
        store: the store.
        prefix: what its keys stand behind.

    Cost: one request of etcd for each, but for ``set``: those in a row are one.
    Threads: one.
    """

    def __init__(self, store: Store, prefix: bytes = b"") -> None:
        self._store = store
        self._prefix = prefix
        self._promises: list[Promise[Any]] = []

    def under(self, prefix: bytes) -> EtcdPipeline:
        """Give a pipeline whose keys stand behind a prefix, inside this one's own."""
        return EtcdPipeline(self._store, self._prefix + prefix)

    def _attend(self) -> None:
        """Do nothing: the store does so for its own leases."""

    def _run(self, promises: list[Promise[Any]]) -> None:
        for verb, group in groupby(promises, key=lambda promise: promise.request[0]):
            run = list(group)
            if verb is SessionVerb.SET:
                self._make(run, partial(self._set, [promise.request[1] for promise in run]))
                continue
            for promise in run:
                first, *more = promise.request[1]
                first = first[1:] if isinstance(first, bytes) else first  # a key as it travels, or a number
                self._make([promise], partial(_CALLS[verb], self._store, first, *more))

    def _set(self, pairs: Sequence[_Fields]) -> _Fields:
        self._store.multi_set([wire[1:] for wire, _ in pairs], [value for _, value in pairs])
        return (None,)

    def _make(self, promises: Sequence[Promise[Any]], call: Callable[[], _Fields]) -> None:
        """Make one call for one promise, or for several with one outcome."""
        try:
            fields = call()
        except DistStoreError as error:  # the request's own; others end the pipeline
            for promise in promises:
                promise.break_with(error)
        else:
            for promise in promises:
                promise.keep(fields)
