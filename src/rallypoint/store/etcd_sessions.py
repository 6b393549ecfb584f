"""The part of an etcd store that is more than keys and values: revisions, prefixes, watches, leases, status.

Revisions are etcd's: a key's is its ``mod_revision``. They count the changes of the whole cluster, so those of one
prefix have gaps; they rise all the same, and 0 is no key.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rallypoint.clock import Deadline
from rallypoint.errors import DistError
from rallypoint.store import etcd_wire as wire
from rallypoint.store.base import as_timeout_s
from rallypoint.store.etcd_ground import EtcdGround
from rallypoint.store.etcd_names import Span
from rallypoint.store.etcd_watch import EtcdWatch
from rallypoint.store.session_calls import ABSENT, ANY_REVISION, Entry
from rallypoint.types import Text, Timeout, as_bytes

if TYPE_CHECKING:
    from rallypoint.store.pipeline import Pipeline

__all__ = ["EtcdSessions"]


class EtcdSessions(EtcdGround):
    """The methods of ``store.session_calls`` on etcd, meetings aside."""

    def has_sessions(self) -> bool:
        """True."""
        return True

    def session_ends_at(self) -> float:
        """Tell when etcd may end this store's own leases: ``session_ttl`` after a renewal that was acknowledged."""
        return self._leases.ends_at()

    def pipeline(self) -> Pipeline:
        """Collect requests; see :meth:`Store.pipeline`. Cost: as if each were made alone, at the end of the block."""
        from rallypoint.store.etcd_pipeline import EtcdPipeline

        return EtcdPipeline(self)

    # --- revisions and prefixes --------------------------------------------------------------------------

    def read(self, key: Text, /) -> Entry | None:
        """Give a key's value and revision as they are now, ``None`` if it is absent."""
        name = as_bytes(key, "key")
        found = self._entry(self._names.key(name))
        return None if found is None else Entry(name.decode(), found.value, found.revision)

    def swap(self, key: Text, revision: int, value: Text, *, lease: int = 0) -> tuple[bool, int]:
        """Write a value if the key has the expected revision; see :meth:`Store.swap`.

        Cost: one request, one more if it is not written and there is a lease.
        """
        name, content = as_bytes(key, "key"), as_bytes(value)
        for what, number in (("revision", revision), ("lease", lease)):
            if not isinstance(number, int):
                raise TypeError(f"{what} must be an int, not {type(number).__name__}")
        place = self._names.key(name)
        deadline = self._patience()
        if revision < ANY_REVISION:
            return False, getattr(self._entry(place, deadline), "revision", ABSENT)
        outcome = self._write(
            [wire.op_put(wire.put(place, content, lease=lease))],
            compare=[] if revision == ANY_REVISION else [wire.has_revision(place, revision)],
            failure=[wire.op_range(wire.range_of(place, is_keys=True))],
            lease=lease,
            deadline=deadline,
        )
        if outcome.is_done:
            return True, outcome.revision
        self._check_lease(lease, deadline)
        found = wire.read_range((outcome.answers or [b""])[0]).entries
        return False, found[0].revision if found else ABSENT

    def read_prefix(self, prefix: Text, /) -> list[Entry]:
        """Give all entries whose keys begin with a prefix, sorted by their bytes. Cost: grows with them."""
        span = self._names.keys(as_bytes(prefix, "prefix"))
        entries = self._range(wire.range_of(*span)).entries
        return [Entry(self._names.name(one.key).decode(), one.value, one.revision) for one in entries]

    def list_prefix(self, prefix: Text, /) -> list[str]:
        """Give all keys that begin with a prefix, sorted by their bytes. Cost: grows with them."""
        span = self._names.keys(as_bytes(prefix, "prefix"))
        entries = self._range(wire.range_of(*span, is_keys=True)).entries
        return [self._names.name(one.key).decode() for one in entries]

    def delete_prefix(self, prefix: Text, /) -> int:
        """Remove all keys that begin with a prefix; give how many there were."""
        span = self._names.keys(as_bytes(prefix, "prefix"))
        deadline = self._patience()
        outcome = self._write([wire.op_delete(wire.delete(*span))], deadline=deadline)
        return self._deleted(outcome, span, deadline)

    def watch(self, key: Text, *, is_prefix: bool = False, since: int | None = None) -> EtcdWatch:
        """Begin to watch a key, or all that begin with it; see :meth:`Store.watch`.

        etcd tells all changes since a revision, unless it was compacted away meanwhile: then ``Missed``.
        """
        name = as_bytes(key, "key")
        if since is not None and not isinstance(since, int):
            raise TypeError(f"since must be an int, not {type(since).__name__}")
        watch = EtcdWatch(self._hub, name, self._names.name, lambda: self._timeout_s, self._cluster.endpoint)
        span = self._names.keys(name) if is_prefix else Span(self._names.key(name))
        watch.begin(span, 0 if since is None else max(since, 0) + 1, self._patience())
        return watch

    # --- leases ------------------------------------------------------------------------------------------

    def lease_grant(self, ttl: Timeout | None, /) -> int:
        """Begin a lease; see :meth:`Store.lease_grant`.

        etcd counts in whole seconds, and 2 are the least unless its election timeout is another: ``ttl`` is rounded up.
        ``None``: until ``close``, or ``session_ttl`` after the end of this process; a thread keeps it alive.

        Cost: two requests.
        """
        ttl_s = None if ttl is None else as_timeout_s(ttl, "ttl")
        if ttl_s == math.inf:
            raise ValueError("ttl must be finite; None is as long as the store")
        return self._leases.grant(ttl_s, self._patience())

    def lease_renew(self, lease: int, /) -> float:
        """Let a lease live on; give the seconds until it ends."""
        return self._leases.renew(_as_lease(lease), self._patience())

    def lease_revoke(self, lease: int, /) -> int:
        """End a lease and remove its keys; give how many there were. Cost: two requests."""
        return self._leases.revoke(_as_lease(lease), self._patience())

    # --- looking in --------------------------------------------------------------------------------------

    def status(self, what: str = "", /) -> dict[str, Any]:
        """Give what the members say of themselves, or with ``"keys/"`` or ``"values/"`` and a prefix, what is there.

        Cost: one request a member; grows with the keys that are asked for.
        """
        kind, slash, prefix = what.partition("/")
        if slash and kind == "keys":
            return {"keys": self.list_prefix(prefix)}
        if slash and kind == "values":
            entries = self.read_prefix(prefix)
            return {"values": {one.key: one.value.decode(errors="backslashreplace") for one in entries}}
        if what:
            raise ValueError(f"the status of etcd has no {what!r}: '' or 'keys/PREFIX' or 'values/PREFIX'")
        keys = self._range(wire.range_of(*self._names.keys(), is_count=True))
        members = {str(endpoint): self._member(endpoint) for endpoint in self._cluster.endpoints}
        return {"kind": "etcd", "revision": keys.revision, "keys": keys.total, "members": members}

    def _member(self, endpoint: Any) -> dict[str, Any]:
        try:
            answer = self._cluster.ask_member(endpoint, "Maintenance/Status", b"", Deadline(2.0))
        except DistError as error:
            return {"is_reached": False, "trouble": str(error)}
        numbers = wire.numbers_of(answer)
        own = wire.numbers_of(wire.texts_of(answer, 1)[0]).get(2) if wire.texts_of(answer, 1) else None
        version = wire.texts_of(answer, 2)
        return {
            "is_reached": True,
            "version": version[0].decode(errors="replace") if version else "",
            "is_leader": own is not None and own == numbers.get(4),
            "stored_size": numbers.get(3, 0),
        }


def _as_lease(lease: int) -> int:
    if not isinstance(lease, int):
        raise TypeError(f"lease must be an int, not {type(lease).__name__}")
    return lease
