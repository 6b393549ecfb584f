"""Meeting on a store that has nothing but keys: who is there, who decides, who is dead.

Rules:

- Each member of generation g leaves its value under a key of its own. Coming twice, or coming as the successor of one
  that died, leaves the same key; nothing is counted, so nothing is counted twice.
- One key decides, the gate: it holds the last generation that was decided, and how. It is changed only by a swap.
- Rank 0 waits for all keys and swaps the gate to "open". The others wait for the doorbell that it rings then.
- Who gives up removes its key, then swaps the gate for itself with another nonce. So a rank 0 that still saw that key
  cannot open the gate; and a member whose swap finds the gate open has not left but passed.
- With a time to live each member has a beat (:mod:`rallypoint.primitives.beats`). Rank 0 watches those who are missing,
  everybody watches rank 0; who finds a dead one swaps the gate to "gone", and that generation has failed for all.

::

    <name>/gate          "7 open 5d0c..."  or  "7 gone:3,5 91aa..."
    <name>/8/<rank>      that member's value in generation 8
    <name>/8/bell        generation 8 is decided: how
    <name>/about/<rank>  the member's beat, time to live, the generation that it gave up, and label
    <name>/beat/<n>      a beat

A generation's keys are removed by their own members once the next one is open: then everybody has read them.

A member that dies after it has come counts, until the next generation misses it.

Cost: 5 calls for a member, 7 for rank 0, 2 more the first time; a look at each missing member's beat four times in a
time to live, by rank 0 alone.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple

from rallypoint.clock import Clock, Deadline
from rallypoint.errors import BarrierBrokenError, BarrierTimeoutError
from rallypoint.primitives.arrivals import is_timeout
from rallypoint.primitives.beats import QUIET_FACTOR, Sighting, is_sealed, peek, seal
from rallypoint.primitives.lease import STORE_ERRORS, Lease
from rallypoint.store.base import Store
from rallypoint.types import Member

__all__ = ["Gathering"]

LOOKS_IN_TTL = 4
"""Who waits looks so often in a time to live at the beats that it watches."""

SLICE_S = 5.0
"""Without a time to live, who waits looks at the gate that often in any case: whoever rang might have died before."""

NAMES_SHOWN_MAX = 64
"""An error's sentence names so many members; its attributes have them all."""

OPEN = "open"
GONE = "gone:"


class _Gate(NamedTuple):
    """What the gate holds: the last generation that was decided, how, and something to tell it from all others."""

    generation: int
    verdict: str
    nonce: str

    @classmethod
    def decode(cls, data: bytes) -> _Gate:
        generation, verdict, nonce = data.decode().split(" ")
        return cls(int(generation), verdict, nonce)

    def encode(self) -> bytes:
        return f"{self.generation} {self.verdict} {self.nonce}".encode()


class _About(NamedTuple):
    """What a member tells of itself: its beat (0: none), time to live, generation that it gave up (0: none), label."""

    beat: int
    ttl_s: float
    given_up: int
    label: str


class Gathering:
    """One member's part in a gathering on any store.

    Args:
        store: the store.
        name: the gathering's.
        member: the caller's rank and label.
        world_size: how many members.
        ttl_s: the time to live of the member's beat, in seconds; ``None`` for no beat.
        clock: the member's clock.

    Threads: one.
    """

    def __init__(
        self, store: Store, name: str, member: Member, world_size: int, *, ttl_s: float | None, clock: Clock
    ) -> None:
        self._store = store
        self._name = name
        self._member = member
        self._world_size = world_size
        self._ttl_s = ttl_s
        self._clock = clock
        self._lease: Lease | None = None
        self._has_told = False
        self._left_behind: list[int] = []
        self._sightings: dict[tuple[int, int], Sighting] = {}

    def gather(self, value: bytes, deadline: Deadline, *, with_values: bool) -> tuple[int, list[bytes]]:
        """Come, and wait for the others.

        Args:
            value: what the others get.
            deadline: until when.
            with_values: whether the others' values are wanted.

        Returns:
            The generation, and all values by rank, or none.

        Raises:
            BarrierTimeoutError: members are missing; the caller has left again.
            BarrierBrokenError: members are dead.
        """
        self._tell()
        store, generation = self._store, self._gate().generation + 1
        store.set(self._key(generation, self._member.rank), value)
        self._left_behind.append(generation)
        try:
            verdict = self._await(generation, deadline)
        except BaseException:
            with contextlib.suppress(*STORE_ERRORS):
                self._leave(generation)
            raise
        if verdict is None:
            verdict = self._leave(generation)
            if verdict is None:
                raise self._timed_out(generation, deadline)
        if verdict != OPEN:
            raise self._broken(verdict, deadline)
        values = []
        if with_values:
            values = [bytes(each) for each in store.multi_get([self._key(generation, r) for r in self._ranks])]
        self._clear(generation)
        return generation, values

    def close(self) -> None:
        """Stop beating: to the others this member has ended."""
        if self._lease is not None:
            self._lease.close()
            self._lease = None
        self._has_told = False

    # --- deciding ---

    def _await(self, generation: int, deadline: Deadline) -> str | None:
        """Wait for a verdict on the generation; ``None`` if the time is up before."""
        is_first = self._member.rank == 0
        awaited = [self._key(generation, rank) for rank in self._ranks] if is_first else [self._bell(generation)]
        watched = [rank for rank in self._ranks if rank != 0] if is_first else [0]
        slice_s = SLICE_S if self._ttl_s is None else self._ttl_s / LOOKS_IN_TTL
        while True:
            gate = self._gate()
            if gate.generation >= generation:
                return self._verdict(generation, gate)
            is_there = _wait(self._store, awaited, min(slice_s, deadline.remaining_s()))
            if is_there and is_first and self._store.check(awaited):
                self._decide(gate, generation, OPEN)
            elif not is_there:
                dead = [rank for rank in self._absent(generation, watched) if self._is_dead(rank)]
                if dead:
                    self._decide(gate, generation, GONE + ",".join(map(str, dead)))
                elif deadline.has_passed():
                    return None

    def _decide(self, seen: _Gate, generation: int, verdict: str) -> None:
        """Swap the gate, unless somebody else has; and tell those who wait."""
        desired = _Gate(generation, verdict, secrets.token_hex(8))
        if self._swap(seen, desired):
            self._store.set(self._bell(generation), verdict)

    def _leave(self, generation: int) -> str | None:
        """Take the arrival back; give the verdict if there is one after all."""
        self._has_told = False  # those who give up a moment later shall not take this member for missing
        self._write_about(given_up=generation)
        self._store.delete_key(self._key(generation, self._member.rank))
        while True:
            gate = self._gate()
            if gate.generation >= generation:
                return self._verdict(generation, gate)
            if self._swap(gate, gate._replace(nonce=secrets.token_hex(8))):
                return None

    def _verdict(self, generation: int, gate: _Gate) -> str:
        """Give the verdict on a generation that was decided; a later one may stand in the gate already."""
        if gate.generation == generation:
            return gate.verdict
        rung = peek(self._store, self._bell(generation))
        return GONE if rung is None else rung.decode()

    def _gate(self) -> _Gate:
        key = f"{self._name}/gate"
        found = peek(self._store, key)
        if found is None:
            found = bytes(self._store.compare_set(key, b"", _Gate(0, OPEN, secrets.token_hex(8)).encode()))
        return _Gate.decode(found)

    def _swap(self, seen: _Gate, desired: _Gate) -> bool:
        return bytes(self._store.compare_set(f"{self._name}/gate", seen.encode(), desired.encode())) == desired.encode()

    # --- who is there, who is dead ---

    def _absent(self, generation: int, ranks: Sequence[int]) -> list[int]:
        """Give those who have not come. Cost: about ``m * log2(n / m)`` calls for ``m`` of ``n``."""
        absent, parts = [], [list(ranks)] if ranks else []
        while parts:
            part = parts.pop()
            if self._store.check([self._key(generation, rank) for rank in part]):
                continue
            middle = len(part) // 2
            if middle:
                parts += [part[:middle], part[middle:]]
            else:
                absent += part
        return sorted(absent)

    def _is_dead(self, rank: int) -> bool:
        """Look at a member's beat; nobody who never told of one is dead."""
        about = self._about(rank)
        if about is None or about.beat == 0:
            return False
        key = f"{self._name}/beat/{about.beat}"
        value = peek(self._store, key)
        quiet_s = self._sightings.setdefault((rank, about.beat), Sighting()).look(value, self._clock.now())
        return (
            value is None
            or is_sealed(value)
            or (quiet_s > about.ttl_s * QUIET_FACTOR and seal(self._store, key, value))
        )

    def _tell(self) -> None:
        """Tell of oneself, the first time and whenever the beat was lost."""
        if self._ttl_s is not None and (self._lease is None or not self._lease.is_alive):
            if self._lease is not None:
                self._lease.close()
            self._lease = Lease(self._store, self._ttl_s, name=f"{self._name}/beat", clock=self._clock)
            self._has_told = False
        if not self._has_told:
            self._write_about(given_up=0)
            self._has_told = True

    def _write_about(self, *, given_up: int) -> None:
        beat = 0 if self._lease is None else self._lease.id
        text = f"{beat} {self._ttl_s or 0:g} {given_up} {self._member.label}"
        self._store.set(f"{self._name}/about/{self._member.rank}", text)

    def _about(self, rank: int) -> _About | None:
        found = peek(self._store, f"{self._name}/about/{rank}")
        if found is None:
            return None
        beat, ttl_s, given_up, label = found.decode(errors="replace").split(" ", 3)
        return _About(int(beat), float(ttl_s), int(given_up), label)

    def _abouts(self, ranks: Sequence[int]) -> dict[Member, _About | None]:
        """Give members with what they tell of themselves, as far as that can be shown."""
        abouts = {rank: self._about(rank) if place < NAMES_SHOWN_MAX else None for place, rank in enumerate(ranks)}
        return {Member(rank, about.label if about else ""): about for rank, about in abouts.items()}

    # --- keys and errors ---

    @property
    def _ranks(self) -> range:
        return range(self._world_size)

    def _key(self, generation: int, rank: int) -> str:
        return f"{self._name}/{generation}/{rank}"

    def _bell(self, generation: int) -> str:
        return f"{self._name}/{generation}/bell"

    def _clear(self, generation: int) -> None:
        """Remove what this member left in the generations before an open one."""
        for old in set(self._left_behind) - {generation}:
            self._store.delete_key(self._key(old, self._member.rank))
            if self._member.rank == 0:
                self._store.delete_key(self._bell(old))
        self._left_behind = [generation]

    def _timed_out(self, generation: int, deadline: Deadline) -> BarrierTimeoutError:
        absent = [rank for rank in self._absent(generation, self._ranks) if rank != self._member.rank]
        abouts = self._abouts(absent)
        left = [member for member, about in abouts.items() if about and about.given_up == generation]
        missing = [member for member in abouts if member not in left] or left
        there = list(self._abouts(sorted(set(self._ranks) - set(absent) - {self._member.rank})))
        came, names = self._world_size - len(missing), [str(member) for member in missing]
        waited_s = deadline.waited_s()
        return BarrierTimeoutError(
            f"Timed out waiting on {self._name!r} as {self._member} after {waited_s:.3f} s of "
            f"{deadline.timeout_s:g} s: {came} of {self._world_size} came, missing: "
            f"{_listed(names) if names else 'nobody any more'}",
            missing=names,
            missing_members=missing,
            waiting=there,
            arrived=came,
            expected=self._world_size,
            waited_s=waited_s,
        )

    def _broken(self, verdict: str, deadline: Deadline) -> BarrierBrokenError:
        gone = list(self._abouts([int(rank) for rank in verdict.removeprefix(GONE).split(",") if rank]))
        names, waited_s = [str(member) for member in gone], deadline.waited_s()
        return BarrierBrokenError(
            f"{self._name!r} cannot become complete: of {self._world_size} members "
            f"{_listed(names) if names else 'some'} are gone (waited {waited_s:.3f} s as {self._member})",
            gone=names,
            gone_members=gone,
            expected=self._world_size,
            waited_s=waited_s,
        )


def _wait(store: Store, keys: list[str], seconds: float) -> bool:
    try:
        store.wait(keys, timedelta(seconds=seconds))
    except (RuntimeError, TimeoutError) as error:
        if not is_timeout(error):
            raise
        return False
    return True


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN_MAX])
    return shown if len(names) <= NAMES_SHOWN_MAX else f"{shown}, and {len(names) - NAMES_SHOWN_MAX} more"
