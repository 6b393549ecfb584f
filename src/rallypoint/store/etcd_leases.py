"""Leases on etcd, and the thread that keeps those alive which last as long as their store.

Rules:

- A lease's number is the revision of a write that was made for it, so it is above that of every lease granted before.
- etcd counts whole seconds and has a least time to live (its election timeout by 1.5, 2 seconds by default): a
  shorter one becomes that. ``lease_renew`` tells what it is.
- Leases without a time to live of their own get the session's, and are renewed after each third of it. So are marks.
- What a store keeps alive it revokes when it is closed.
"""

from __future__ import annotations

import contextlib
import math
import threading
from time import monotonic
from typing import Final

from rallypoint.clock import Deadline
from rallypoint.errors import DistError, LeaseLostError
from rallypoint.store import etcd_wire as wire
from rallypoint.store.etcd_cluster import Cluster, Refused
from rallypoint.store.etcd_names import Names
from rallypoint.store.etcd_refusal import ALREADY_EXISTS, NO_SUCH_LEASE, as_refusal, is_about

__all__ = ["MARK_TTL_S", "Leases", "lease_lost"]

MARK_TTL_S: Final = 60
"""How long marks stay after their store was last heard of, in seconds."""

TTL_MAX_S: Final = 9_000_000_000
"""What etcd takes at most, in seconds."""

CLOSE_S: Final = 2.0
"""How long closing a store may take to give back its leases, in seconds."""

AGAIN_S: Final = 0.5
"""After a renewal that failed: when it is tried again, in seconds."""


def lease_lost(lease: int) -> LeaseLostError:
    """Make the error of a lease that has ended."""
    return LeaseLostError(f"there is no lease {lease} (any more)", lease=lease)


class Leases:
    """The leases of one store.

    Args:
        cluster: whom to ask.
        names: where leases get their numbers.
        session_ttl_s: for how long those live on that last as long as the store, in whole seconds.

    Threads: any.
    """

    def __init__(self, cluster: Cluster, names: Names, session_ttl_s: int) -> None:
        self._cluster = cluster
        self._names = names
        self._session_ttl_s = session_ttl_s
        self._changed = threading.Condition()
        self._kept: dict[int, tuple[float, float]] = {}  # lease -> its time to live, when it is renewed next
        self._end: dict[int, float] = {}  # lease -> when etcd may end it: its time after a renewal that went well
        self._own: dict[str, int] = {}
        self._granting = threading.RLock()  # one thread at a time begins one of our own
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def marks(self, stale: int, deadline: Deadline) -> int:
        """Give the lease of this store's marks; if that is ``stale``, another one unless it lives."""
        return self._shared("marks", stale, MARK_TTL_S, deadline)

    def session(self, stale: int, deadline: Deadline) -> int:
        """Give the lease that shows that this store lives; if that is ``stale``, another one unless it lives."""
        return self._shared("session", stale, self._session_ttl_s, deadline)

    def _shared(self, what: str, stale: int, ttl_s: int, deadline: Deadline) -> int:
        lease = self._own.get(what, 0)
        if lease and lease != stale:
            return lease
        with self._granting:
            lease = self._own.get(what, 0)
            if not lease or (lease == stale and not self.is_alive(lease, deadline)):
                asked_at = monotonic()
                try:
                    lease = self._own[what] = self._begin(0, ttl_s, deadline)
                except Refused as refused:
                    raise as_refusal(refused.error, refused.endpoint) from refused.error
                self._keep(lease, ttl_s, asked_at)
            return lease

    def grant(self, ttl_s: float | None, deadline: Deadline) -> int:
        """Begin a lease; ``None`` for one that lasts as long as the store.

        Raises:
            ValueError: it would be longer than etcd can have it.

        Cost: two round trips.
        """
        whole_s = self._session_ttl_s if ttl_s is None else max(1, math.ceil(ttl_s))
        if whole_s > TTL_MAX_S:
            raise ValueError(f"ttl must be {TTL_MAX_S} seconds at most, got {ttl_s:g}")
        while True:
            number = wire.revision_of(self._cluster.ask("KV/Put", wire.put(self._names.counter, b""), deadline))
            asked_at = monotonic()
            try:
                lease = self._begin(number, whole_s, deadline)
            except Refused as refused:
                if not is_about(refused.error, ALREADY_EXISTS):
                    raise as_refusal(refused.error, refused.endpoint) from refused.error
                if not refused.was_unsure:
                    continue  # somebody else has given a lease of his this very number
                lease = number
            if ttl_s is None:
                self._keep(lease, whole_s, asked_at)
            return lease

    def renew(self, lease: int, deadline: Deadline) -> float:
        """Let a lease live on; give the seconds until it ends."""
        answer = self._cluster.ask("Lease/LeaseKeepAlive", wire.lease_number(lease), deadline)
        ttl_s = wire.numbers_of(answer).get(3, 0)
        if ttl_s <= 0:
            raise lease_lost(lease)
        return float(ttl_s)

    def is_alive(self, lease: int, deadline: Deadline) -> bool:
        """Tell whether a lease has not ended."""
        answer = self._cluster.ask("Lease/LeaseTimeToLive", wire.lease_number(lease), deadline)
        return wire.numbers_of(answer).get(3, 0) > 0

    def revoke(self, lease: int, deadline: Deadline) -> int:
        """End a lease and remove its keys; give how many there were. Cost: two round trips."""
        with self._changed:
            self._forget(lease)
        question = wire.lease_number(lease, wants_keys=True)
        answer = self._cluster.ask("Lease/LeaseTimeToLive", question, deadline)
        if wire.numbers_of(answer).get(3, 0) < 0:
            raise lease_lost(lease)
        try:
            self._cluster.request("Lease/LeaseRevoke", wire.lease_number(lease), deadline)
        except Refused as refused:
            if not is_about(refused.error, NO_SUCH_LEASE):
                raise as_refusal(refused.error, refused.endpoint) from refused.error
            if not refused.was_unsure:
                raise lease_lost(lease) from refused.error
        return len(wire.texts_of(answer, 5))

    def ends_at(self) -> float:
        """Give when etcd may end one of those that are kept alive, as far as is known; infinity if there are none."""
        with self._changed:
            return min(self._end.values(), default=math.inf)

    def close(self) -> None:
        """Revoke what was kept alive, as far as there is time; renew nothing more."""
        with self._changed:
            if self._is_closed:
                return
            self._is_closed = True
            leases = list(self._kept)
            self._kept.clear()
            self._end.clear()
            self._changed.notify_all()
        deadline = Deadline(CLOSE_S)
        for lease in leases:
            with contextlib.suppress(DistError, Refused):
                self._cluster.request("Lease/LeaseRevoke", wire.lease_number(lease), deadline)
            if deadline.has_passed():
                break

    def _begin(self, number: int, ttl_s: int, deadline: Deadline) -> int:
        answer = self._cluster.request("Lease/LeaseGrant", wire.lease_grant(number, ttl_s), deadline)
        return wire.numbers_of(answer.data).get(2, number)

    # --- keeping alive -----------------------------------------------------------------------------------

    def _keep(self, lease: int, ttl_s: float, asked_at: float) -> None:
        with self._changed:
            if self._is_closed:
                return
            self._kept[lease], self._end[lease] = (ttl_s, monotonic() + ttl_s / 3), asked_at + ttl_s
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="rallypoint-etcd-leases", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def _forget(self, lease: int) -> None:
        self._kept.pop(lease, None)
        self._end.pop(lease, None)

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._is_closed:
                    return
                lease, (ttl_s, due) = min(self._kept.items(), key=lambda one: one[1][1], default=(0, (0.0, math.inf)))
                wait_s = due - monotonic()
                if wait_s > 0:
                    self._changed.wait(None if math.isinf(wait_s) else wait_s)
                    continue
            pause_s: float | None = ttl_s / 3
            asked_at = monotonic()
            try:
                self.renew(lease, Deadline(max(1.0, ttl_s / 3)))
            except LeaseLostError:
                pause_s = None
            except DistError:
                pause_s, asked_at = AGAIN_S, -math.inf  # whoever calls next is told what the trouble is
            with self._changed:
                if pause_s is None:
                    self._forget(lease)
                elif lease in self._kept:
                    self._kept[lease] = (ttl_s, monotonic() + pause_s)
                    self._end[lease] = max(self._end[lease], asked_at + ttl_s)
