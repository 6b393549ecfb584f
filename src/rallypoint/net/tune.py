"""How the sockets of connections are set up, on either side."""

from __future__ import annotations

import socket

__all__ = ["KEEPALIVE_IDLE_S", "KEEPALIVE_INTERVAL_S", "KEEPALIVE_PROBES", "tune"]

KEEPALIVE_IDLE_S = 120
"""Silence after which the kernel asks whether the other machine is still there, in seconds."""

KEEPALIVE_INTERVAL_S = 30
"""Pause between two such questions, in seconds."""

KEEPALIVE_PROBES = 10
"""Unanswered questions after which the connection is lost: a vanished machine shows after 7 minutes."""


def tune(sock: socket.socket) -> None:
    """Set a connection up for small messages between long silences: no send delay, keepalive probes."""
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
