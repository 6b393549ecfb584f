"""A barrier on any store: nobody goes on before all have come, and who did not come is named.

A barrier may be used again and again under one name, by the same members. Its first generation uses the keys and,
where no rank is given, exactly the operations of torch's barrier, so that torch's members can take part in it::

    read the timeout · set it · add 1 to <prefix>/num_members · the last: set <prefix>/last_member
    wait for <prefix>/last_member · set the timeout back

(Our own stores keep the timeout for one caller; nothing is set and put back on them.)

Members with ranks whose stores have sessions meet on the server instead, in one round trip, if all of them can
(:mod:`rallypoint.primitives.shortcut`); then a member that is known to be gone fails the barrier at once.

With ranks, each member writes a mark before it is counted. When the time is up every member reads the marks and raises
an error with the names of the missing, whoever they are; nobody waits a second time for somebody else's report.

Whoever gives up takes its arrival back. If the last member came at that very moment, the barrier succeeds instead.

What it cannot do: a member that dies in the barrier stays counted, and its successor under the same rank is refused;
a restart needs a new prefix. Torch's members never take an arrival back, never use a name twice, and write their rank
only when their own time is up; members without a rank cannot be named.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from rallypoint.clock import Deadline
from rallypoint.errors import BarrierTimeoutError, DuplicateMemberError, RefusedError
from rallypoint.primitives.arrivals import IGNORED, Arrival, arrive, is_timeout, open_gate, take_back
from rallypoint.primitives.kind import has_sessions
from rallypoint.primitives.meeting import Meeting
from rallypoint.primitives.rollcall import HERE, LEFT, Mark, Roll, call_roll, mark_arrival, write_mark
from rallypoint.primitives.shortcut import meet_unless_plain
from rallypoint.store.base import MEMBER_COUNT, Store, as_timeout_s
from rallypoint.store.bootstrap import store_timeout
from rallypoint.types import Timeout

__all__ = ["Barrier", "barrier"]

TRACING_GATE = "/TRACING_GATE"
"""Torch's members wait for this key, set by rank 0, before they report their timeout."""

LEAVE_TIMEOUT_S = 1.0
"""How long a member that fails (interrupt, lost connection) tries to take its arrival back."""

STORE_ERRORS = (RuntimeError, OSError, AttributeError)
"""What any store may raise when it fails; the last, when it has no such method."""

TAKEN_OVER = "taken_over"
"""The server's reason code for a member whose rank has come again from elsewhere."""

NAMES_SHOWN_MAX = 64
"""An error's sentence names so many members; its attribute has them all."""


def barrier(  # noqa: PLR0917 - torch's signature
    store: Store,
    world_size: int,
    key_prefix: str,
    barrier_timeout: Timeout = 300,
    rank: int | None = None,
    rank_tracing_decoder: Callable[[int], str] | None = None,
    trace_timeout: Timeout = 10,
) -> None:
    """Wait until ``world_size`` members have come.

    Args:
        store: any store.
        world_size: how many members, at least 1.
        key_prefix: the barrier's name, the start of its keys.
        barrier_timeout: seconds or a ``timedelta`` to wait for the others; 0 looks once.
        rank: the caller's place, 0 to ``world_size - 1``. With it the missing are named and a rank that comes twice is
            refused.
        rank_tracing_decoder: gives a rank's name for people, such as its host; without it ranks are their own names.
        trace_timeout: seconds or a ``timedelta`` that finding out who is missing may take. It is mostly not needed: the
            answer is in the store already.

    Raises:
        BarrierTimeoutError: members did not come in time; its text has ``missing_ranks=[...]`` if ranks are given. The
            caller no longer counts.
        BarrierBrokenError: with sessions: a member is known to be gone; it names it.
        DuplicateMemberError: the rank is already there; with sessions, it came again elsewhere.
        ValueError: ``world_size`` or ``rank`` is out of range.

    Cost: with sessions and ranks 1 call and the time of the last. Otherwise 3 calls for the last member and 2 for each
        other one; with a rank 1 more the first time, 3 more later.
    Threads: any, each as a member of its own. On a foreign store the timeout is shared by all its users for the
    duration of the call.
    """
    if world_size < 1:
        raise ValueError(f"world_size must be 1 or more, got {world_size}")
    if rank is not None and not 0 <= rank < world_size:
        raise ValueError(f"rank must be 0 to {world_size - 1} for world_size={world_size}, got {rank}")
    member = _Member(store, key_prefix, world_size, rank, rank_tracing_decoder or str)
    deadline = Deadline(as_timeout_s(barrier_timeout))
    if rank is not None and has_sessions(store):
        if member.meet(rank, deadline):
            return
        barrier_timeout = deadline.remaining_s()
    with store_timeout(store, barrier_timeout):
        arrival = member.arrive()
        failure = member.pass_gate(arrival)
    if failure is not None:
        with store_timeout(store, trace_timeout):
            verdict = member.give_up(arrival, deadline, Deadline(trace_timeout))
        if verdict is not None:
            raise verdict from failure


class Barrier(Meeting):
    """One member of a barrier that may be used again and again, a generation each time.

    ::

        with Barrier(store, "epoch", rank, world_size, label=socket.gethostname()) as barrier:
            for epoch in range(10):
                ...
                barrier.wait(timeout=600)

    A member that comes twice counts once; one that was started anew takes the place of the one before. It has nothing
    to do with :func:`barrier`, which torch's members can join.

    Args:
        store: any store; all members must reach it in the same dialect.
        name: the barrier's name.
        rank: the caller's place, 0 to ``world_size - 1``.
        world_size: how many members.
        label: how others call this member in errors.
        ttl: on a store without sessions, seconds or a ``timedelta`` after which a member that is not heard of is dead;
            ``None``: the dead are not looked for, and nobody beats. A server with sessions knows by itself.
        clock: for tests.

    Cost: with sessions one round trip and the time of the last; otherwise see :mod:`rallypoint.primitives.gathering`.
    Threads: one.
    """

    def wait(self, timeout: Timeout | None = None) -> int:
        """Wait until all members have come.

        Args:
            timeout: seconds or a ``timedelta``; ``None`` is the store's own.

        Returns:
            The generation: how often all have met under this name, from 1 on.

        Raises:
            BarrierTimeoutError: some did not come in time; it names them, and tells how long others have waited where
                the store knows. The caller no longer counts.
            BarrierBrokenError: a member is known to be gone; it names it.
            DistStoreError: members of the other dialect use the name.
        """
        return self._meet(timeout)


class _Member:
    """One member at one barrier."""

    def __init__(
        self, store: Store, prefix: str, world_size: int, rank: int | None, name_of: Callable[[int], str]
    ) -> None:
        self.store = store
        self.prefix = prefix
        self.world_size = world_size
        self.rank = rank
        self.name_of = name_of

    def meet(self, rank: int, deadline: Deadline) -> bool:
        """Meet the others on the server; give false if there are plain members among them."""
        place = self.prefix + MEMBER_COUNT  # the key by which plain members are known, too

        def meet(timeout_s: float) -> int:
            return self.store.meet(place, rank, self.world_size, label=self.name_of(rank), timeout=timeout_s)

        try:
            return meet_unless_plain(meet, lambda: self.store.check([place]), deadline) is not None
        except BarrierTimeoutError as error:
            missing = [self.name_of(member.rank) for member in error.missing_members]
            raise BarrierTimeoutError(
                f"Timed out waiting on barrier on rank {rank}, for key prefix: {self.prefix} (world_size="
                f"{self.world_size}, missing_ranks=[{_listed(missing)}], timeout={deadline.timeout_s:g}): "
                f"{error.arrived} of {self.world_size} were there",
                missing=missing,
                missing_members=error.missing_members,
                waiting=error.waiting,
                arrived=error.arrived,
                expected=self.world_size,
                waited_s=deadline.waited_s(),
                endpoint=error.endpoint,
            ) from error
        except RefusedError as error:
            if error.reason != TAKEN_OVER:
                raise
            name = self.name_of(rank)
            raise DuplicateMemberError(
                f"rank {rank} ({name}) came to barrier {self.prefix!r} twice: another process has the same rank",
                member=name,
            ) from error

    def arrive(self) -> Arrival:
        if self.rank is None:
            return arrive(self.store, self.prefix, self.world_size)
        if not callable(getattr(self.store, "compare_set", None)):
            return arrive(self.store, self.prefix, self.world_size)  # a store of torch's bare minimum: its operations
        generation = mark_arrival(self.store, self.prefix, self.rank, self.world_size, self.name_of(self.rank))
        arrival = arrive(self.store, self.prefix, self.world_size)
        if arrival.generation != generation:  # the name had been used before this rank first came
            write_mark(self.store, self.prefix, self.rank, Mark.new(arrival.generation, HERE))
        return arrival

    def pass_gate(self, arrival: Arrival) -> BaseException | None:
        """Wait for the generation to be complete; give the store's error if the time was up before."""
        try:
            if arrival.is_last:
                open_gate(self.store, arrival)
            self.store.wait([arrival.gate])
        except BaseException as error:
            if not arrival.is_last:  # the last has let the others through, and counts whatever happens to it
                if is_timeout(error):
                    return error
                with contextlib.suppress(*STORE_ERRORS), store_timeout(self.store, LEAVE_TIMEOUT_S):
                    arrived = take_back(self.store, arrival, Deadline(LEAVE_TIMEOUT_S))
                    self._mark_left(arrival, arrived)
            raise
        return None

    def give_up(self, arrival: Arrival, waited: Deadline, budget: Deadline) -> BarrierTimeoutError | None:
        """Leave, and give the error that says who is missing; ``None`` if the last one came at this moment."""
        waited_s = waited.waited_s()
        # If the store cannot tell, so many at least: arrivals are numbered.
        arrived = arrival.number - arrival.generation * self.world_size
        roll, trouble = None, ""
        try:
            arrived, roll = self._leave(arrival, budget)
            if arrived == self.world_size:
                open_gate(self.store, arrival)  # whoever was last may have died before it did
                return None
        except STORE_ERRORS as error:
            trouble = f"; the store did not answer who is missing, nor took the arrival back: {error}"
        missing = [] if roll is None else [self.name_of(rank) for rank in roll.missing or roll.left]
        return BarrierTimeoutError(
            self._sentence(arrival, waited, arrived, missing, roll) + trouble,
            missing=missing,
            arrived=arrived,
            expected=self.world_size,
            waited_s=waited_s,
        )

    def _leave(self, arrival: Arrival, budget: Deadline) -> tuple[int, Roll | None]:
        """Take the arrival back; give how many were there, and with a rank, who."""
        arrived = take_back(self.store, arrival, budget)
        if self.rank is None or arrived == self.world_size:
            return arrived, None
        self._mark_left(arrival, arrived)
        roll = call_roll(self.store, self.prefix, self.world_size, arrival.generation, arrived=arrived, deadline=budget)
        roll = roll._replace(left=[rank for rank in roll.left if rank != self.rank])
        if self.rank == 0 and roll.has_strangers:
            self.store.set(self.prefix + TRACING_GATE, IGNORED)
        return arrived, roll

    def _mark_left(self, arrival: Arrival, arrived: int) -> None:
        if self.rank is not None:
            write_mark(self.store, self.prefix, self.rank, Mark.new(arrival.generation, LEFT, arrived))

    def _sentence(self, arrival: Arrival, waited: Deadline, arrived: int, missing: list[str], roll: Roll | None) -> str:
        size = self.world_size
        who = "" if self.rank is None else f" on rank {self.rank}"
        names = "" if roll is None else f"missing_ranks=[{_listed(missing)}], "
        text = (
            f"Timed out waiting on barrier{who}, for key prefix: {self.prefix} (world_size={size}, {names}"
            f"timeout={waited.timeout_s:g}): {arrived} of {size} were there"
        )
        if roll is not None and roll.missing and roll.left:
            text += f", others had given up: [{_listed([self.name_of(rank) for rank in roll.left])}]"
        if roll is not None and roll.unknown:
            text += f", {len(roll.unknown)} ranks could not be looked up in the trace timeout"
        if arrival.generation > 0:
            text += (
                f"; it was arrival {arrival.number}, in generation {arrival.generation}: if the members have not used "
                f"this barrier {arrival.generation} times before, more than {size} members use it"
            )
        return text


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN_MAX])
    return shown if len(names) <= NAMES_SHOWN_MAX else f"{shown}, and {len(names) - NAMES_SHOWN_MAX} more"
