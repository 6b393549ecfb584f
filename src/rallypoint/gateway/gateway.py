"""A gateway: a server of the c10d dialect on this machine, whose keys are in a store of any kind.

The other side is that store (``backing``); everything else is in ``front``.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import replace

from rallypoint.gateway.backing import Backing
from rallypoint.gateway.front import DEFAULT_OPTIONS, Front, FrontOptions
from rallypoint.gateway.spaces import KeySpace
from rallypoint.server.child import log_to_stderr
from rallypoint.server.foreground import run_until_signalled
from rallypoint.store.base import Store

__all__ = ["Gateway", "serve"]

_WHOLE = KeySpace()


class Gateway(Front):
    """One gateway, run by one thread, with a few more for the store's calls.

    Args:
        store: the store.
        listeners: bound and listening sockets; the gateway owns them from now on.
        options: how it serves.
        close_store: close the store at the end, too.
    """

    def __init__(
        self,
        store: Store,
        listeners: Sequence[socket.socket],
        options: FrontOptions = DEFAULT_OPTIONS,
        *,
        close_store: bool = False,
    ) -> None:
        space = options.space or _WHOLE
        super().__init__(listeners, replace(options, space=space))
        self._side = Backing(
            store,
            space.prefix,
            self.tell,
            self.loop.door.post,
            log=options.log,
            clock=options.clock,
            limits=options.limits,
            relay_limits=options.relay_limits,
            close_store=close_store,
        )


def serve(
    store: Store,
    listeners: Sequence[socket.socket],
    options: FrontOptions = DEFAULT_OPTIONS,
    *,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Serve in this process until SIGTERM or SIGINT; call it from the main thread.

    Args:
        store: where the keys are; it is closed at the end.
        listeners: at least one; they belong to the gateway from now on.
        options: how it serves; its lines go to standard error.
        on_ready: called once the gateway accepts connections.

    Returns:
        The exit code: 0, or 128 + the number of the second signal.
    """
    gateway = Gateway(store, listeners, replace(options, log=log_to_stderr), close_store=True)
    return run_until_signalled(gateway, on_ready=on_ready)
