"""Many machines in one thread, on a clock that jumps from event to event: the same seed, the same course.

::

    simulation = Simulation(seed=7)
    a, b = simulation.host("a"), simulation.host("b")
    a.after(1.0, lambda: print("a second has passed on a"))
    simulation.run(until=60.0)

A :class:`SimHost` can be frozen, as by SIGSTOP: what is due there meanwhile happens when it thaws, timers first. It can
crash: what was due never happens, and whatever runs there afterwards is begun anew. :mod:`rallypoint.testing.network`
connects hosts.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from typing import TypeAlias

__all__ = ["SimHost", "Simulation", "Timer"]

Callback: TypeAlias = Callable[[], None]

EVENTS_MAX = 200_000
"""A simulation that has taken so many events is taken to go round in circles."""


class Timer:
    """Something that will happen, unless it is cancelled.

    Attributes:
        is_cancelled: it will not.
    """

    __slots__ = ("callback", "is_cancelled")

    def __init__(self, callback: Callback) -> None:
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        """Let it not happen; afterwards, and again, without effect."""
        self.is_cancelled = True


class Simulation:
    """The clock, the dice, and what is to come.

    Args:
        seed: of the dice.

    Attributes:
        now: seconds since the beginning.
        dice: all chance comes from here.
        events: how many things have happened.
    """

    def __init__(self, seed: int = 0) -> None:
        self.now = 0.0
        self.dice = random.Random(seed)  # noqa: S311 - must repeat itself
        self.events = 0
        self._queue: list[tuple[float, int, Timer]] = []
        self._hosts: dict[str, SimHost] = {}
        self._order = 0

    def host(self, name: str) -> SimHost:
        """Give the machine of that name, a new one if there is none."""
        return self._hosts.setdefault(name, SimHost(self, name))

    def after(self, delay_s: float, callback: Callback) -> Timer:
        """Let something happen later, whatever becomes of any host; after all else that is due at that moment."""
        timer = Timer(callback)
        self._order += 1
        heapq.heappush(self._queue, (self.now + max(0.0, delay_s), self._order, timer))
        return timer

    def run(self, until: float, each: Callback = lambda: None) -> None:
        """Let things happen until a time, or until nothing is to come.

        Args:
            until: seconds since the beginning.
            each: called after each event; what it raises ends the run.

        Raises:
            RuntimeError: so many events have happened that this will not end.
        """
        queue = self._queue
        while queue and queue[0][0] <= until:
            self.now, _, timer = heapq.heappop(queue)
            if timer.is_cancelled:
                continue
            self.events += 1
            if self.events > EVENTS_MAX:
                raise RuntimeError(f"{EVENTS_MAX} events by {self.now:.3f} s: the simulation goes round in circles")
            timer.callback()
            each()
        self.now = max(self.now, until)


class SimHost:
    """One machine.

    Args:
        simulation: where it is.
        name: its name.

    Attributes:
        name: see there.
        is_frozen: nothing happens there now.
        is_up: it has not crashed, or was started again.
        life: how often it has been started, this time included.
    """

    def __init__(self, simulation: Simulation, name: str) -> None:
        self.name = name
        self.is_frozen = False
        self.is_up = True
        self.life = 1
        self._simulation = simulation
        self._due: list[tuple[bool, int, Timer]] = []
        self._order = 0

    def after(self, delay_s: float, callback: Callback, *, is_timer: bool = True) -> Timer:
        """Let something happen there later; never if the host crashes before, not before it thaws if it is frozen.

        Args:
            delay_s: seconds.
            callback: what.
            is_timer: something of the host's own, which comes before what others have sent when the host thaws.
        """
        timer = Timer(callback)
        life = self.life

        def happen() -> None:
            if timer.is_cancelled or life != self.life:
                return
            if self.is_frozen:
                self._order += 1
                self._due.append((not is_timer, self._order, timer))
            else:
                timer.callback()

        self._simulation.after(delay_s, happen)
        return timer

    def freeze(self) -> None:
        """Let nothing happen here until ``thaw``."""
        self.is_frozen = True

    def thaw(self) -> None:
        """Let happen what is overdue, and go on."""
        if not self.is_frozen:
            return
        self.is_frozen = False
        due, self._due = sorted(self._due, key=lambda one: one[:2]), []
        for _, _, timer in due:
            if not timer.is_cancelled:
                self.after(0.0, timer.callback)

    def crash(self) -> None:
        """End all that runs here."""
        self.is_up, self.is_frozen, self._due = False, False, []
        self.life += 1

    def start(self) -> None:
        """Have the host there again after a crash; what is to run on it is the caller's."""
        self.is_up = True
