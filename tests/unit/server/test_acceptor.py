from __future__ import annotations

import errno
import os
import socket

import pytest

from rallypoint.net.address import listen, listen_unix
from rallypoint.server import acceptor as module
from rallypoint.server.acceptor import ACCEPTS_MAX, PAUSE_S, Acceptor


@pytest.fixture
def lines():
    return []


@pytest.fixture
def opened(lines):
    """Give an acceptor, its listener's descriptor, and a function that connects."""
    (listener,) = listen("127.0.0.1", 0)
    acceptor = Acceptor([listener], lines.append)
    clients = []

    def connect():
        clients.append(socket.create_connection(listener.getsockname(), 30))
        return clients[-1]

    yield acceptor, listener.fileno(), connect
    acceptor.close()
    for client in clients:
        client.close()


class FailingAccepts:
    """A listener whose accept fails with these numbers first."""

    def __init__(self, real, numbers):
        self.real = real
        self.numbers = list(numbers)

    def accept(self):
        if self.numbers:
            number = self.numbers.pop(0)
            if number:
                raise OSError(number, os.strerror(number))
        return self.real.accept()

    def __getattr__(self, name):
        return getattr(self.real, name)


def make_fail(acceptor, fd, *numbers):
    acceptor._listeners[fd] = FailingAccepts(acceptor._listeners[fd], numbers)


def close_all(sockets):
    for sock in sockets:
        sock.close()


def test_waiting_connections_are_taken_together(opened):
    acceptor, fd, connect = opened
    clients = [connect() for _ in range(ACCEPTS_MAX)]
    accepted = acceptor.accept(fd, 0.0)
    assert [sock.getpeername() for sock in accepted] == [client.getsockname() for client in clients]
    assert all(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for sock in accepted)
    close_all(accepted)
    assert acceptor.accept(fd, 0.0) == []


def test_a_crowd_is_taken_in_portions(opened):
    acceptor, fd, connect = opened
    for _ in range(ACCEPTS_MAX + 3):
        connect()
    first = acceptor.accept(fd, 0.0)
    second = acceptor.accept(fd, 0.0)
    assert (len(first), len(second)) == (ACCEPTS_MAX, 3)
    close_all(first + second)


def test_a_connection_that_failed_before_it_was_taken_is_skipped(opened, lines):
    acceptor, fd, connect = opened
    connect()
    make_fail(acceptor, fd, errno.ECONNABORTED)
    close_all(acceptor.accept(fd, 0.0))
    assert lines == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_without_descriptors_connections_are_refused_and_the_log_says_why(opened, lines, number):
    acceptor, fd, connect = opened
    clients = [connect(), connect()]
    make_fail(acceptor, fd, number, 0, number, 0)
    assert acceptor.accept(fd, 0.0) == []
    assert [client.recv(1) for client in clients] == [b"", b""]
    assert len(lines) == 1
    assert lines[0].startswith("refused 2 connections: no file descriptor is left (limit ")
    assert acceptor.paused_until == 0.0


def test_without_descriptors_nobody_is_refused_who_is_not_there(opened, lines):
    acceptor, fd, connect = opened
    client = connect()
    make_fail(acceptor, fd, errno.EMFILE, 0, errno.EMFILE)
    assert acceptor.accept(fd, 0.0) == []
    assert client.recv(1) == b""
    assert lines[0].startswith("refused 1 connection: ")
    make_fail(acceptor, fd, errno.EMFILE)
    assert acceptor.accept(fd, 0.0) == []
    assert len(lines) == 1
    assert acceptor.paused_until == 0.0


def test_the_reserve_is_there_again_afterwards(opened):
    acceptor, fd, connect = opened
    for _ in range(3):
        connect()
        make_fail(acceptor, fd, errno.EMFILE)
        acceptor.accept(fd, 0.0)
        assert acceptor._reserve is not None


def test_accepting_pauses_when_nothing_can_even_be_refused(opened, lines):
    acceptor, fd, connect = opened
    connect()
    make_fail(acceptor, fd, errno.EMFILE, errno.EMFILE)
    assert acceptor.accept(fd, 50.0) == []
    assert acceptor.paused_until == 50.0 + PAUSE_S
    assert "accepts nothing for 0.1 s" in lines[0]
    close_all(acceptor.accept(fd, 51.0))


def test_a_lost_reserve_is_made_anew(opened, monkeypatch):
    acceptor, fd, connect = opened

    def none_left(*args):
        raise OSError(errno.EMFILE, "none left")

    connect()
    with monkeypatch.context() as patch:
        patch.setattr(module.os, "open", none_left)
        make_fail(acceptor, fd, errno.EMFILE)
        acceptor.accept(fd, 0.0)
        assert acceptor._reserve is None
        connect()
        make_fail(acceptor, fd, errno.EMFILE)
        acceptor.accept(fd, 0.0)
        assert acceptor.paused_until == PAUSE_S
    make_fail(acceptor, fd, errno.EMFILE)
    acceptor.accept(fd, 1.0)
    assert acceptor._reserve is not None


def test_closing_removes_socket_files_and_abandoning_does_not(tmp_path):
    for path, ends, is_there in [("a.sock", Acceptor.close, False), ("b.sock", Acceptor.abandon, True)]:
        acceptor = Acceptor([listen_unix(str(tmp_path / path))], print)
        ends(acceptor)
        assert acceptor.fds == []
        assert (tmp_path / path).exists() is is_there
        acceptor.close()
