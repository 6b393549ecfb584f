"""A relay: a server of the c10d dialect on this machine, whose keys another server holds.

The other side is one session to that server (``upstream``); everything else is in ``front``. ``native`` is its twin.
"""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from rallypoint.clock import SYSTEM_CLOCK
from rallypoint.errors import AuthenticationError
from rallypoint.gateway.front import DEFAULT_OPTIONS, Front, FrontOptions
from rallypoint.gateway.upstream import Reach, Upstream
from rallypoint.net.retry import DEFAULT_BACKOFF, Backoff
from rallypoint.server.child import keep_memory, log_to_stderr
from rallypoint.server.foreground import run_until_signalled
from rallypoint.twin import native

if TYPE_CHECKING:
    from rallypoint.gateway.native import NativeRelay

__all__ = ["AnyRelay", "Relay", "make_relay", "serve"]

AnyRelay: TypeAlias = "NativeRelay | Relay"


class Relay(Front):
    """One relay, run by one thread.

    Args:
        reach: connects to the server.
        listeners: bound and listening sockets; the relay owns them from now on.
        options: how it serves.
        backoff: the pauses between attempts to reach the server.
    """

    def __init__(
        self,
        reach: Reach,
        listeners: Sequence[socket.socket],
        options: FrontOptions = DEFAULT_OPTIONS,
        *,
        backoff: Backoff = DEFAULT_BACKOFF,
    ) -> None:
        super().__init__(listeners, options, shares_reads=True)
        self._refusal: AuthenticationError | None = None
        self._side = self._upstream = Upstream(
            self.loop, reach, self.tell, options.log, backoff, give_up=self._give_up, is_driven=True
        )

    def run(self) -> None:
        """Relay until ``stop``; all sockets are closed at the end, however it comes.

        Raises:
            AuthenticationError: the server has refused who we are from the beginning.
        """
        super().run()
        if self._refusal is not None:
            raise self._refusal

    def _end_turn(self) -> None:
        if self._translator.has_due:
            super()._end_turn()
        if self._upstream.gathered:
            self._upstream.flush()

    def _give_up(self, refusal: AuthenticationError) -> None:
        self._refusal = refusal
        self.stop(0.0)


def make_relay(
    reach: Reach,
    listeners: Sequence[socket.socket],
    options: FrontOptions = DEFAULT_OPTIONS,
    *,
    is_secured: bool = True,
) -> AnyRelay:
    """Give a relay of the twin that runs; the Python one where the connection may be TLS.

    Args:
        reach: connects to the server.
        listeners: bound and listening sockets; they belong to the relay from now on.
        options: how it serves.
        is_secured: whether ``reach`` connects over TLS, or may do so.

    Raises:
        OSError: there are no descriptors left; the listeners are still the caller's.
    """
    is_whole = options.space is not None and not options.space.name  # a space without a name is a gateway's
    if is_secured or is_whole or options.clock is not SYSTEM_CLOCK or native() is None:
        return Relay(reach, listeners, options)
    from rallypoint.gateway.native import NativeRelay

    return NativeRelay(reach, listeners, options)


def serve(
    reach: Reach,
    listeners: Sequence[socket.socket],
    options: FrontOptions = DEFAULT_OPTIONS,
    *,
    is_secured: bool = True,
    on_ready: Callable[[], None] = lambda: None,
) -> int:
    """Relay in this process until SIGTERM or SIGINT; call it from the main thread.

    Args:
        reach: connects to the server.
        listeners: at least one; they belong to the relay from now on.
        options: how it serves; its lines go to standard error.
        is_secured: as in ``make_relay``.
        on_ready: called once the relay accepts connections; the server may be reached later.

    Returns:
        The exit code: 0, or 128 + the number of the second signal.

    Raises:
        AuthenticationError: the server refuses who we are; trying again would not help.
    """
    relay = make_relay(reach, listeners, replace(options, log=log_to_stderr), is_secured=is_secured)
    gc.collect()
    gc.freeze()  # what is there now stays to the end: no need to look at it again and again
    keep_memory()
    return run_until_signalled(relay, on_ready=on_ready)
