"""Who waits for what, and whom a change releases.

Rules:

- A peer waits for one thing at a time: names (WAIT) or a barrier. A second wait replaces the first.
- A waiter on names is released by a creation of one of its names, if at that moment all of them are present.
  Nothing else releases it: not an overwrite, not a deletion, not a failed COMPARE_SET.
- A new key releases every waiter that it completes. A queue item releases one: the first registered.
- A waiter on a barrier is released when an arrival brings the count to its world size, and by nothing else.
- Who waits is a number: a peer's, or one below 0 that stands for a request of a session.
- A released, cancelled, replaced or closed waiter is gone at once. If it had many names, it is taken out of their
  lists in portions, ``tidy``, so that its end costs no more than anybody else's.

Theory of operation. Each waiter is registered under *all* its names, present or not, and counts those that are absent.
The engine reports each change of presence, both ways, so the count is exact at all times and a release needs no
look at the other names: n names cost n steps to register, one step for each change, n to be forgotten::

    WAIT [a b c]     names: a -> {7: w}   b -> {7: w}   c -> {7: w}      w.missing = 2   (b is there)
    SET a            appeared(a) ........................................ w.missing = 1
    DELETE_KEY b     vanished(b) ........................................ w.missing = 2
    SET c, SET b     appeared(c), appeared(b) ........................... w.missing = 0, release 7

A queue item that releases a waiter is not reserved for it, anybody may pop it first. But the peer holds the *call*
to that queue until it pops; a peer that goes away, cancels or waits anew without popping gives the call back, and
the engine passes it on, so that no item lies there while somebody sleeps for it.

Among several releases the order is that of registration.

What this file does not know: the keyspace, replies, what time it is.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple, TypeVar

__all__ = ["AT_ONCE_MAX", "TIDY_MAX", "Wait", "Waiters"]

AT_ONCE_MAX: Final = 512
"""A waiter with more names than these is taken out of their lists in portions."""

TIDY_MAX: Final = 512
"""Names in one portion, while nobody registers new ones."""

_NOBODY: Final[list[int]] = []

_Key = TypeVar("_Key")
_Any = TypeVar("_Any")


class Wait(NamedTuple):
    """What somebody waits for, for people.

    Attributes:
        names: the names, or the barrier's.
        is_barrier: which of them.
        since: when it began.
    """

    names: Iterable[bytes]
    is_barrier: bool
    since: float


class _Waiter:
    """One peer's wait for names; ``peer`` is ``None`` once it is over."""

    __slots__ = ("missing", "names", "peer", "since")

    def __init__(self, peer: int, names: dict[bytes, None], missing: int, since: float) -> None:
        self.peer: int | None = peer
        self.names = names
        self.missing = missing
        self.since = since


class Waiters:
    """All that is waited for.

    Attributes:
        names_held: names that peers wait for, each counted once for each peer. Read only, for others.
        left: waits that are over and still stand under names, for ``tidy``. Read only, for others.

    Threads: none but the caller's.
    """

    __slots__ = ("_barriers", "_calls", "_least", "_names", "_pending", "left", "names_held")

    def __init__(self) -> None:
        self._names: dict[bytes, dict[_Waiter, None]] = {}
        self._barriers: dict[bytes, dict[int, int]] = {}
        self._least: dict[bytes, int] = {}  # of each barrier: no lower count releases anybody
        self._pending: dict[int, _Waiter | tuple[bytes, float]] = {}
        self._calls: dict[int, bytes] = {}
        self.left: deque[_Waiter] = deque()
        self.names_held = 0

    def __len__(self) -> int:
        """Count the peers that wait, for names or for a barrier."""
        return len(self._pending)

    def wait(self, peer: int, names: dict[bytes, None], missing: int, since: float = 0.0) -> None:
        """Register a peer for names.

        Args:
            peer: not registered for anything: ``forget`` comes first.
            names: the names, each once, in a dictionary that is ours from now on.
            missing: how many of them are absent, at least 1.
            since: the time, for ``wait_of``.

        Cost: the number of names.
        """
        if self.left:  # what is left never grows beyond what was allowed at one time
            self.tidy(len(names))
        waiter = _Waiter(peer, names, missing, since)
        self._pending[peer] = waiter
        self.names_held += len(names)
        for name in names:
            there = self._names.get(name)
            if there is None:
                self._names[name] = {waiter: None}
            else:
                there[waiter] = None

    def wait_barrier(self, peer: int, name: bytes, world_size: int, since: float = 0.0) -> None:
        """Register a peer for a barrier's count; ``forget`` comes first."""
        self._pending[peer] = (name, since)
        self._barriers.setdefault(name, {})[peer] = world_size
        self._least[name] = min(world_size, self._least.get(name, world_size))

    def forget(self, peer: int) -> bytes | None:
        """Drop a peer's wait and its call, if it has any; give the queue it was called to and did not pop.

        Cost: the number of names that the peer waits for, ``AT_ONCE_MAX`` at most.
        """
        self._drop(peer)
        return self._calls.pop(peer, None)

    def tidy(self, count: int = TIDY_MAX) -> None:
        """Take waits that are over out of the lists of so many names."""
        left = self.left
        while left and count > 0:
            waiter = left[0]
            names = waiter.names
            for _ in range(min(count, len(names))):
                _leave(self._names, names.popitem()[0], waiter)
                count -= 1
            if not names:
                left.popleft()

    def appeared(self, name: bytes, is_newly_present: bool) -> list[int]:
        """Take note of a new key; give the peers that it releases.

        Args:
            name: the key.
            is_newly_present: no queue of that name held an item.

        Cost: the number of waiters on the name, and of the names of those that are released, ``AT_ONCE_MAX`` at most
        for each of them.
        """
        there = self._names.get(name)
        if there is None:
            return _NOBODY
        if is_newly_present:
            for waiter in there:
                waiter.missing -= 1
        released = [waiter.peer for waiter in there if not waiter.missing and waiter.peer is not None]
        for peer in released:
            self._drop(peer)
        return released

    def pushed(self, name: bytes, is_newly_present: bool) -> int | None:
        """Take note of a queue item, or of a call given back; give the one peer that it releases, or ``None``.

        Args:
            name: the queue.
            is_newly_present: the queue was empty and there is no key of that name.

        Cost: the number of waiters on the name, and of the names of the one that is released.
        """
        there = self._names.get(name)
        if there is None:
            return None
        if is_newly_present:
            for waiter in there:
                waiter.missing -= 1
        for waiter in there:
            peer = waiter.peer
            if not waiter.missing and peer is not None:
                self._drop(peer)
                self._calls[peer] = name
                return peer
        return None

    def popped(self, peer: int, name: bytes) -> None:
        """Take note that a peer looked into a queue: its call to it is answered."""
        if self._calls and self._calls.get(peer) == name:
            del self._calls[peer]

    def called_to(self, peer: int) -> bytes | None:
        """Give the queue that the peer is called to and has not popped yet, ``None`` if there is none."""
        return self._calls.get(peer)

    def vanished(self, name: bytes) -> None:
        """Take note that a name is no longer present. Cost: the number of waiters on it."""
        there = self._names.get(name)
        if there is not None:
            for waiter in there:
                waiter.missing += 1

    def arrived(self, name: bytes, count: int) -> list[int]:
        """Take note of an arrival at a barrier; give the peers that it releases.

        Cost: O(1) if it releases nobody, else the number of waiters at the barrier.
        """
        there = self._barriers.get(name)
        if there is None or count < self._least[name]:
            return _NOBODY
        released = [peer for peer, world_size in there.items() if count >= world_size]
        for peer in released:
            self._drop(peer)
        if there:
            self._least[name] = min(there.values())
        return released

    def wait_of(self, peer: int) -> Wait | None:
        """Give what a peer waits for, ``None`` if nothing."""
        waiter = self._pending.get(peer)
        if waiter is None:
            return None
        if isinstance(waiter, tuple):
            return Wait((waiter[0],), is_barrier=True, since=waiter[1])
        return Wait(waiter.names.keys(), is_barrier=False, since=waiter.since)

    def barriers(self) -> Iterator[tuple[bytes, Mapping[int, int]]]:
        """Give each barrier somebody waits at, with the world size that each of them waits for."""
        yield from self._barriers.items()

    def names_waited_for(self) -> Iterable[bytes]:
        """Give each name that somebody waits for, barriers aside."""
        return [name for name, there in self._names.items() if any(waiter.peer is not None for waiter in there)]

    def _drop(self, peer: int) -> None:
        waiter = self._pending.pop(peer, None)
        if waiter is None:
            return
        if isinstance(waiter, tuple):
            _leave(self._barriers, waiter[0], peer)
            if waiter[0] not in self._barriers:
                del self._least[waiter[0]]
        else:
            waiter.peer = None
            self.names_held -= len(waiter.names)
            if len(waiter.names) > AT_ONCE_MAX:
                self.left.append(waiter)
                return
            for name in waiter.names:
                _leave(self._names, name, waiter)


def _leave(table: dict[bytes, dict[_Key, _Any]], name: bytes, who: _Key) -> None:
    there = table[name]
    del there[who]
    if not there:
        del table[name]
