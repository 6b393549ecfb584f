"""A lease: a right that ends unless it is renewed, and that renews itself while its holder lives.

Rules:

- A lease is alive for its time to live after each renewal, counted on the holder's own monotonic clock from before the
  renewal was asked for. So the holder knows of the end before anybody else can.
- A store with sessions judges by its own clock, ends the lease of a session that is gone, and deletes the lease's keys.
  Any other store has a counter that the holder moves (:mod:`rallypoint.primitives.beats`), and others watch it.
- Once lost a lease stays lost.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from rallypoint import events
from rallypoint.clock import SYSTEM_CLOCK, Clock
from rallypoint.errors import LeaseLostError
from rallypoint.primitives import keeper
from rallypoint.primitives.beats import Beat
from rallypoint.primitives.kind import has_sessions
from rallypoint.store.base import Store, as_timeout_s
from rallypoint.store.bootstrap import store_timeout
from rallypoint.store.session_calls import ANY_REVISION
from rallypoint.types import Text, Timeout

__all__ = ["DEFAULT_TTL_S", "Lease", "LeaseStatistics", "as_ttl_s"]

DEFAULT_TTL_S = 10.0
"""How long a lease lives after its holder was last heard of, unless told otherwise."""

TTL_MIN_S = 0.05
"""Shorter leases end by the scheduling of a busy machine."""

RENEWALS_IN_TTL = 3
"""A lease is renewed so often in its time to live; and so often again in that part when a renewal fails."""

STORE_ERRORS = (RuntimeError, OSError)
"""What any store may raise when it fails."""


@dataclass(frozen=True)
class LeaseStatistics:
    """What a lease has come to.

    Attributes:
        id: the lease's number.
        is_alive: whether it is held.
        ttl_s: for how long it lives after a renewal, in seconds.
        left_s: how long it lives on unless it is renewed, in seconds; 0 if it is not alive.
        age_s: seconds since it was granted.
        renewals: how often it was renewed.
        failures: how often a renewal failed, for which the next one made up unless the lease is lost.
    """

    id: int
    is_alive: bool
    ttl_s: float
    left_s: float
    age_s: float
    renewals: int
    failures: int


def as_ttl_s(ttl: Timeout) -> float:
    """Give a time to live in seconds.

    Raises:
        TypeError: it is no time.
        ValueError: it is shorter than ``TTL_MIN_S``, or endless.
    """
    ttl_s = as_timeout_s(ttl, "ttl")
    if not TTL_MIN_S <= ttl_s < float("inf"):
        raise ValueError(f"ttl must be {TTL_MIN_S:g} seconds or more and finite, got {ttl_s:g}")
    return ttl_s


class Lease:
    """A lease on any store, kept alive by a daemon thread until it is closed.

    Args:
        store: any store.
        ttl: seconds or a ``timedelta`` that the lease outlives its holder by; at least 0.05 s.
        name: where the lease has its keys on a store without sessions; those who share it share the numbering.
        on_lost: called once, with the lease, if it ends before it is closed; in the thread that finds out. It must not
            block and must not raise.
        clock: for tests: with another than the system's nobody renews the lease but its owner, by :meth:`renew`.

    Attributes:
        id: the lease's number, above 0; those of one server, or one name, rise for ever.

    Raises:
        ValueError: ``ttl`` is out of range.

    Cost: 1 or 2 calls; 1 call each third of ``ttl``. All leases of one store object share a thread.
    Threads: any. A forked child has no part in its parent's leases: there they are not alive.
    """

    def __init__(
        self,
        store: Store,
        ttl: Timeout = DEFAULT_TTL_S,
        *,
        name: str = "rallypoint/lease",
        on_lost: Callable[[Lease], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.ttl_s = as_ttl_s(ttl)
        self._store = store
        self._clock = clock
        self._on_lost = on_lost
        self._owner_pid = os.getpid()
        self._lock = threading.Lock()
        self._renewing = threading.Lock()
        self._lost = threading.Event()
        self._is_closed = False
        self._renewals = 0
        self._failures = 0
        self._granted_at = self._renewed_at = clock.now()
        self._holding: _Holding = (_ServedHolding if has_sessions(store) else _BeatHolding)(store, name, self.ttl_s)
        self.id = self._holding.id
        self.due_at = self._renewed_at + self.ttl_s / RENEWALS_IN_TTL
        if clock is SYSTEM_CLOCK:
            keeper.keep(store, self)

    def __repr__(self) -> str:
        state = "alive" if self.is_alive else "closed" if self._is_closed else "lost"
        return f"Lease({self.id}, {state}, ttl {self.ttl_s:g} s)"

    @property
    def is_alive(self) -> bool:
        """Whether the lease is held: neither closed nor lost, and renewed in time. Costs no call."""
        return self.left_s > 0

    @property
    def is_lost(self) -> bool:
        """Whether the lease is known to have ended before it was closed."""
        return self._lost.is_set()

    @property
    def left_s(self) -> float:
        """How long the lease lives on unless it is renewed, in seconds; 0 if it is not alive."""
        if self._is_closed or self._lost.is_set() or os.getpid() != self._owner_pid:
            return 0.0
        return max(0.0, self._renewed_at + self.ttl_s - self._clock.now())

    def renew(self) -> None:
        """Renew the lease now. Cost: 1 call.

        Raises:
            LeaseLostError: it has ended.
            DistError: the store failed; the lease lives on until its time is up.
        """
        with self._renewing:
            began = self._clock.now()
            if not self.is_alive:
                self._lose("was not renewed in time")
                raise self._lost_error()
            try:
                with self._bounded(self.left_s):
                    self._holding.renew()
            except LeaseLostError as error:
                self._lose(str(error))
                raise self._lost_error() from error
            self._renewed_at = began
            self._renewals += 1
            self.due_at = began + self.ttl_s / RENEWALS_IN_TTL

    def keep(self) -> None:
        """Renew the lease, or note that it could not be done, or that it is lost; never raises."""
        try:
            self.renew()
        except LeaseLostError:
            keeper.forget(self._store, self)
        except Exception:  # noqa: BLE001 - whatever a foreign store raises: tried again until the time is up
            self._failures += 1
            self.due_at = self._clock.now() + self.ttl_s / RENEWALS_IN_TTL**2
            if not self.is_alive:
                self._lose("could not be renewed in time")
                keeper.forget(self._store, self)

    def put(self, key: Text, value: Text) -> None:
        """Set a key that goes when the lease goes. Cost: 1 call.

        Raises:
            LeaseLostError: the lease has ended.
            NotImplementedError: the store has no sessions.
        """
        if not self.is_alive:
            raise self._lost_error()
        if not isinstance(self._holding, _ServedHolding):  # nobody would delete the key of a holder that died
            raise NotImplementedError(f"{key!r}: keys that go with their lease need a store with sessions")
        self._holding.put(key, value)

    def wait_lost(self, timeout: Timeout | None = None) -> bool:
        """Wait until the lease is lost.

        Args:
            timeout: seconds or a ``timedelta``; ``None`` waits for ever.

        Returns:
            Whether it is.
        """
        seconds = None if timeout is None else min(as_timeout_s(timeout), threading.TIMEOUT_MAX)
        return self._lost.wait(seconds)

    def close(self) -> None:
        """End the lease, and with it its keys. Closing twice is fine; a store that fails then ends it by time."""
        with self._lock:
            was_closed, self._is_closed = self._is_closed, True
        if was_closed or os.getpid() != self._owner_pid:
            return
        keeper.forget(self._store, self)
        with contextlib.suppress(*STORE_ERRORS), self._renewing, self._bounded(self.ttl_s):
            self._holding.end()  # also if it is lost: where it is not yet known to be, it need not be waited for

    def statistics(self) -> LeaseStatistics:
        """Tell what the lease has come to."""
        return LeaseStatistics(
            id=self.id,
            is_alive=self.is_alive,
            ttl_s=self.ttl_s,
            left_s=self.left_s,
            age_s=self._clock.now() - self._granted_at,
            renewals=self._renewals,
            failures=self._failures,
        )

    def __enter__(self) -> Lease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _bounded(self, seconds: float) -> contextlib.AbstractContextManager[None]:
        """Let a call take so long, on our own stores; a foreign one has one timeout for all its users."""
        return store_timeout(self._store, seconds) if isinstance(self._store, Store) else contextlib.nullcontext()

    def _lose(self, why: str) -> None:
        with self._lock:
            if self._is_closed or self._lost.is_set() or os.getpid() != self._owner_pid:
                return
            self._lost.set()
        events.emit("lease.lost", f"lease {self.id} is lost: it {why}", lease=self.id)
        if self._on_lost is not None:
            self._on_lost(self)

    def _lost_error(self) -> LeaseLostError:
        how = "was closed" if self._is_closed else "has ended: nobody heard of its holder in time"
        return LeaseLostError(f"lease {self.id} of {self.ttl_s:g} s {how}", lease=self.id)


class _Holding(Protocol):
    id: int

    def __init__(self, store: Store, name: str, ttl_s: float) -> None: ...

    def renew(self) -> None: ...

    def end(self) -> None: ...


class _ServedHolding:
    """A lease of a store that has leases."""

    def __init__(self, store: Store, name: str, ttl_s: float) -> None:
        del name
        self._store = store
        self.id = store.lease_grant(ttl_s)

    def renew(self) -> None:
        self._store.lease_renew(self.id)

    def put(self, key: Text, value: Text) -> None:
        self._store.swap(key, ANY_REVISION, value, lease=self.id)

    def end(self) -> None:
        self._store.lease_revoke(self.id)


class _BeatHolding:
    """A lease that is a counter others can watch."""

    def __init__(self, store: Store, name: str, ttl_s: float) -> None:
        del ttl_s
        while True:
            self.id = int(store.add(f"{name}/count", 1))
            try:
                self._beat = Beat(store, f"{name}/{self.id}")
            except LeaseLostError:  # this process slept between the two calls for longer than others would wait
                continue
            return

    def renew(self) -> None:
        self._beat.move()

    def end(self) -> None:
        self._beat.stop()
