from __future__ import annotations

import socket

from rallypoint.net.tune import KEEPALIVE_IDLE_S, tune


def test_small_messages_are_not_delayed_and_dead_machines_noticed():
    with socket.socket() as sock:
        tune(sock)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE_S


def test_a_socket_file_needs_nothing():
    with socket.socket(socket.AF_UNIX) as sock:
        tune(sock)
        assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
