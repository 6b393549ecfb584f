"""How the sockets of connections are set up, on either side."""

from __future__ import annotations

import contextlib
import socket

from rallypoint.net.address import is_loopback

__all__ = ["KEEPALIVE_IDLE_S", "KEEPALIVE_INTERVAL_S", "KEEPALIVE_PROBES", "tune"]

KEEPALIVE_IDLE_S = 120
"""Silence after which the kernel asks whether the other machine is still there, in seconds."""

KEEPALIVE_INTERVAL_S = 30
"""Pause between two such questions, in seconds."""

KEEPALIVE_PROBES = 10
"""Unanswered questions after which the connection is lost: a vanished machine shows after 7 minutes."""


_LIGHTEST = b"reno"  # always there


def tune(sock: socket.socket) -> None:
    """Set a connection up for small messages between long silences: no send delay, keepalive probes.

    Between two ends on one machine nothing is congested, and the lightest algorithm against it will do: with BBR, a
    system's choice for the world, 64 busy peers cost 3 % more.
    """
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle = getattr(socket, "TCP_KEEPIDLE", None) or getattr(socket, "TCP_KEEPALIVE", None)  # Linux, macOS
    if idle is not None:
        sock.setsockopt(socket.IPPROTO_TCP, idle, KEEPALIVE_IDLE_S)
    if hasattr(socket, "TCP_KEEPINTVL"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    if hasattr(socket, "TCP_CONGESTION") and _is_on_this_machine(sock):
        with contextlib.suppress(OSError):  # a sandbox may refuse it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _LIGHTEST)


def _is_on_this_machine(sock: socket.socket) -> bool:
    try:
        host = str(sock.getpeername()[0])
    except OSError:  # gone again already
        return False
    return is_loopback(host.removeprefix("::ffff:"))
