from __future__ import annotations

import socket

import pytest

from rallypoint.net.tune import KEEPALIVE_IDLE_S, tune, tune_accepted, tune_listener


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


@pytest.mark.skipif(not hasattr(socket, "TCP_CONGESTION"), reason="this system has one way against congestion")
@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.2"), (socket.AF_INET6, "::1")])
def test_two_ends_on_one_machine_spend_nothing_on_congestion(family, host):
    with socket.socket(family) as listener:
        listener.bind((host, 0))
        listener.listen()
        with socket.socket(family) as near, socket.socket(family) as unconnected:
            near.connect(listener.getsockname())
            usual = unconnected.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
            tune(near)
            tune(unconnected)
            assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"
            assert unconnected.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16) == usual


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_what_a_listener_accepts_is_set_up_by_both_together(host):
    with socket.socket() as listener, socket.socket() as near:
        listener.bind((host, 0))
        listener.listen()
        is_tuned = tune_listener(listener)
        near.connect(("127.0.0.1", listener.getsockname()[1]))
        accepted, address = listener.accept()
        with accepted:
            if not is_tuned:
                tune_accepted(accepted, address)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == KEEPALIVE_IDLE_S
            if hasattr(socket, "TCP_CONGESTION"):
                assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\0") == b"reno"


def test_a_socket_files_listener_needs_nothing(tmp_path):
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as near:
        listener.bind(str(tmp_path / "a.sock"))
        listener.listen()
        assert tune_listener(listener)
        near.connect(listener.getsockname())
        accepted, _ = listener.accept()
        with accepted:
            assert not accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
