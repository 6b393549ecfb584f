from __future__ import annotations

import select
import threading

import pytest

from rallypoint.errors import DistStoreError
from rallypoint.server.door import Door

PATIENCE_S = 30.0


@pytest.fixture
def door():
    door = Door()
    yield door
    door.close()


def serve_once(door):
    readable, _, _ = select.select([door], [], [], PATIENCE_S)
    assert readable == [door]
    door.serve()


def test_what_is_put_in_is_done_in_its_order_by_the_loops_thread(door):
    done = []
    for number in range(3):
        door.post(lambda number=number: done.append((number, threading.get_ident())))
    assert done == []
    serve_once(door)
    assert done == [(number, threading.get_ident()) for number in range(3)]


def test_what_a_call_puts_in_waits_for_the_next_wake_up(door):
    done = []
    door.post(lambda: door.post(lambda: done.append("later")))
    serve_once(door)
    assert done == []
    serve_once(door)
    assert done == ["later"]


def test_a_visitor_gets_what_the_loop_saw(door):
    thread = threading.Thread(target=serve_once, args=(door,))
    thread.start()
    assert door.visit(threading.get_ident, PATIENCE_S) == thread.ident
    thread.join()


def test_a_visitor_gets_the_error_of_its_look(door):
    thread = threading.Thread(target=serve_once, args=(door,))
    thread.start()
    with pytest.raises(KeyError):
        door.visit(lambda: {}["nothing"], PATIENCE_S)
    thread.join()


def test_a_visitor_does_not_wait_for_ever(door):
    with pytest.raises(DistStoreError, match="did not answer within 0 s"):
        door.visit(lambda: 1, 0.0)


def test_nobody_gets_into_a_loop_that_has_ended(door):
    door.close()
    with pytest.raises(DistStoreError, match="has ended"):
        door.post(lambda: None)


def test_waking_a_full_or_closed_door_is_no_error(door):
    for _ in range(100_000):
        door.wake()
    door.close()
    door.wake()
