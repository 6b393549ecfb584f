"""A server in the foreground: it is what its process is for, and signals end it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from rallypoint.net.address import close_listener
from rallypoint.server.child import collect_seldom, keep_memory, log_to_stderr, raise_descriptor_limit
from rallypoint.server.daemon import local_offers
from rallypoint.server.descriptors import widen_table
from rallypoint.server.limits import DEFAULT_LIMITS, DRAIN_S, Limits
from rallypoint.server.native import Loop, make_loop

if TYPE_CHECKING:
    from rallypoint.server.security import Security

__all__ = ["Foreground", "run_until_signalled", "serve"]


class Foreground(Protocol):
    """What can run in the foreground."""

    def run(self) -> None:
        """Run until ``stop``."""

    def stop(self, drain_s: float) -> None:
        """End, after draining for so long at most; from a signal handler."""


def serve(
    listeners: Sequence[socket.socket],
    *,
    limits: Limits = DEFAULT_LIMITS,
    data_dir: str | os.PathLike[str] | None = None,
    security: Security | None = None,
    on_ready: Callable[[], None] = lambda: None,
    drain_s: float = DRAIN_S,
    spin_us: int = 0,
    beside: Callable[[Loop], AbstractContextManager[object]] | None = None,
) -> int:
    """Serve in this process until SIGTERM or SIGINT; call it from the main thread.

    Args:
        listeners: at least one; they belong to the server from now on, also if it does not start.
        limits: what peers are granted.
        data_dir: where all that is stored is kept over the end of the server; ``None`` keeps it in memory only.
        security: what those who connect must prove, and may do; ``None`` for nothing and everything.
        on_ready: called once the server accepts connections.
        drain_s: how long pending replies may take to go out after the first signal; a second one ends it at once.
        spin_us: after each request, look for the next one for so long before sleeping, in microseconds.
        beside: given the loop before it serves, what lasts as long as it serves; its errors end the server.

    Returns:
        The exit code: 0, or 128 + the number of the second signal.

    Raises:
        DataDirError: the data directory cannot be used, or a commit to it failed: the server has ended, and nothing
            that was not committed has been answered.
        ValueError: a file that ``security`` names is missing or is not what it should be.
    """
    listeners = [*listeners, *local_offers(listeners)]
    with contextlib.ExitStack() as resources:
        try:
            raise_descriptor_limit()
            widen_table()
            collect_seldom()
            keep_memory()
            journal = None
            if data_dir is not None:
                from rallypoint.server.durable import open_journal  # loads SQLite

                journal = resources.enter_context(contextlib.closing(open_journal(data_dir)))
            loop = make_loop(limits, listeners, spin_us=spin_us, log=log_to_stderr, security=security, journal=journal)
        except BaseException:
            for listener in listeners:
                close_listener(listener)
            raise
        if beside is not None:
            try:
                resources.enter_context(beside(loop))
            except BaseException:
                loop.abandon()
                raise
        return run_until_signalled(loop, on_ready=on_ready, drain_s=drain_s)


def run_until_signalled(
    server: Foreground, *, on_ready: Callable[[], None] = lambda: None, drain_s: float = DRAIN_S
) -> int:
    """Run something until SIGTERM or SIGINT; call it from the main thread.

    Args:
        server: what to run.
        on_ready: called before it runs.
        drain_s: how long it may drain after the first signal; a second one ends it at once.

    Returns:
        The exit code: 0, or 128 + the number of the second signal.
    """
    received: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the shape of signal handlers
        received.append(number)
        server.stop(drain_s if len(received) == 1 else 0.0)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        raise_descriptor_limit()
        on_ready()
        server.run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 128 + received[1] if len(received) > 1 else 0
