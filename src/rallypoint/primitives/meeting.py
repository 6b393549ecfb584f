"""What barriers and exchanges have in common: members with ranks and labels meet under a name, again and again.

On a store with sessions the server is the meeting place: one round trip, and it knows who is gone. On any other the
members do it with keys (:mod:`rallypoint.primitives.gathering`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from rallypoint.clock import SYSTEM_CLOCK, Clock, Deadline
from rallypoint.errors import BarrierBrokenError, BarrierTimeoutError
from rallypoint.primitives.gathering import Gathering
from rallypoint.primitives.kind import agree_on_kind
from rallypoint.primitives.lease import DEFAULT_TTL_S
from rallypoint.store.base import Store, as_timeout_s
from rallypoint.types import Member, Text, Timeout, as_bytes

__all__ = ["Meeting", "MeetingStatistics"]

AnyMeeting = TypeVar("AnyMeeting", bound="Meeting")


@dataclass(frozen=True)
class MeetingStatistics:
    """What one member of a barrier or an exchange has come to.

    Attributes:
        name: the meeting's.
        rank: the member's.
        label: how the others call it.
        world_size: how many members there are.
        met: how often all have met.
        timeouts: how often members were missing when the time was up.
        broken: how often a member was known to be gone.
        waited_s: seconds spent waiting, all together.
    """

    name: str
    rank: int
    label: str
    world_size: int
    met: int
    timeouts: int
    broken: int
    waited_s: float


class Meeting:
    """One member of a barrier or an exchange; see there.

    Raises:
        TypeError: ``world_size`` or ``rank`` is no ``int``.
        ValueError: ``world_size``, ``rank`` or ``ttl`` is out of range.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        rank: int,
        world_size: int,
        *,
        label: str = "",
        ttl: Timeout | None = DEFAULT_TTL_S,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        for what, number in (("rank", rank), ("world_size", world_size)):
            if not isinstance(number, int):
                raise TypeError(f"{what} must be an int, not {type(number).__name__}")
        if world_size < 1:
            raise ValueError(f"world_size must be 1 or more, got {world_size}")
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be 0 to {world_size - 1} for world_size={world_size}, got {rank}")
        self.name = name
        self.member = Member(rank, label)
        self.world_size = world_size
        self._store = store
        self._ttl_s = None if ttl is None else as_timeout_s(ttl, "ttl")
        self._clock = clock
        self._gathering: Gathering | None = None
        self._is_served: bool | None = None
        self._met = self._timeouts = self._broken = 0
        self._waited_s = 0.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.member} of {self.world_size})"

    def close(self) -> None:
        """Take part no more. Without sessions: the others learn that this member has gone."""
        if self._gathering is not None:
            self._gathering.close()

    def statistics(self) -> MeetingStatistics:
        """Tell what this member has come to."""
        return MeetingStatistics(
            name=self.name,
            rank=self.member.rank,
            label=self.member.label,
            world_size=self.world_size,
            met=self._met,
            timeouts=self._timeouts,
            broken=self._broken,
            waited_s=self._waited_s,
        )

    def __enter__(self: AnyMeeting) -> AnyMeeting:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _meet(self, timeout: Timeout | None) -> int:
        """Wait for all; give the generation."""
        with self._counting(timeout) as deadline:
            if self._is_by_sessions():
                rank, label, _ = self.member
                left_s = deadline.remaining_s()
                return self._store.meet(self.name, rank, self.world_size, label=label, timeout=left_s)
            return self._plain().gather(b"", deadline, with_values=False)[0]

    def _give(self, value: Text, timeout: Timeout | None) -> list[bytes]:
        """Wait for all; give their values."""
        content = as_bytes(value)
        with self._counting(timeout) as deadline:
            if self._is_by_sessions():
                rank, label, _ = self.member
                left_s = deadline.remaining_s()
                return self._store.exchange(self.name, rank, self.world_size, content, label=label, timeout=left_s)
            return self._plain().gather(content, deadline, with_values=True)[1]

    @contextlib.contextmanager
    def _counting(self, timeout: Timeout | None) -> Iterator[Deadline]:
        """Give the deadline of one meeting, and note how it ends."""
        deadline = Deadline(self._store.timeout if timeout is None else as_timeout_s(timeout), self._clock)
        try:
            yield deadline
            self._met += 1
        except BarrierBrokenError:
            self._broken += 1
            raise
        except BarrierTimeoutError:
            self._timeouts += 1
            raise
        finally:
            self._waited_s += deadline.waited_s()

    def _is_by_sessions(self) -> bool:
        if self._is_served is None:
            self._is_served = agree_on_kind(self._store, self.name)
        return self._is_served

    def _plain(self) -> Gathering:
        if self._gathering is None:
            self._gathering = Gathering(
                self._store, self.name, self.member, self.world_size, ttl_s=self._ttl_s, clock=self._clock
            )
        return self._gathering
