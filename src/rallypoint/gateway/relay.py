"""A relay: a server of the c10d dialect on this machine, whose keys another server holds.

The other side is one session to that server (``upstream``); everything else is in ``front``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from rallypoint.clock import SYSTEM_CLOCK, Clock
from rallypoint.errors import AuthenticationError
from rallypoint.gateway.front import Front
from rallypoint.gateway.spaces import KeySpace
from rallypoint.gateway.upstream import Reach, Upstream
from rallypoint.gateway.vocabulary import DEFAULT_RELAY_LIMITS, RelayLimits
from rallypoint.net.retry import DEFAULT_BACKOFF, Backoff
from rallypoint.server.child import log_to_stderr
from rallypoint.server.foreground import run_until_signalled
from rallypoint.server.limits import DEFAULT_LIMITS, Limits
from rallypoint.server.refusals import log_line

__all__ = ["Relay", "serve"]


class Relay(Front):
    """One relay, run by one thread.

    Args:
        reach: connects to the server.
        listeners: bound and listening sockets; the relay owns them from now on.
        limits: what local peers are granted.
        relay_limits: what the relay grants itself.
        space: the key space of the local peers; ``None`` for the server's keys as they are.
        clock: the time that decides.
        log: takes one line, without its end, for each local peer that is closed, and when the server comes or goes.
        backoff: the pauses between attempts to reach the server.
        spin_us: after each event, look for the next one for so long before sleeping, in microseconds.
    """

    def __init__(
        self,
        reach: Reach,
        listeners: Sequence[socket.socket],
        *,
        limits: Limits = DEFAULT_LIMITS,
        relay_limits: RelayLimits = DEFAULT_RELAY_LIMITS,
        space: KeySpace | None = None,
        clock: Clock = SYSTEM_CLOCK,
        log: Callable[[str], None] = log_line,
        backoff: Backoff = DEFAULT_BACKOFF,
        spin_us: int = 0,
    ) -> None:
        super().__init__(
            listeners,
            limits=limits,
            relay_limits=relay_limits,
            space=space,
            clock=clock,
            log=log,
            spin_us=spin_us,
        )
        self._refusal: AuthenticationError | None = None
        self._side = Upstream(self.loop, reach, self.tell, log, backoff, give_up=self._give_up)

    def run(self) -> None:
        """Relay until ``stop``; all sockets are closed at the end, however it comes.

        Raises:
            AuthenticationError: the server has refused who we are from the beginning.
        """
        super().run()
        if self._refusal is not None:
            raise self._refusal

    def _give_up(self, refusal: AuthenticationError) -> None:
        self._refusal = refusal
        self.stop(0.0)


def serve(
    reach: Reach,
    listeners: Sequence[socket.socket],
    *,
    limits: Limits = DEFAULT_LIMITS,
    relay_limits: RelayLimits = DEFAULT_RELAY_LIMITS,
    space: KeySpace | None = None,
    spin_us: int = 0,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Relay in this process until SIGTERM or SIGINT; call it from the main thread.

    Args:
        reach: connects to the server.
        listeners: at least one; they belong to the relay from now on.
        limits: what local peers are granted.
        relay_limits: what the relay grants itself.
        space: the key space of the local peers; ``None`` for the server's keys as they are.
        spin_us: after each event, look for the next one for so long before sleeping, in microseconds.
        on_ready: called once the relay accepts connections; the server may be reached later.

    Returns:
        The exit code: 0, or 128 + the number of the second signal.

    Raises:
        AuthenticationError: the server refuses who we are; trying again would not help.
    """
    relay = Relay(
        reach,
        listeners,
        limits=limits,
        relay_limits=relay_limits,
        space=space,
        log=log_to_stderr,
        spin_us=spin_us,
    )
    return run_until_signalled(relay, on_ready=on_ready)
