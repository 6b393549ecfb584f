from __future__ import annotations

import select
import socket

import pytest

from rallypoint.server.poller import READ, WRITE, PlainPoller, make_poller


@pytest.fixture(params=[make_poller, PlainPoller])
def poller(request):
    poller = request.param()
    yield poller
    poller.close()


@pytest.fixture
def ends():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def test_what_can_be_read_or_written_is_reported(poller, ends):
    left, right = ends
    poller.register(left.fileno(), READ)
    assert poller.poll(0) == []
    right.send(b"x")
    assert poller.poll(-1) == [(left.fileno(), READ)]
    poller.modify(left.fileno(), READ | WRITE)
    assert poller.poll(30) == [(left.fileno(), READ | WRITE)]
    poller.modify(left.fileno(), 0)
    assert poller.poll(0) == []
    poller.unregister(left.fileno())


def test_the_loss_of_the_peer_is_reported_even_when_nothing_is_watched(poller, ends):
    left, right = ends
    poller.register(left.fileno(), 0)
    right.close()
    ((fd, events),) = poller.poll(30)
    assert fd == left.fileno()
    assert events & ~(READ | WRITE)


def test_no_more_events_come_than_wanted(poller, ends):
    for end in ends:
        poller.register(end.fileno(), WRITE)
    assert len(poller.poll(0, 1)) == 1
    assert len(poller.poll(0)) == 2


def test_the_numbers_are_the_systems():
    assert not hasattr(select, "epoll") or (READ, WRITE) == (select.EPOLLIN, select.EPOLLOUT)
