"""Leases: keys that live while a session lives or a time to live runs.

Rules:

- A lease belongs to the session that was granted it, or has a time to live. Its id is above 0 and above all ids given
  before, over restarts too: it is a fencing token.
- A key belongs to one lease or to none. The write that names a lease puts it there; any other write but APPEND, and
  its deletion, take it out.
- A lease that ends gives its keys back, in the order in which they came: whoever ends it deletes them.
- A lease with a time to live may be renewed, written with and revoked by whoever has the identity that was granted it,
  in any session; to others it does not exist.
- A server that looks later than it had to has stood still, and what its clients sent meanwhile is unread: then leases
  get ``grace_s`` more.

Theory of operation. Ends are a heap of ``(time, lease)``, one entry for each lease with a time to live. A renewal only
notes the new time in the lease; an entry that comes up too early is put back at that time, one of a lease that has
ended is dropped. So a renewal costs O(1), and an end O(log n)::

    grant 7 at 0 for 10 s   heap: (10, 7)       7 ends at 10
    renew 7 at 6            heap: (10, 7)       7 ends at 16
    looked at, at 10        heap: (16, 7)       nothing has ended

What this file does not know: values of keys, who may write them, connections, what time it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush, heapreplace
from typing import NamedTuple

from rallypoint.protocol.codec import RequestError
from rallypoint.protocol.session.spec import LEASE_TTL_MS_MAX
from rallypoint.protocol.spec import CloseReason

__all__ = ["Ended", "LeaseView", "Leases"]

_STALE_MAX = 64


class Ended(NamedTuple):
    """A lease is no more; ``keys`` are to be deleted."""

    lease: int
    keys: list[bytes]


class LeaseView(NamedTuple):
    """A lease, for people.

    Attributes:
        lease: its id.
        session: the number of the session that was granted it.
        identity: whose it is.
        ttl_ms: its time to live, 0 if it ends with the session.
        left_ms: until it ends unless renewed, 0 if it ends with the session.
        keys: how many belong to it.
    """

    lease: int
    session: int
    identity: bytes
    ttl_ms: int
    left_ms: int
    keys: int


class _Lease:
    __slots__ = ("ends_at", "identity", "keys", "lease", "session", "ttl_ms")

    def __init__(self, lease: int, session: int, identity: bytes, ttl_ms: int) -> None:
        self.lease = lease
        self.session = session
        self.identity = identity
        self.ttl_ms = ttl_ms
        self.ends_at = 0.0
        self.keys: dict[bytes, None] = {}


class Leases:
    """All leases of one server.

    Args:
        leases_max: leases at one time.
        stall_s: how late a look has to be for the server to have stood still.
        grace_s: how much longer leases live then.

    Attributes:
        last: the last id given. Read only, for others.

    Threads: none but the caller's.
    """

    __slots__ = (
        "_by_id",
        "_by_key",
        "_by_session",
        "_ends",
        "_grace_s",
        "_grace_until",
        "_leases_max",
        "_stall_s",
        "last",
    )

    def __init__(self, leases_max: int, stall_s: float, grace_s: float) -> None:
        self._leases_max = leases_max
        self._stall_s = stall_s
        self._grace_s = grace_s
        self._grace_until = float("-inf")
        self._by_id: dict[int, _Lease] = {}
        self._by_key: dict[bytes, _Lease] = {}
        self._by_session: dict[int, dict[int, _Lease]] = {}  # those that end with it
        self._ends: list[tuple[float, int]] = []
        self.last = 0

    def __len__(self) -> int:
        """Count the leases."""
        return len(self._by_id)

    # --- by request --------------------------------------------------------------------------------------

    def grant(self, session: int, identity: bytes, ttl_ms: int, now: float) -> int:
        """Give a new lease.

        Args:
            session: the number of the session that asks.
            identity: whom it has proven to be.
            ttl_ms: milliseconds to live, 0 as long as the session.
            now: the time.

        Raises:
            RequestError: the time to live means nothing, or there are too many leases.
        """
        if not 0 <= ttl_ms <= LEASE_TTL_MS_MAX:
            message = f"a lease was asked for with {ttl_ms} ms to live, it may have 0 to {LEASE_TTL_MS_MAX}"
            raise RequestError(CloseReason.BAD_ARGUMENT, message)
        if len(self._by_id) >= self._leases_max:
            message = f"there are {len(self._by_id)} leases, the limit is {self._leases_max}"
            raise RequestError(CloseReason.TOO_MANY_LEASES, message)
        self._add(self.last + 1, session, identity, ttl_ms, now)
        return self.last

    def renew(self, lease: int, identity: bytes, now: float) -> int:
        """Let a lease live its whole time again; give that in milliseconds, 0 if it ends with its session.

        Raises:
            RequestError: there is no such lease.
        """
        found = self._find(lease, identity)
        found.ends_at = now + found.ttl_ms / 1000
        return found.ttl_ms

    def revoke(self, lease: int, identity: bytes) -> Ended:
        """End a lease.

        Raises:
            RequestError: there is no such lease.
        """
        return self._end(self._find(lease, identity))

    def check(self, lease: int, identity: bytes) -> None:
        """Look whether a key may be given to a lease.

        Raises:
            RequestError: there is no such lease.
        """
        self._find(lease, identity)

    # --- by what happens ---------------------------------------------------------------------------------

    def follow(self, key: bytes, lease: int) -> None:
        """Take note that a key has been written or deleted, and belongs to this lease now, 0 to none."""
        former = self._by_key.get(key)
        if former is None and not lease:
            return
        if former is not None:
            if former.lease == lease:
                return
            del former.keys[key]
            del self._by_key[key]
        if lease:
            found = self._by_key[key] = self._by_id[lease]
            found.keys[key] = None

    def lease_of(self, key: bytes) -> int:
        """Give the lease that a key belongs to, 0 for none."""
        lease = self._by_key.get(key)
        return 0 if lease is None else lease.lease

    def end_session(self, session: int) -> list[Ended]:
        """End the leases that end with a session, oldest first."""
        return [self._end(lease) for lease in list(self._by_session.get(session, {}).values())]

    def due(self, now: float) -> list[Ended]:
        """End the leases whose time is over, in the order of their ends, unless the server has stood still."""
        at = self.next_deadline()
        if at is None or at > now:
            return []
        if now - at > self._stall_s:
            self._grace_until = now + self._grace_s
            return []
        ended = []
        while self._top() is not None and self._ends[0][0] <= now:
            ended.append(self._end(self._by_id[self._ends[0][1]]))
        return ended

    def next_deadline(self) -> float | None:
        """Give the time at which ``due`` is to be asked, ``None`` if no time matters now."""
        top = self._top()
        return None if top is None else max(top, self._grace_until)

    def restore(self, lease: int, session: int, identity: bytes, ttl_ms: int, now: float) -> None:
        """Put back a lease of an earlier life; its time begins anew, its keys are told by ``follow``."""
        self._add(lease, session, identity, ttl_ms, now)

    def restore_last(self, last: int) -> None:
        """Never give an id up to this one again."""
        self.last = max(self.last, last)

    def views(self, now: float) -> Iterator[LeaseView]:
        """Give all leases, oldest first."""
        for lease in self._by_id.values():
            left_ms = max(int((lease.ends_at - now) * 1000), 0) if lease.ttl_ms else 0
            yield LeaseView(lease.lease, lease.session, lease.identity, lease.ttl_ms, left_ms, len(lease.keys))

    # --- within ------------------------------------------------------------------------------------------

    def _find(self, lease: int, identity: bytes) -> _Lease:
        found = self._by_id.get(lease)
        if found is None or found.identity != identity:
            raise RequestError(CloseReason.NO_SUCH_LEASE, f"there is no lease {lease}")
        return found

    def _add(self, lease: int, session: int, identity: bytes, ttl_ms: int, now: float) -> None:
        made = self._by_id[lease] = _Lease(lease, session, identity, ttl_ms)
        self.last = max(self.last, lease)
        if not ttl_ms:
            self._by_session.setdefault(session, {})[lease] = made
            return
        made.ends_at = now + ttl_ms / 1000
        ends = self._ends
        if len(ends) > 2 * len(self._by_id) + _STALE_MAX:
            ends[:] = ((each.ends_at, each.lease) for each in self._by_id.values() if each.ttl_ms)
            heapify(ends)
        else:
            heappush(ends, (made.ends_at, lease))

    def _end(self, lease: _Lease) -> Ended:
        del self._by_id[lease.lease]
        if not lease.ttl_ms:
            of_session = self._by_session[lease.session]
            del of_session[lease.lease]
            if not of_session:
                del self._by_session[lease.session]
        for key in lease.keys:
            del self._by_key[key]
        return Ended(lease.lease, list(lease.keys))

    def _top(self) -> float | None:
        """Give the time of the first end, entries that have become untrue set right."""
        ends = self._ends
        while ends:
            at, number = ends[0]
            lease = self._by_id.get(number)
            if lease is None:
                heappop(ends)
            elif lease.ends_at != at:
                heapreplace(ends, (lease.ends_at, number))
            else:
                return at
        return None
