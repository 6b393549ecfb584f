"""A gateway: a server of the c10d dialect on this machine, whose keys are in a store of any kind.

The other side is that store (``backing``); everything else is in ``front``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from rallypoint.clock import SYSTEM_CLOCK, Clock
from rallypoint.gateway.backing import Backing
from rallypoint.gateway.front import Front
from rallypoint.gateway.spaces import KeySpace
from rallypoint.gateway.vocabulary import DEFAULT_RELAY_LIMITS, RelayLimits
from rallypoint.server.child import log_to_stderr
from rallypoint.server.foreground import run_until_signalled
from rallypoint.server.limits import DEFAULT_LIMITS, Limits
from rallypoint.server.refusals import log_line
from rallypoint.store.base import Store

__all__ = ["Gateway", "serve"]

_WHOLE = KeySpace()


class Gateway(Front):
    """One gateway, run by one thread, with a few more for the store's calls.

    Args:
        store: the store.
        listeners: bound and listening sockets; the gateway owns them from now on.
        limits: what local peers are granted.
        relay_limits: what the gateway grants itself.
        space: the key space of the local peers; ``None`` for the whole store.
        clock: the time that decides.
        log: takes one line, without its end, for each local peer that is closed, and when the store comes or goes.
        close_store: close the store at the end, too.
    """

    def __init__(
        self,
        store: Store,
        listeners: Sequence[socket.socket],
        *,
        limits: Limits = DEFAULT_LIMITS,
        relay_limits: RelayLimits = DEFAULT_RELAY_LIMITS,
        space: KeySpace | None = None,
        clock: Clock = SYSTEM_CLOCK,
        log: Callable[[str], None] = log_line,
        close_store: bool = False,
    ) -> None:
        space = space or _WHOLE
        super().__init__(listeners, limits=limits, relay_limits=relay_limits, space=space, clock=clock, log=log)
        self._side = Backing(
            store,
            space.prefix,
            self.tell,
            self.loop.door.post,
            log=log,
            clock=clock,
            limits=limits,
            relay_limits=relay_limits,
            close_store=close_store,
        )


def serve(
    store: Store,
    listeners: Sequence[socket.socket],
    *,
    limits: Limits = DEFAULT_LIMITS,
    relay_limits: RelayLimits = DEFAULT_RELAY_LIMITS,
    space: KeySpace | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve in this process until SIGTERM or SIGINT; call it from the main thread.

    Args:
        store: where the keys are; it is closed at the end.
        listeners: at least one; they belong to the gateway from now on.
        limits: what local peers are granted.
        relay_limits: what the gateway grants itself.
        space: the key space of the local peers; ``None`` for the whole store.
        on_ready: called once the gateway accepts connections.

    Returns:
        The exit code: 0, or 128 + the number of the second signal.
    """
    gateway = Gateway(
        store,
        listeners,
        limits=limits,
        relay_limits=relay_limits,
        space=space,
        log=log_to_stderr,
        close_store=True,
    )
    return run_until_signalled(gateway, on_ready=on_ready)
