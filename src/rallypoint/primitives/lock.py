"""A lock between processes, on any store: one holder at a time, in the order of coming; a holder that dies frees it.

Rules:

- Who waits stands in a line (:mod:`rallypoint.primitives.line`); nobody polls for the lock, and one that is freed wakes
  one.
- A lock is held by a lease. A holder that cannot renew it (killed, frozen, cut off) loses the lock on its own clock
  first: ``is_held`` turns false before anybody else can hold it.
- That is as far as a lock can go: a holder frozen between a look at ``is_held`` and its next write writes late. What it
  writes to should therefore refuse tokens older than the newest it has seen; tokens rise with each holder, for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rallypoint.clock import SYSTEM_CLOCK, Clock, Deadline
from rallypoint.errors import LeaseLostError, LockTimeoutError
from rallypoint.primitives.lease import DEFAULT_TTL_S, Lease, as_ttl_s
from rallypoint.primitives.line import Place, PlainLine, ServedLine, Standing, line_for
from rallypoint.store.base import Store, as_timeout_s
from rallypoint.types import Timeout

__all__ = ["Lock", "LockStatistics", "Tenure"]


@dataclass(frozen=True)
class LockStatistics:
    """What one process's lock object has come to.

    Attributes:
        name: the lock's.
        is_held: whether this object holds it.
        token: its fencing token; 0 if it does not hold the lock.
        acquired: how often it was acquired.
        timeouts: how often the time was up before.
        lost: how often it was lost while it was held.
        waited_s: seconds spent waiting for it, all together.
    """

    name: str
    is_held: bool
    token: int
    acquired: int
    timeouts: int
    lost: int
    waited_s: float


class Tenure:
    """What Lock and Election share: to stand in line, to be at its front, to lose that, to give it up.

    Args:
        store: any store.
        name: the line's.
        label: how others call this member.
        ttl: seconds or a ``timedelta`` that its place outlives it by.
        on_lost: called, without arguments, if the front is lost; in the thread that finds out.
        clock: for tests.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        label: str,
        ttl: Timeout,
        on_lost: Callable[[], None] | None,
        clock: Clock,
    ) -> None:
        self.name = name
        self.label = label
        self.clock = clock
        self.acquired = self.timeouts = self.lost = 0
        self.waited_s = 0.0
        self._store = store
        self._ttl_s = as_ttl_s(ttl)
        self._on_lost = on_lost
        self._line: ServedLine | PlainLine | None = None
        self._place: Place | None = None
        self._using = threading.Lock()

    @property
    def line(self) -> ServedLine | PlainLine:
        """The line; which kind it is is settled when it is first used."""
        if self._line is None:
            self._line = line_for(self._store, self.name)
        return self._line

    @property
    def is_held(self) -> bool:
        """Whether this object is at the front, as far as can be known without a call."""
        place = self._place
        return place is not None and place.lease.is_alive

    @property
    def token(self) -> int:
        """The fencing token of the front; 0 if this object is not there."""
        place = self._place
        return place.token if place is not None and place.lease.is_alive else 0

    def take(self, timeout: Timeout | None) -> int:
        """Come to the front; give the token.

        Raises:
            LockTimeoutError: others were there until the time was up.
            RuntimeError: this object is there already.
        """
        deadline = Deadline(self._store.timeout if timeout is None else as_timeout_s(timeout), self.clock)
        if not self._using.acquire(blocking=False):
            raise RuntimeError(f"{self.name!r} is already held or waited for by this object: give each thread its own")
        try:
            self._place = self._stand(deadline)
        except BaseException:
            self._using.release()
            raise
        finally:
            self.waited_s += deadline.waited_s()
        if self._place is None:
            self.timeouts += 1
            self._using.release()
            raise self._timed_out(deadline)
        self.acquired += 1
        return self._place.token

    def give_up(self) -> None:
        """Leave the front.

        Raises:
            LeaseLostError: it was lost before, and somebody else may be there.
            RuntimeError: this object was not there.
        """
        place, self._place = self._place, None
        if place is None:
            raise RuntimeError(f"{self.name!r} is not held by this object")
        was_alive = place.lease.is_alive
        try:
            place.leave()
        finally:
            self._using.release()
        if not was_alive:
            raise LeaseLostError(
                f"{self.name!r} was lost while it was held with token {place.token}: its lease of {self._ttl_s:g} s "
                "was not renewed in time",
                lease=place.lease.id,
            )

    def end_block(self, error: BaseException | None) -> None:
        """Leave the front at the end of a ``with`` block; beside the error that it ends with, a loss is no news.

        Raises:
            LeaseLostError: it was lost before, and the block ended well.
        """
        try:
            self.give_up()
        except LeaseLostError:
            if error is None:
                raise

    def _stand(self, deadline: Deadline) -> Place | None:
        """Stand in line until the front or the deadline; ``None`` for the latter."""
        while True:
            place: Place = self.line.join(Standing(self.label, self._ttl_s, self._note_loss, self.clock))
            try:
                if place.wait_front(deadline):
                    return place
            except LeaseLostError:  # this process was stopped for too long while it stood in line: it comes anew
                place.leave()
                if deadline.has_passed():
                    return None
                continue
            except BaseException:
                place.leave()
                raise
            place.leave()
            return None

    def _note_loss(self, lease: Lease) -> None:
        place = self._place
        if place is not None and place.lease is lease:
            self.lost += 1
            if self._on_lost is not None:
                self._on_lost()

    def _timed_out(self, deadline: Deadline) -> LockTimeoutError:
        front = self.line.front(self.clock)
        waited_s = deadline.waited_s()
        held_by = f"held by {front.label!r} (token {front.token})" if front else "just freed"
        return LockTimeoutError(
            f"Timed out waiting for {self.name!r} as {self.label!r} after {waited_s:.3f} s of "
            f"{deadline.timeout_s:g} s: it is {held_by}",
            name=self.name,
            holder=front.label if front else None,
            waited_s=waited_s,
        )


class Lock:
    """A lock between processes.

    ::

        with Lock(store, "checkpoint", label="host 3") as lock:
            save(fence=lock.token)

    Args:
        store: any store; all who share a lock must reach it in the same dialect.
        name: the lock's name, the start of its keys.
        label: how others call this member in errors.
        ttl: seconds or a ``timedelta`` after which a holder that is not heard of has lost it.
        on_lost: called, without arguments, if the lock is lost while it is held; in the thread that finds out. It must
            not block and must not raise.
        clock: for tests.

    Cost: with sessions 4 calls for an acquisition without waiting and 1 for a release, otherwise about 12 and 3; a call
        each third of ``ttl`` while it is held or waited for, and on a store without sessions about 4 each quarter
        while it is waited for.
    Threads: any, but an object holds the lock once: threads that compete for it need an object each.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        label: str = "",
        ttl: Timeout = DEFAULT_TTL_S,
        on_lost: Callable[[], None] | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._tenure = Tenure(store, name, label=label, ttl=ttl, on_lost=on_lost, clock=clock)

    def __repr__(self) -> str:
        return f"Lock({self._tenure.name!r}, {f'held with token {self.token}' if self.is_held else 'not held'})"

    @property
    def is_held(self) -> bool:
        """Whether this object holds the lock, as far as can be known without a call; false once its lease is over."""
        return self._tenure.is_held

    @property
    def token(self) -> int:
        """The fencing token, above that of every holder before; 0 if this object does not hold the lock."""
        return self._tenure.token

    def acquire(self, timeout: Timeout | None = None) -> int:
        """Wait for the lock and take it.

        Args:
            timeout: seconds or a ``timedelta``; ``None`` is the store's own, 0 takes it if it is free.

        Returns:
            The fencing token.

        Raises:
            LockTimeoutError: others held it until the time was up; it names the holder.
            RuntimeError: this object holds it already, or waits for it in another thread.
            DistStoreError: members of the other dialect use the name.
        """
        return self._tenure.take(timeout)

    def release(self) -> None:
        """Free the lock.

        Raises:
            LeaseLostError: it had been lost, and others may have held it meanwhile.
            RuntimeError: this object does not hold it.
        """
        self._tenure.give_up()

    def holder(self) -> str | None:
        """Give the label of whoever holds the lock, ``None`` for nobody. Cost: 1 to 3 calls."""
        front = self._tenure.line.front(self._tenure.clock)
        return front.label if front else None

    def statistics(self) -> LockStatistics:
        """Tell what this object has come to."""
        tenure = self._tenure
        return LockStatistics(
            name=tenure.name,
            is_held=tenure.is_held,
            token=tenure.token,
            acquired=tenure.acquired,
            timeouts=tenure.timeouts,
            lost=tenure.lost,
            waited_s=tenure.waited_s,
        )

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tenure.end_block(error)
