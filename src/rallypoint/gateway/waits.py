"""Who waits for what at a store that must be asked: which name to look at, and when.

Rules:

- A wait for names has a *witness*: one of them that was missing when it was last looked for. As long as it is missing,
  the others do not matter, and are not asked for.
- All waits with one witness are looked at once, and so are all barriers of one key. Nobody is looked for twice at a
  time.
- Pauses between looks grow, up to ``pause_s_max``; for names that are known to be queues up to ``QUEUE_PAUSE_S_MAX``,
  because no watch tells of queues. What is said to have changed is looked at now.
- A key releases every wait that it completes. Items of a queue release as many as there are items, the first come
  first: those are *called*, and have ``CALLED_S`` to pop before others are called to the same items.
- Nobody is released by what was seen before it came: that may be gone since.
- A released or withdrawn wait leaves nothing behind.

Theory of operation. A *spot* is a witness, or a barrier's key, with all who wait there::

    WAIT [a b c]  -- b is missing -->  spot b: {7: [a b c]}      looked at after 1, 2, 4 ... milliseconds
    WAIT [b]      ----------------->   spot b: {7: [a b c], 9: [b]}
    b is there    9 is released; 7 is searched for another missing name: it goes to that spot, or is released

What this file does not know: stores, threads, answers, what a wait's peer is.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Final, NamedTuple, TypeAlias

__all__ = ["CALLED_S", "PAUSE_S_MIN", "QUEUES_MAX", "QUEUE_PAUSE_S_MAX", "Names", "Spot", "Waits"]

PAUSE_S_MIN: Final = 0.001
"""The first pause between two looks, in seconds; each is twice the one before."""

QUEUE_PAUSE_S_MAX: Final = 0.05
"""The longest pause for a name that is known to be a queue, in seconds."""

QUEUES_MAX: Final = 4096
"""So many queues are known; of more the longest unused is forgotten."""

CALLED_S: Final = 1.0
"""How long an item is kept for the peer that was called to it, in seconds."""

Names: TypeAlias = tuple[bytes, ...]


class Spot(NamedTuple):
    """What is looked at: whether a name is present, or the count in a barrier's key."""

    name: bytes
    is_count: bool = False


class _State:
    """One spot's state."""

    def __init__(self, due: float) -> None:
        self.names: dict[int, Names] = {}
        self.sizes: dict[int, int] = {}
        self.due = due
        self.pause_s = PAUSE_S_MIN
        self.is_looked_at = False
        self.is_touched = False  # while it was looked at
        self.late: set[int] = set()  # came while it was looked at: what is seen may be older than they are
        self.called = 0
        self.called_until = 0.0


class Waits:
    """All that is waited for.

    Attributes:
        pause_s_max: the longest pause between looks, in seconds; may be changed at any time.

    Threads: none but the caller's.
    """

    def __init__(self, pause_s_max: float) -> None:
        self.pause_s_max = pause_s_max
        self._spots: dict[Spot, _State] = {}
        self._places: dict[int, Spot] = {}
        self._line: list[tuple[float, int, Spot]] = []  # a heap; an entry counts if it is its spot's ``due``
        self._numbers = count()
        self._queues: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        """Count those that wait."""
        return len(self._places)

    # --- coming and going --------------------------------------------------------------------------------

    def wait(self, call: int, names: Names, witness: bytes, now: float) -> None:
        """Register a wait for names, one of which was just missing; it is looked at at once, as it may have come."""
        self._state(call, Spot(witness), now).names[call] = names

    def meet(self, call: int, key: bytes, world_size: int, now: float) -> None:
        """Register a wait for a barrier's count."""
        self._state(call, Spot(key, is_count=True), now).sizes[call] = world_size

    def withdraw(self, call: int) -> bool:
        """Forget a wait; tell whether there was one."""
        spot = self._places.pop(call, None)
        if spot is None:
            return False
        self._drop(spot, call)
        return True

    def _state(self, call: int, spot: Spot, now: float) -> _State:
        self._places[call] = spot
        state = self._spots.get(spot)
        if state is None:
            state = self._spots[spot] = _State(now)
            self._schedule(spot, state, now)
        else:
            if state.is_looked_at:
                state.late.add(call)
            self._touch(spot, now)
        return state

    def _drop(self, spot: Spot, call: int) -> None:
        state = self._spots[spot]
        state.names.pop(call, None)
        state.sizes.pop(call, None)
        if not state.names and not state.sizes:
            del self._spots[spot]

    def _release(self, spot: Spot, calls: Sequence[int]) -> Sequence[int]:
        for call in calls:
            del self._places[call]
            self._drop(spot, call)
        return calls

    # --- when to look at what ----------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Give when ``due`` has something, ``None`` if nobody waits."""
        line = self._line
        while line and not self._counts(*line[0]):
            heapq.heappop(line)
        return line[0][0] if line else None

    def due(self, now: float) -> list[Spot]:
        """Give what is to be looked at now; each is then told as ``missing``, ``counted`` or ``found``."""
        spots = []
        while (due := self.next_deadline()) is not None and due <= now:
            spot = heapq.heappop(self._line)[2]
            self._spots[spot].is_looked_at = True
            spots.append(spot)
        return spots

    def _counts(self, due: float, _: int, spot: Spot) -> bool:
        state = self._spots.get(spot)
        return state is not None and not state.is_looked_at and state.due == due

    def _schedule(self, spot: Spot, state: _State, due: float) -> None:
        state.due = due
        heapq.heappush(self._line, (due, next(self._numbers), spot))

    def _looked(self, spot: Spot, now: float, pause_s: float | None = None) -> None:
        """Note the end of a look, and when the next one is due."""
        state = self._spots.get(spot)
        if state is None:
            return
        state.is_looked_at = False
        state.late.clear()
        if state.is_touched:
            state.is_touched = False
            state.pause_s = PAUSE_S_MIN
            self._schedule(spot, state, now)
            return
        if pause_s is None:
            pause_s = state.pause_s
            most_s = self.pause_s_max
            if spot.name in self._queues:
                most_s = min(most_s, QUEUE_PAUSE_S_MAX)
            state.pause_s = min(2 * pause_s, most_s)
        self._schedule(spot, state, now + min(pause_s, self.pause_s_max))

    def _touch(self, spot: Spot, now: float) -> None:
        state = self._spots.get(spot)
        if state is None:
            return
        if state.is_looked_at:
            state.is_touched = True
        elif state.due > now:
            state.pause_s = PAUSE_S_MIN
            self._schedule(spot, state, now)

    # --- what is heard -----------------------------------------------------------------------------------

    def touch(self, name: bytes, now: float) -> None:
        """Take note that a name may have changed."""
        self._touch(Spot(name), now)
        self._touch(Spot(name, is_count=True), now)

    def touch_all(self, now: float) -> None:
        """Take note that anything may have changed."""
        for spot in self._spots:
            self._touch(spot, now)

    def is_queue(self, name: bytes) -> None:
        """Take note that a name is used as a queue."""
        self._queues[name] = None
        self._queues.move_to_end(name)
        if len(self._queues) > QUEUES_MAX:
            self._queues.popitem(last=False)

    def popped(self, name: bytes, now: float) -> None:
        """Take note that somebody has popped from a queue, or tried to."""
        self.is_queue(name)
        state = self._spots.get(Spot(name))
        if state is not None and state.called:
            state.called -= 1
            self._touch(Spot(name), now)

    # --- what was seen -----------------------------------------------------------------------------------

    def at(self, spot: Spot) -> tuple[bool, list[Names]]:
        """Tell whether it matters at a spot if its name is a queue; give the lists that are waited for, each once."""
        state = self._spots.get(spot)
        if state is None:
            return False, []
        lists = dict.fromkeys(names for names in state.names.values() if len(names) > 1)
        alone = sum(len(names) == 1 for names in state.names.values())
        return alone > 1 or bool(state.called), list(lists)

    def missing(self, spot: Spot, now: float) -> None:
        """Take note that a look found nothing, or did not come about."""
        state = self._spots.get(spot)
        if state is not None and state.is_looked_at:
            state.called = 0
            self._looked(spot, now)

    def found(self, name: bytes, items: int, witnesses: Mapping[Names, bytes | None], now: float) -> Sequence[int]:
        """Take note that a look found a name present.

        Args:
            name: the name.
            items: how many items a queue of that name has; 0 if a key has it.
            witnesses: for each list of names, one that is missing, or ``None`` if all are present.
            now: the time.

        Returns:
            Those that are released.
        """
        spot = Spot(name)
        state = self._spots.get(spot)
        if state is None or not state.is_looked_at:
            return ()
        released = [call for call, names in state.names.items() if len(names) == 1 and call not in state.late]
        if items:
            if now >= state.called_until:
                state.called = 0
            released = released[: max(0, items - state.called)]
            state.called += len(released)
            state.called_until = now + CALLED_S if released else state.called_until
        for call, names in list(state.names.items()):
            witness = name if call in state.late else witnesses.get(names, name)
            if witness is None:
                released.append(call)
            elif witness != name:
                self._drop(spot, call)
                self.wait(call, names, witness, now)
        self._release(spot, released)
        pause_s = max(PAUSE_S_MIN, state.called_until - now) if items and state.called else None
        self._looked(spot, now, pause_s)
        return released

    def counted(self, key: bytes, number: int, now: float) -> Sequence[int]:
        """Take note of a barrier's count; give those that are released."""
        spot = Spot(key, is_count=True)
        state = self._spots.get(spot)
        if state is None or not state.is_looked_at:
            return ()
        sizes = state.sizes.items()
        released = self._release(spot, [call for call, size in sizes if number >= size and call not in state.late])
        self._looked(spot, now)
        return released
