"""Queues on etcd: an item is a key of its own, and their order is that of their names.

An item's name begins with a revision that etcd had when the push began. Whoever pushes after another push was done sees
a revision at least as high as that one's own, which is higher than the one in its name: so first in is first out, and
pushes at the same time do not cross each other. A pop takes the first item by a transaction that demands that it is
still there, so each goes to one.
"""

from __future__ import annotations

from rallypoint.clock import Deadline
from rallypoint.errors import QueueEmptyError
from rallypoint.store import etcd_wire as wire
from rallypoint.store.base import decode_key
from rallypoint.store.etcd_ground import EtcdGround
from rallypoint.types import Text, as_bytes

__all__ = ["EtcdQueues"]


class EtcdQueues(EtcdGround):
    """The queues of an etcd store."""

    def queue_push(self, key: Text, value: Text, /) -> None:
        """Put an item at the end of a queue. Cost: two requests."""
        name, item = as_bytes(key, "key"), as_bytes(value)
        deadline = self._patience()
        revision = self._range(wire.range_of(self._names.counter, is_keys=True), deadline).revision
        place = self._names.item(name, revision, self._writers.unique())
        self._write([wire.op_put(wire.put(place, item))], deadline=deadline)

    def queue_pop(self, key: Text, block: bool = True) -> bytes:
        """Take the oldest item of a queue, waiting for one until the store's timeout if ``block``.

        Cost: two requests, two more for each other who takes the item first.
        """
        name = as_bytes(key, "key")
        span = self._names.queue(name)
        deadline = Deadline(self._timeout_s if block else 0.0)
        while True:
            if block:
                item = self._first(name, span, deadline)
            elif entries := self._range(wire.range_of(*span, limit=1), self._grace(deadline)).entries:
                item = entries[0]
            else:
                raise QueueEmptyError(f"queue is empty: {decode_key(name)!r}")
            outcome = self._write(
                [wire.op_delete(wire.delete(item.key))],
                compare=[wire.has_revision(item.key, item.revision)],
                deadline=self._grace(deadline),
            )
            if outcome.is_done:
                return item.value

    def queue_len(self, key: Text, /) -> int:
        """Give the number of items in a queue."""
        span = self._names.queue(as_bytes(key, "key"))
        return self._range(wire.range_of(*span, is_count=True)).total
