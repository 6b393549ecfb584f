"""A relay: a server of the c10d dialect on this machine, whose keys another server holds.

The local side is ``server.loop``, which drives the relay instead of an engine; the other side is ``upstream``. What
comes from either goes through ``translator``, and what that wants done goes where it belongs.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from rallypoint.clock import SYSTEM_CLOCK, Clock
from rallypoint.errors import AuthenticationError
from rallypoint.gateway.translator import Translator
from rallypoint.gateway.upstream import Reach, Upstream
from rallypoint.gateway.vocabulary import (
    DEFAULT_RELAY_LIMITS,
    Ask,
    RelayEffect,
    RelayEvent,
    RelayLimits,
    RelayStatistics,
    Withdraw,
)
from rallypoint.net.retry import DEFAULT_BACKOFF, Backoff
from rallypoint.server.child import log_to_stderr
from rallypoint.server.foreground import run_until_signalled
from rallypoint.server.limits import DEFAULT_LIMITS, DRAIN_S, Limits
from rallypoint.server.loop import ServerLoop
from rallypoint.server.refusals import log_line
from rallypoint.server.vocabulary import Effect, Event, Stopping

__all__ = ["Relay", "serve"]


class Relay:
    """One relay, run by one thread.

    Args:
        reach: connects to the server.
        listeners: bound and listening sockets; the relay owns them from now on.
        limits: what local peers are granted.
        relay_limits: what the relay grants itself.
        clock: the time that decides.
        log: takes one line, without its end, for each local peer that is closed, and when the server comes or goes.
        backoff: the pauses between attempts to reach the server.

    Threads: ``stop`` may be called from any thread and from a signal handler; everything else belongs to the thread in
    ``run``.
    """

    def __init__(
        self,
        reach: Reach,
        listeners: Sequence[socket.socket],
        *,
        limits: Limits = DEFAULT_LIMITS,
        relay_limits: RelayLimits = DEFAULT_RELAY_LIMITS,
        clock: Clock = SYSTEM_CLOCK,
        log: Callable[[str], None] = log_line,
        backoff: Backoff = DEFAULT_BACKOFF,
    ) -> None:
        self._clock = clock
        self._refusal: AuthenticationError | None = None
        self._translator = Translator(limits, relay_limits)
        self._loop = ServerLoop(self, listeners, clock, log=log)
        self._upstream = Upstream(self._loop, reach, self._tell, log, backoff, give_up=self._give_up)

    def run(self) -> None:
        """Relay until ``stop``; all sockets are closed at the end, however it comes.

        Raises:
            AuthenticationError: the server has refused who we are from the beginning.
        """
        self._upstream.begin()
        try:
            self._loop.run()
        finally:
            self._upstream.end()
        if self._refusal is not None:
            raise self._refusal

    def _give_up(self, refusal: AuthenticationError) -> None:
        self._refusal = refusal
        self.stop(0.0)

    def stop(self, drain_s: float = DRAIN_S) -> None:
        """End the relay; what local peers are owed already still goes out, for ``drain_s`` seconds at most."""
        self._loop.stop(drain_s)

    def statistics(self, timeout_s: float = 1.0) -> RelayStatistics:
        """Give the numbers. Threads: any but the relay's own.

        Raises:
            DistStoreError: the relay has ended, or is busy for so long.
        """
        return self._loop.door.visit(self._translator.statistics, timeout_s)

    # --- for the loop: what an engine has ----------------------------------------------------------------

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take an event of a local peer; give what is to be done locally."""
        if isinstance(event, Stopping):
            return []  # c10d has no words for it
        return self._forward(self._translator.step(event, now))

    def next_deadline(self) -> float | None:
        """Give the time at which ``Ticked`` is due, ``None`` if no time matters now."""
        return self._translator.next_deadline()

    # --- for the session ---------------------------------------------------------------------------------

    def _tell(self, event: RelayEvent) -> None:
        """Take an event of the session, in the loop's thread."""
        self._loop.apply(self._forward(self._translator.step(event, self._clock.now())))

    def _forward(self, effects: list[RelayEffect]) -> list[Effect]:
        """Hand the session what is for it; give the rest."""
        local: list[Effect] = []
        for effect in effects:
            if isinstance(effect, Ask):
                self._upstream.ask(*effect)
            elif isinstance(effect, Withdraw):
                self._upstream.withdraw(effect.call)
            else:
                local.append(effect)
        return local


def serve(
    reach: Reach,
    listeners: Sequence[socket.socket],
    *,
    limits: Limits = DEFAULT_LIMITS,
    relay_limits: RelayLimits = DEFAULT_RELAY_LIMITS,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Relay in this process until SIGTERM or SIGINT; call it from the main thread.

    Args:
        reach: connects to the server.
        listeners: at least one; they belong to the relay from now on.
        limits: what local peers are granted.
        relay_limits: what the relay grants itself.
        on_ready: called once the relay accepts connections; the server may be reached later.

    Returns:
        The exit code: 0, or 128 + the number of the second signal.

    Raises:
        AuthenticationError: the server refuses who we are; trying again would not help.
    """
    relay = Relay(reach, listeners, limits=limits, relay_limits=relay_limits, log=log_to_stderr)
    return run_until_signalled(relay, on_ready=on_ready)
