"""Exchanges: everybody gives one value, everybody gets all.

:class:`Exchange` is ours. :func:`get_all` and :func:`synchronize` are torch's: members whose stores have sessions
synchronize on the server if all of them can (:mod:`rallypoint.primitives.shortcut`); otherwise the operations, and
their order, are torch's, so that its members can take part::

    synchronize   set <prefix><rank> · get_all
    get_all       multi_get of all <prefix><rank> · add 1 to <prefix>/finished/num_members
                  the last: set <prefix>/finished/last_member · rank 0: wait for it

Rank 0 waits because in many jobs it holds the server: were it to leave first, the others could not read. That is a
courtesy, not a condition. When the others do not report in time, rank 0 has all values, says in an event that they did
not report, and returns.

A prefix serves one exchange: values stay in the store, and a second exchange under the same prefix may read those of
the first. It never waits for members that are through already, though: once all were counted the gate stays open,
however often members come again.

Cost: every member reads every value, so ``n`` members move ``n * n`` values.
"""

from __future__ import annotations

from rallypoint import events
from rallypoint.clock import Deadline
from rallypoint.primitives.arrivals import IGNORED, arrive, gate_key, is_timeout
from rallypoint.primitives.kind import has_sessions
from rallypoint.primitives.meeting import Meeting
from rallypoint.primitives.shortcut import meet_unless_plain
from rallypoint.store.base import Store, as_timeout_s
from rallypoint.store.bootstrap import store_timeout
from rallypoint.types import Text, Timeout

__all__ = ["Exchange", "exchange", "get_all", "synchronize"]

FINISHED = "/finished"


class Exchange(Meeting):
    """One member of an exchange that may be used again and again: everybody gives one value, everybody gets all.

    Args and Cost: those of :class:`rallypoint.primitives.barrier.Barrier`; every member gets every value, so ``n``
    members move ``n * n`` of them.

    Threads: one.
    """

    def give(self, value: Text, timeout: Timeout | None = None) -> list[bytes]:
        """Give a value, and get everybody's.

        Args:
            value: the caller's.
            timeout: seconds or a ``timedelta``; ``None`` is the store's own.

        Returns:
            The values of one generation. Shape: ``world_size`` of them, in rank order.

        Raises:
            BarrierTimeoutError: some did not come in time; it names them. The caller's value counts no more.
            BarrierBrokenError: a member is known to be gone; it names it.
            DistStoreError: members of the other dialect use the name.
        """
        return self._give(value, timeout)


def exchange(
    store: Store,
    name: str,
    rank: int,
    world_size: int,
    value: Text,
    *,
    label: str = "",
    timeout: Timeout | None = None,
) -> list[bytes]:
    """Give one value and get everybody's, once; nobody looks for the dead on a store without sessions.

    Args, Returns and Raises: those of :class:`Exchange` and :meth:`Exchange.give`. A name may be used again.
    """
    with Exchange(store, name, rank, world_size, label=label, ttl=None) as member:
        return member.give(value, timeout)


def get_all(store: Store, rank: int, prefix: str, world_size: int) -> list[bytes]:
    """Get the values that all members gave under a prefix.

    Args:
        store: any store.
        rank: the caller's; rank 0 waits, until the store's timeout, for the others to have read.
        prefix: the start of the values' keys; member ``i``'s is ``prefix`` followed by ``i``.
        world_size: how many members.

    Returns:
        The values, as the store gives them. Shape: ``world_size`` of them, in rank order.

    Raises:
        DistStoreError: a member's value did not come in the store's timeout (a foreign store raises its own error).

    Cost: 2 calls, 1 more for the last member and for rank 0.
    """
    values = store.multi_get(_keys(prefix, world_size))
    _say_read(store, rank, prefix, world_size)
    return values


def _keys(prefix: str, world_size: int) -> list[str]:
    return [f"{prefix}{member}" for member in range(world_size)]


def _say_read(store: Store, rank: int, prefix: str, world_size: int) -> None:
    """Say that the caller has all values; rank 0 waits for the others to say so."""
    gate = gate_key(prefix + FINISHED, 0)
    if arrive(store, prefix + FINISHED, world_size).number >= world_size:  # more if members came again
        store.set(gate, IGNORED)
    if rank == 0:
        try:
            store.wait([gate])
        except (RuntimeError, TimeoutError) as error:
            if not is_timeout(error):
                raise
            events.emit(
                "exchange.unread",
                f"rank 0 has all {world_size} values of exchange {prefix!r}, but not all others said in time that they "
                f"have read them: {error}",
                prefix=prefix,
                world_size=world_size,
            )


def synchronize(  # noqa: PLR0917 - torch's signature
    store: Store, data: Text, rank: int, world_size: int, key_prefix: str, timeout: Timeout = 300
) -> list[bytes]:
    """Give one value and get everybody's.

    Args:
        store: any store.
        data: the caller's value.
        rank: the caller's.
        world_size: how many members.
        key_prefix: the start of the values' keys.
        timeout: seconds or a ``timedelta`` for each wait; the store's own is back afterwards, whatever happens.

    Returns:
        The values, as the store gives them. Shape: ``world_size`` of them, in rank order.

    Raises:
        BarrierBrokenError: with sessions: a member is known to be gone; it names it.
        DistStoreError: as :func:`get_all`; with sessions a :class:`BarrierTimeoutError` that names the missing.

    Cost: with sessions 2 calls, 1 more for the last member and for rank 0; otherwise 1 more than :func:`get_all`.
    """
    deadline = Deadline(as_timeout_s(timeout))
    if has_sessions(store):
        plain = set(_keys(key_prefix, world_size))

        def give(timeout_s: float) -> list[bytes]:
            return store.exchange(key_prefix + FINISHED, rank, world_size, data, timeout=timeout_s)

        values = meet_unless_plain(give, lambda: not plain.isdisjoint(store.list_prefix(key_prefix)), deadline)
        timeout = deadline.remaining_s()
        if values is not None:
            with store_timeout(store, timeout):
                _say_read(store, rank, key_prefix, world_size)
            return values
    with store_timeout(store, timeout):
        store.set(f"{key_prefix}{rank}", data)
        return get_all(store, rank, key_prefix, world_size)
