"""Where things lie in etcd: everything of one store below its prefix, each kind behind two letters of its own.

=====================  ==========================================================================
``<prefix>k/``         the keys, as callers name them
``<prefix>q/``         queues: ``<length of the name>:<name>/<place of the item>``
``<prefix>g/``         barriers and exchanges: ``<kind><length>:<name>/`` and what there is to know
``<prefix>w/``         what each writer did last, under a lease (``store.etcd_writer``)
``<prefix>n``          the key whose revisions number the leases
=====================  ==========================================================================

The length in front keeps the entries of one queue, or one barrier, in a range of their own, whatever bytes its name
has.
"""

from __future__ import annotations

from typing import NamedTuple

from rallypoint.store import etcd_wire as wire

__all__ = ["Names", "Span"]


class Span(NamedTuple):
    """A key, or a range of keys from ``start`` up to ``end``."""

    start: bytes
    end: bytes = b""


class Names:
    """Names below one prefix.

    Args:
        prefix: what all keys of a store begin with in etcd.
    """

    __slots__ = ("_groups", "_keys", "_queues", "_writers", "counter", "prefix")

    def __init__(self, prefix: bytes) -> None:
        self.prefix = prefix
        self._keys = prefix + b"k/"
        self._queues = prefix + b"q/"
        self._groups = prefix + b"g/"
        self._writers = prefix + b"w/"
        self.counter = prefix + b"n"

    def key(self, name: bytes) -> bytes:
        """Give the place of a key."""
        return self._keys + name

    def keys(self, prefix: bytes = b"") -> Span:
        """Give the places of all keys with a prefix."""
        start = self._keys + prefix
        return Span(start, wire.end_of_prefix(start))

    def name(self, place: bytes) -> bytes:
        """Give the name of the key at a place."""
        return place[len(self._keys) :]

    def queue(self, name: bytes) -> Span:
        """Give the places of a queue's items."""
        start = self._queues + b"%d:%s/" % (len(name), name)
        return Span(start, wire.end_of_prefix(start))

    def item(self, name: bytes, revision: int, who: bytes) -> bytes:
        """Give the place of a new item: behind all that were there at a revision, and nobody else's."""
        return self.queue(name).start + b"%016x.%s" % (revision, who)

    def group(self, kind: bytes, name: bytes) -> bytes:
        """Give what the places of a barrier, or an exchange, begin with."""
        return self._groups + kind + b"%d:%s/" % (len(name), name)

    def writer(self, who: bytes) -> bytes:
        """Give the place where a writer notes what it did last."""
        return self._writers + who
