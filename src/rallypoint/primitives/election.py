"""An election: of those who want an office one has it, and everybody can read who.

It is a lock (:mod:`rallypoint.primitives.lock`) whose holder is known: candidates stand in line, the one at the front
leads until it resigns or dies, and the next follows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

from rallypoint.clock import SYSTEM_CLOCK, Clock, Deadline
from rallypoint.primitives.lease import DEFAULT_TTL_S
from rallypoint.primitives.line import Front
from rallypoint.primitives.lock import Tenure
from rallypoint.store.base import Store, as_timeout_s
from rallypoint.types import Timeout

__all__ = ["Election", "ElectionStatistics", "Leader"]

Leader = Front
"""Who leads: its ``label``, and the fencing ``token`` of its term."""


@dataclass(frozen=True)
class ElectionStatistics:
    """What one candidate has come to.

    Attributes:
        name: the election's.
        label: the candidate's.
        is_leader: whether it leads.
        token: its term's fencing token; 0 if it does not lead.
        terms: how often it came to lead.
        timeouts: how often its time was up before.
        lost: how often it lost the office without resigning.
        waited_s: seconds spent as a candidate, all together.
    """

    name: str
    label: str
    is_leader: bool
    token: int
    terms: int
    timeouts: int
    lost: int
    waited_s: float


class Election:
    """One candidate, or observer, of an election.

    ::

        election = Election(store, "scheduler", label="host 3")
        term = election.campaign(timeout=60)
        ...
        election.resign()

    Args:
        store: any store; all members must reach it in the same dialect.
        name: the election's name, the start of its keys.
        label: how the others call this candidate.
        ttl: seconds or a ``timedelta`` after which a leader that is not heard of has lost the office.
        on_lost: called, without arguments, if the office is lost; in the thread that finds out. It must not block and
            must not raise.
        clock: for tests.

    Cost and Threads: those of :class:`rallypoint.primitives.lock.Lock`.
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
        return (
            f"Election({self._tenure.name!r}, {self._tenure.label!r}, {'leads' if self.is_leader else 'does not lead'})"
        )

    @property
    def is_leader(self) -> bool:
        """Whether this candidate leads, as far as can be known without a call; false once its lease is over."""
        return self._tenure.is_held

    @property
    def token(self) -> int:
        """The term's fencing token, above that of every leader before; 0 if this candidate does not lead."""
        return self._tenure.token

    def campaign(self, timeout: Timeout | None = None) -> int:
        """Wait to be the leader.

        Args:
            timeout: seconds or a ``timedelta``; ``None`` is the store's own, 0 leads if nobody does.

        Returns:
            The term's fencing token.

        Raises:
            LockTimeoutError: others led until the time was up; it names the leader.
            RuntimeError: this candidate leads already, or campaigns in another thread.
            DistStoreError: members of the other dialect use the name.
        """
        return self._tenure.take(timeout)

    def resign(self) -> None:
        """Give the office up.

        Raises:
            LeaseLostError: it had been lost, and others may have led meanwhile.
            RuntimeError: this candidate does not lead.
        """
        self._tenure.give_up()

    def leader(self) -> Leader | None:
        """Tell who leads, ``None`` for nobody.

        On a store without sessions a leader that died is named until this object has seen it give no sign of life for
        one and a half of its times to live.

        Cost: 1 call, without sessions up to 3.
        """
        return self._tenure.line.front(self._tenure.clock)

    def observe(self, timeout: Timeout = math.inf) -> Iterator[Leader | None]:
        """Give who leads now, and then each that follows, ``None`` while nobody leads.

        Args:
            timeout: seconds or a ``timedelta`` after which the observation ends.

        Terms too short to be seen may be left out. On a store without sessions a leader's death is seen as by
        :meth:`leader`.
        """
        deadline = Deadline(as_timeout_s(timeout), self._tenure.clock)
        line = self._tenure.line
        last = line.front(self._tenure.clock)
        yield last
        while not deadline.has_passed():
            found = line.wait_change(last, deadline, self._tenure.clock)
            if found != last:
                last = found
                yield last

    def statistics(self) -> ElectionStatistics:
        """Tell what this candidate has come to."""
        tenure = self._tenure
        return ElectionStatistics(
            name=tenure.name,
            label=tenure.label,
            is_leader=tenure.is_held,
            token=tenure.token,
            terms=tenure.acquired,
            timeouts=tenure.timeouts,
            lost=tenure.lost,
            waited_s=tenure.waited_s,
        )

    def __enter__(self) -> Election:
        self.campaign()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tenure.end_block(error)
