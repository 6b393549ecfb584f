"""How the sockets of connections are set up, on either side."""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import Any, Final

from rallypoint.net.address import is_loopback

__all__ = ["KEEPALIVE_IDLE_S", "KEEPALIVE_INTERVAL_S", "KEEPALIVE_PROBES", "tune", "tune_accepted", "tune_listener"]

KEEPALIVE_IDLE_S: Final = 120
"""Silence after which the kernel asks whether the other machine is still there, in seconds."""

KEEPALIVE_INTERVAL_S: Final = 30
"""Pause between two such questions, in seconds."""

KEEPALIVE_PROBES: Final = 10
"""Unanswered questions after which the connection is lost: a vanished machine shows after 7 minutes."""

_LIGHTEST = b"reno"  # always there
_IS_INHERITED = sys.platform == "linux"  # what a listener is set up with, by all that it accepts


def tune(sock: socket.socket) -> None:
    """Set a connection up for small messages between long silences: no send delay, keepalive probes.

    Between two ends on one machine nothing is congested, and the lightest algorithm against it will do: with BBR, a
    system's choice for the world, 64 busy peers cost 3 % more.
    """
    if sock.family == socket.AF_UNIX:
        return
    _set_up(sock)
    with contextlib.suppress(OSError):  # gone again already
        _spare_congestion_control(sock, sock.getpeername())


def tune_listener(listener: socket.socket) -> bool:
    """Set up what a listener accepts, as far as the system lets that be done once for all.

    Returns:
        Whether that is all; else each connection that it accepts wants ``tune_accepted``.
    """
    if listener.family == socket.AF_UNIX:
        return True
    if not _IS_INHERITED:
        return False
    _set_up(listener)
    return _spare_congestion_control(listener, listener.getsockname())


def tune_accepted(sock: socket.socket, address: Any) -> None:
    """Set up what ``tune_listener`` could not, of a connection that was accepted.

    Args:
        sock: the connection.
        address: where it comes from, as ``accept`` says.

    Raises:
        OSError: it is gone again already.
    """
    if _IS_INHERITED:
        _spare_congestion_control(sock, address)
    else:
        tune(sock)


def _set_up(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)  # Linux, macOS
    if idle is not None:
        sock.setsockopt(socket.IPPROTO_TCP, idle, KEEPALIVE_IDLE_S)
    if hasattr(socket, "TCP_KEEPINTVL"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


def _spare_congestion_control(sock: socket.socket, address: Any) -> bool:
    """Take the lightest algorithm against congestion if an address is this machine's; tell whether it is."""
    if not is_loopback(str(address[0]).removeprefix("::ffff:")):
        return False
    if hasattr(socket, "TCP_CONGESTION"):
        with contextlib.suppress(OSError):  # a sandbox may refuse it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _LIGHTEST)
    return True
