"""Standing in line: who comes first is served first, and who dies leaves the line.

Lock and Election are this line with two names for its front. A place in it is bound to a lease: while that lives the
place is kept, and when it ends the next one moves up. A place's token rises along the line for ever, so that whoever is
shown an older token than one it has seen knows that its bearer was overtaken (a fencing token).

On a store with sessions a place is a key of the lease's; its revision is its order and its token::

    <name>/line/<lease>   label        revision 17   at the front
    <name>/line/<lease>   label        revision 21   watches the one before
    <name>/line/<lease>   label        revision 24   watches the one before

On any other store a place is a ticket, which is also its token. Whoever has it waits for the end of the ticket before::

    <name>/place/count    how many tickets were given out
    <name>/place/<n>      ticket n's beat (rallypoint.primitives.beats)
    <name>/about/<n>      its time to live and label
    <name>/over/<n>       ticket n has left, or was seen to be dead
    <name>/floor          f: tickets 1 to f are over, and f + 1 has been at the front

- Ticket n is at the front when all before it are over. It walks down: over n - 1, n - 2, ... to the floor.
- Before it says so it moves its beat: a ticket that others have sealed learns it there.
- It raises the floor to n - 1 before it removes what the tickets below have left, so that whoever slept through its own
  end and finds no trace of it finds the floor.

The two kinds do not see each other; members of both are told (:mod:`rallypoint.primitives.kind`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from datetime import timedelta
from typing import NamedTuple, Protocol

from rallypoint.clock import Clock, Deadline
from rallypoint.errors import DistStoreError, LeaseLostError, StoreTimeoutError
from rallypoint.primitives.arrivals import is_timeout
from rallypoint.primitives.beats import QUIET_FACTOR, Sighting, is_sealed, peek, seal
from rallypoint.primitives.kind import agree_on_kind
from rallypoint.primitives.lease import STORE_ERRORS, Lease
from rallypoint.store.base import Store
from rallypoint.store.session_calls import ABSENT, Watch

__all__ = ["Front", "Place", "PlainLine", "ServedLine", "Standing", "line_for"]

LOOKS_IN_TTL = 4
"""Who waits on a store without sessions looks so often in a time to live whether the one before still lives."""

VACANCY_LOOK_S = 0.05
"""Who observes the line on a store without sessions looks so often whether somebody is at the front, if nobody was."""

PRESENT = "1"
"""What is written where only the key's existence matters."""


class Front(NamedTuple):
    """Who is at the front of a line.

    Attributes:
        label: how it calls itself.
        token: its fencing token.
    """

    label: str
    token: int


class Place(Protocol):
    """One member's place in a line.

    Attributes:
        lease: what it is bound to.
        token: its fencing token; above 0, and rising along the line.
    """

    lease: Lease
    token: int

    def wait_front(self, deadline: Deadline) -> bool:
        """Wait to be at the front; give whether it came to that before the deadline.

        Raises:
            LeaseLostError: the place is lost.
        """
        ...

    def leave(self) -> None:
        """Give the place up, wherever it is; a store that fails then ends it by time."""
        ...


class Standing(NamedTuple):
    """What a member brings to a line.

    Attributes:
        label: how others call it.
        ttl_s: how long its place outlives it, in seconds.
        on_lost: called if the place is lost.
        clock: the member's clock.
    """

    label: str
    ttl_s: float
    on_lost: Callable[[Lease], None] | None
    clock: Clock


class ServedLine:
    """A line on a store with sessions.

    Args:
        store: the store.
        name: the line's.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.prefix = f"{name}/line/"

    def join(self, standing: Standing) -> ServedPlace:
        """Take a place. Cost: 2 calls."""
        return ServedPlace(self, standing)

    def front(self, clock: Clock) -> Front | None:
        """Tell who is at the front. Cost: 1 call."""
        del clock
        entries = self.store.read_prefix(self.prefix)
        if not entries:
            return None
        first = min(entries, key=lambda entry: entry.revision)
        return Front(first.value.decode(errors="replace"), first.revision)

    def wait_change(self, front: Front | None, deadline: Deadline, clock: Clock) -> Front | None:
        """Wait until somebody else is at the front, or nobody; give who. What was is given if the time is up."""
        with self.store.watch(self.prefix, is_prefix=True) as watch:
            while True:
                found = self.front(clock)
                if found != front or not _next_event(watch, deadline):
                    return found


class ServedPlace:
    """A place on a store with sessions."""

    def __init__(self, line: ServedLine, standing: Standing) -> None:
        self._line = line
        self.lease = Lease(line.store, standing.ttl_s, on_lost=standing.on_lost, clock=standing.clock)
        self.key = f"{line.prefix}{self.lease.id:020d}"
        try:
            is_written, self.token = line.store.swap(self.key, ABSENT, standing.label, lease=self.lease.id)
        except BaseException:
            self.lease.close()
            raise
        if not is_written:
            raise DistStoreError(f"{self.key!r} exists already: something else than a line writes there")

    def wait_front(self, deadline: Deadline) -> bool:
        store = self._line.store
        while True:
            entries = store.read_prefix(self._line.prefix)
            if not self.lease.is_alive or all(entry.key != self.key for entry in entries):
                raise LeaseLostError(f"lease {self.lease.id} has ended while its place in line", lease=self.lease.id)
            before = [entry for entry in entries if entry.revision < self.token]
            if not before:
                return True
            ahead = max(before, key=lambda entry: entry.revision)
            with store.watch(ahead.key, since=ahead.revision) as watch:
                if not _next_event(watch, deadline):
                    return False

    def leave(self) -> None:
        self.lease.close()


class PlainLine:
    """A line on any store.

    Args:
        store: the store.
        name: the line's.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = name
        self._seen: tuple[int, Sighting] = (0, Sighting())

    def join(self, standing: Standing) -> PlainPlace:
        """Take a place. Cost: 4 calls."""
        return PlainPlace(self, standing)

    def front(self, clock: Clock) -> Front | None:
        """Tell who is at the front; one that died is named until its beat has been seen not to move for its time.

        Cost: 3 calls, for nobody 1 or 2.
        """
        floor = self.floor()
        about = None if floor is None else self.about(floor + 1)
        if floor is None or about is None:
            return None
        token = floor + 1
        if self._seen[0] != token:
            self._seen = (token, Sighting())
        value = peek(self.store, self.beat_key(token))
        quiet_s = self._seen[1].look(value, clock.now())
        is_gone = value is None or is_sealed(value) or quiet_s > about[0] * QUIET_FACTOR
        return None if is_gone else Front(about[1], token)

    def wait_change(self, front: Front | None, deadline: Deadline, clock: Clock) -> Front | None:
        """Wait until somebody else is at the front, or nobody; give who. What was is given if the time is up."""
        while True:
            found = self.front(clock)
            if found != front or deadline.has_passed():
                return found
            token = (self.floor() or 0) + 1 if front is None else front.token
            # Who is at the front leaves a key. That somebody comes there does not, where nobody was.
            about_s = 0.0 if front is None else (self.about(token) or (0.0, ""))[0] / LOOKS_IN_TTL
            _wait(self.store, self.over_key(token), max(about_s, VACANCY_LOOK_S), deadline)

    # --- what is stored ---

    def floor(self) -> int | None:
        """Give the floor, ``None`` before anybody was at the front."""
        value = peek(self.store, f"{self.name}/floor")
        return None if value is None else int(value)

    def raise_floor(self, floor: int) -> None:
        """Raise the floor; it never falls. Cost: 2 calls, 1 more for each that raises it meanwhile."""
        key, found = f"{self.name}/floor", peek(self.store, f"{self.name}/floor")
        desired = str(floor).encode()
        while found is None or int(found) < floor:
            found = bytes(self.store.compare_set(key, found or b"", desired))

    def about(self, ticket: int) -> tuple[float, str] | None:
        """Give a ticket's time to live in seconds, and its label."""
        value = peek(self.store, self.about_key(ticket))
        if value is None:
            return None
        ttl_ms, _, label = value.decode(errors="replace").partition(" ")
        return int(ttl_ms) / 1000, label

    def beat_key(self, ticket: int) -> str:
        """Give the key of a ticket's beat."""
        return f"{self.name}/place/{ticket}"

    def about_key(self, ticket: int) -> str:
        """Give the key under which a ticket tells of itself."""
        return f"{self.name}/about/{ticket}"

    def over_key(self, ticket: int) -> str:
        """Give the key that appears when a ticket is over."""
        return f"{self.name}/over/{ticket}"


class PlainPlace:
    """A place on any store."""

    def __init__(self, line: PlainLine, standing: Standing) -> None:
        self._line = line
        self._standing = standing
        self.lease = Lease(
            line.store, standing.ttl_s, name=f"{line.name}/place", on_lost=standing.on_lost, clock=standing.clock
        )
        self.token = self.lease.id
        self._ahead = self.token - 1
        self._sighting = Sighting()
        self._ahead_ttl_s: float | None = None
        try:
            line.store.set(line.about_key(self.token), f"{math.ceil(standing.ttl_s * 1000)} {standing.label}")
            self._floor = self._read_floor()
        except BaseException:
            self.leave()
            raise

    def wait_front(self, deadline: Deadline) -> bool:
        slice_s = self._standing.ttl_s / LOOKS_IN_TTL
        while not self._is_front():
            if not self.lease.is_alive:
                raise self._lost()
            over = self._line.over_key(self._ahead)
            if not _wait(self._line.store, over, slice_s, deadline) and deadline.has_passed():
                return False
        self.lease.renew()  # or others have sealed it
        self._line.raise_floor(self.token - 1)
        self._clear_below()
        if not self.lease.is_alive:
            raise self._lost()
        return True

    def leave(self) -> None:
        line = self._line
        with contextlib.suppress(*STORE_ERRORS):
            if self.lease.is_alive or peek(line.store, line.beat_key(self.token)) is not None:  # else it was cleared
                line.store.set(line.over_key(self.token), PRESENT)
        self.lease.close()
        with contextlib.suppress(*STORE_ERRORS):
            line.store.delete_key(line.about_key(self.token))

    def _is_front(self) -> bool:
        """Walk down as far as the tickets before are over."""
        line = self._line
        while self._ahead > self._floor:
            if peek(line.store, line.over_key(self._ahead)) is None and not self._is_dead():
                return False
            self._ahead -= 1
            self._sighting = Sighting()
            self._ahead_ttl_s = None
            self._floor = self._read_floor()
        return True

    def _is_dead(self) -> bool:
        """Look at the beat of the ticket ahead, and seal it if it has not moved for its time."""
        line, ahead = self._line, self._ahead
        beat = line.beat_key(ahead)
        value = peek(line.store, beat)
        if self._ahead_ttl_s is None and (about := line.about(ahead)) is not None:
            self._ahead_ttl_s = about[0]
        quiet_max_s = (self._ahead_ttl_s or self._standing.ttl_s) * QUIET_FACTOR  # ours: it was stopped while it came
        quiet_s = self._sighting.look(value, self._standing.clock.now())
        if not is_sealed(value) and (quiet_s <= quiet_max_s or not seal(line.store, beat, value)):
            return False
        line.store.set(line.over_key(ahead), PRESENT)
        return True

    def _read_floor(self) -> int:
        floor = self._line.floor() or 0
        if floor >= self.token:
            raise self._lost()
        return floor

    def _clear_below(self) -> None:
        line = self._line
        for ticket in range(self._ahead + 1, self.token):
            for key in (line.over_key(ticket), line.beat_key(ticket), line.about_key(ticket)):
                line.store.delete_key(key)

    def _lost(self) -> LeaseLostError:
        return LeaseLostError(
            f"ticket {self.token} of {self._line.name!r} is over: nobody saw its beat move in time", lease=self.token
        )


def line_for(store: Store, name: str) -> ServedLine | PlainLine:
    """Give the line of a name, of the best kind that the store can do. Cost: 1 call.

    Raises:
        DistStoreError: members of the other kind use it.
    """
    return (ServedLine if agree_on_kind(store, name) else PlainLine)(store, name)


def _wait(store: Store, key: str, slice_s: float, deadline: Deadline) -> bool:
    """Wait for a key for a slice of time; give whether it is there."""
    try:
        store.wait([key], timedelta(seconds=min(slice_s, deadline.remaining_s())))
    except (RuntimeError, TimeoutError) as error:
        if not is_timeout(error):
            raise
        return False
    return True


def _next_event(watch: Watch, deadline: Deadline) -> bool:
    """Wait for something to happen; give whether it did."""
    try:
        watch.next(deadline.remaining_s())
    except StoreTimeoutError:
        return False
    return True
