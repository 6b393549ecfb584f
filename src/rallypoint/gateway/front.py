"""A server of the c10d dialect on this machine whose keys are on another side.

The local part is ``server.loop``, which drives this instead of an engine. What comes from local peers or from the other
side goes through ``translator``, and what that wants done goes where it belongs: to the loop, or to the other side,
which is a session (``relay``) or any store (``gateway``).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from rallypoint.clock import SYSTEM_CLOCK, Clock
from rallypoint.gateway.spaces import KeySpace
from rallypoint.gateway.translator import Translator
from rallypoint.gateway.vocabulary import (
    DEFAULT_RELAY_LIMITS,
    Ask,
    RelayEffect,
    RelayEvent,
    RelayLimits,
    RelayStatistics,
    Withdraw,
)
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.server.limits import DEFAULT_LIMITS, DRAIN_S, Limits
from rallypoint.server.loop import ServerLoop
from rallypoint.server.refusals import log_line
from rallypoint.server.vocabulary import Effect, Event, Stopping

__all__ = ["DEFAULT_OPTIONS", "Front", "FrontOptions", "OtherSide"]


@dataclass(frozen=True)
class FrontOptions:
    """How a relay or a gateway serves, whatever its other side.

    Attributes:
        limits: what local peers are granted.
        relay_limits: what it grants itself.
        space: the key space of the local peers; ``None`` for keys as they name them.
        clock: the time that decides.
        log: takes one line, without its end, for each local peer that is closed, and when the other side comes or goes.
        spin_us: after each event, look for the next one for so long before sleeping, in microseconds.
    """

    limits: Limits = DEFAULT_LIMITS
    relay_limits: RelayLimits = DEFAULT_RELAY_LIMITS
    space: KeySpace | None = None
    clock: Clock = SYSTEM_CLOCK
    log: Callable[[str], None] = log_line
    spin_us: int = 0


DEFAULT_OPTIONS: Final = FrontOptions()


class OtherSide(Protocol):
    """What holds the keys. Each request is answered with ``Answered`` or ``Failed``, told in the loop's thread."""

    def begin(self) -> None:
        """Begin, before the loop does."""

    def end(self) -> None:
        """Give everything back, after the loop has ended."""

    def ask(self, call: int, verb: SessionVerb, fields: tuple[Any, ...], peer: int) -> None:
        """Do a request, after the earlier ones of the same peer; in the loop's thread, which is not kept."""

    def withdraw(self, call: int) -> None:
        """Cancel a request that waits, if it does; it is answered all the same."""


class Front:
    """One relay or gateway, run by one thread.

    Args:
        listeners: bound and listening sockets; they belong to it from now on.
        options: how it serves.
        shares_reads: equal reads of several peers are one request; of another side that does requests in their order.

    Attributes:
        loop: what drives it.

    Threads: ``stop`` may be called from any thread and from a signal handler, ``statistics`` from any but its own;
    everything else belongs to the thread in ``run``.
    """

    _side: OtherSide  # a subclass makes it

    def __init__(
        self,
        listeners: Sequence[socket.socket],
        options: FrontOptions = DEFAULT_OPTIONS,
        *,
        shares_reads: bool = False,
    ) -> None:
        self._clock = options.clock
        self._translator = Translator(options.limits, options.relay_limits, options.space, shares_reads=shares_reads)
        self.loop = ServerLoop(
            self, listeners, options.clock, log=options.log, spin_us=options.spin_us, commit=self._end_turn
        )

    def run(self) -> None:
        """Serve until ``stop``; all sockets are closed at the end, however it comes."""
        self._side.begin()
        try:
            self.loop.run()
        finally:
            self._side.end()

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """End it; what local peers are owed already still goes out, for ``drain_s`` seconds at most."""
        self.loop.stop(drain_s)

    def statistics(self, timeout_s: float = 1.0) -> RelayStatistics:
        """Give the numbers.

        Raises:
            DistStoreError: it has ended, or is busy for so long.
        """
        return self.loop.door.visit(self._translator.statistics, timeout_s)

    # --- for the loop: what an engine has ----------------------------------------------------------------

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take an event of a local peer; give what is to be done locally."""
        if isinstance(event, Stopping):
            return []  # c10d has no words for it
        return self._forward(self._translator.step(event, now))

    def next_deadline(self) -> float | None:
        """Give the time at which ``Ticked`` is due, ``None`` if no time matters now."""
        return self._translator.next_deadline()

    # --- for the other side ------------------------------------------------------------------------------

    def tell(self, event: RelayEvent) -> None:
        """Take an event of the other side, in the loop's thread."""
        self.loop.apply(self._forward(self._translator.step(event, self._clock.now())))

    def _end_turn(self) -> None:
        """Ask for what peers wanted to read in this turn of the loop, before anything leaves."""
        if effects := self._translator.end_turn():
            self.loop.apply(self._forward(effects))

    def _forward(self, effects: list[RelayEffect]) -> list[Effect]:
        """Hand the other side what is for it; give the rest."""
        local: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Ask):
                self._side.ask(*effect)
            elif isinstance(effect, Withdraw):
                self._side.withdraw(effect.call)
            else:
                local.append(effect)
        return local
