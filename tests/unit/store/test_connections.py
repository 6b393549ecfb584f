from __future__ import annotations

import functools
import os
import signal
import threading

import pytest
from tests.support.client_twins import each_c10d_client  # noqa: F401 - a fixture
from tests.support.scripted_peer import scripted_peer

from rallypoint.errors import (
    ConnectionLostError,
    LocalProtocolError,
    QueueEmptyError,
    RemoteProtocolError,
    ReplyTimeoutError,
    StoreTimeoutError,
)
from rallypoint.protocol.spec import Verb
from rallypoint.store import native
from rallypoint.store.connections import IDLE_SIDES_MAX
from rallypoint.types import Endpoint

pytestmark = pytest.mark.usefixtures("each_c10d_client")

JOIN_S = 60
LONG_S = 300.0
ONE = b"\x01" + bytes(7)
"""The answer 1 as 64 bits."""


peer = scripted_peer


@pytest.fixture
def line(peer, pool):
    """A client, whose connections are under test, and the server's end of the main one."""
    connecting = pool.submit(native.make_client, Endpoint("127.0.0.1", peer.port), LONG_S)
    main = peer.accept()
    connections = connecting.result(JOIN_S)
    yield connections, main
    connections.close("the test is over")


def run(connections, call, *arguments, timeout_s=LONG_S):
    return getattr(connections, call)(*arguments, float(timeout_s))


def add_one(connections, main, pool):
    """Prove that the main connection is in use and in step."""
    adding = pool.submit(run, connections, "add", b"n", 1)
    main.expect((Verb.ADD, b"/n", 1))
    main.reply(ONE)
    assert adding.result(JOIN_S) == 1


def begin_wait(connections, main, pool, **options):
    """Have a thread wait for a key on the main connection; give its future."""
    waiting = pool.submit(functools.partial(run, connections, "wait", [b"late"], **options))
    main.expect((Verb.CHECK, [b"/late"]))
    main.reply(b"\x01")
    main.expect((Verb.WAIT, [b"/late"]))
    return waiting


def test_calls_follow_each_other_on_one_connection(line, peer, pool):
    connections, main = line
    add_one(connections, main, pool)
    add_one(connections, main, pool)
    assert not peer.has_callers()


def test_a_write_on_the_main_connection_is_not_waited_for(line):
    connections, main = line
    run(connections, "set", b"k", b"v")
    main.expect((Verb.SET, b"/k", b"v"))


def test_nothing_to_post_sends_nothing(line, peer, pool):
    connections, main = line
    run(connections, "multi_set", [], [])
    add_one(connections, main, pool)
    assert not peer.has_callers()


def test_a_post_that_cannot_be_made_leaves_the_connection_in_use(line, peer, pool):
    connections, main = line
    with pytest.raises(LocalProtocolError):
        run(connections, "set", bytes(10_000), b"v")
    add_one(connections, main, pool)
    assert not peer.has_callers()


def test_a_post_to_a_server_that_takes_nothing_is_an_error_and_the_next_call_connects_anew(line, peer, pool, impatient):
    connections, _ = line

    def fill() -> None:
        for _ in range(1000):
            run(connections, "set", b"k", bytes(8 << 20), timeout_s=0)

    with pytest.raises(ReplyTimeoutError, match="did not take a request"):
        fill()
    adding = pool.submit(run, connections, "add", b"n", 1)
    second = peer.accept()
    second.expect((Verb.ADD, b"/n", 1))
    second.reply(ONE)
    assert adding.result(JOIN_S) == 1


def test_a_post_to_a_connection_closed_by_the_server_ends_the_store(line):
    connections, main = line
    main.close()

    def write_on() -> None:
        for _ in range(1000):
            run(connections, "set", b"k", bytes(1 << 20))

    with pytest.raises(ConnectionLostError):
        write_on()
    with pytest.raises(ConnectionLostError):
        run(connections, "add", b"n", 1)


def test_a_second_threads_short_call_waits_its_turn(line, peer, pool):
    connections, main = line
    first = pool.submit(run, connections, "add", b"a", 1)
    main.expect((Verb.ADD, b"/a", 1))
    second = pool.submit(run, connections, "add", b"b", 1)
    assert not second.done()
    main.reply(ONE)
    assert first.result(JOIN_S) == 1
    main.expect((Verb.ADD, b"/b", 1))
    main.reply(ONE)
    assert second.result(JOIN_S) == 1
    assert not peer.has_callers()


def test_a_thread_that_waits_holds_up_nobody(line, peer, pool):
    connections, main = line
    waiting = begin_wait(connections, main, pool)
    checking = pool.submit(run, connections, "check", [b"k"])
    side = peer.accept()
    side.expect((Verb.CHECK, [b"/k"]))
    side.reply(b"\x00")
    assert checking.result(JOIN_S)
    main.reply(b"\x00")
    waiting.result(JOIN_S)
    add_one(connections, main, pool)


def test_a_call_that_came_before_the_wait_began_turns_to_a_side_connection(line, peer, pool):
    connections, main = line
    waiting = pool.submit(run, connections, "wait", [b"late"])
    main.expect((Verb.CHECK, [b"/late"]))
    checking = pool.submit(run, connections, "check", [b"k"])
    main.reply(b"\x01")
    main.expect((Verb.WAIT, [b"/late"]))
    side = peer.accept()
    side.expect((Verb.CHECK, [b"/k"]))
    side.reply(b"\x01")
    assert not checking.result(JOIN_S)
    main.reply(b"\x00")
    waiting.result(JOIN_S)


def test_a_write_beside_a_wait_is_acknowledged_before_the_call_returns(line, peer, pool):
    connections, main = line
    begin_wait(connections, main, pool)
    setting = pool.submit(run, connections, "set", b"k", b"v")
    side = peer.accept()
    side.expect((Verb.SET, b"/k", b"v"))
    assert not setting.done()
    side.pong()
    setting.result(JOIN_S)
    main.reply(b"\x00")


def test_side_connections_are_used_again_and_their_number_is_bounded(line, peer, pool):
    connections, main = line
    waiting = begin_wait(connections, main, pool)
    sides = []
    calls = []
    for number in range(IDLE_SIDES_MAX + 2):
        calls.append(pool.submit(run, connections, "check", [b"%d" % number]))
        sides.append(peer.accept())
        sides[-1].expect((Verb.CHECK, [b"/%d" % number]))
    for side, call in zip(sides, calls, strict=True):
        side.reply(b"\x00")
        assert call.result(JOIN_S)
    for side in sides[IDLE_SIDES_MAX:]:
        side.expect_end()
    again = pool.submit(run, connections, "check", [b"again"])
    sides[IDLE_SIDES_MAX - 1].expect((Verb.CHECK, [b"/again"]))
    sides[IDLE_SIDES_MAX - 1].reply(b"\x00")
    assert again.result(JOIN_S)
    assert not peer.has_callers()
    main.reply(b"\x00")
    waiting.result(JOIN_S)


def test_a_call_that_settles_has_earlier_writes_acknowledged_first(line, pool):
    connections, main = line
    run(connections, "set", b"k", b"v")
    meeting = pool.submit(functools.partial(run, connections, "barrier", b"b", 2))
    main.expect((Verb.SET, b"/k", b"v"))
    main.pong()
    main.expect((Verb.BARRIER, b"/b", 2))
    main.reply(b"\x00")
    meeting.result(JOIN_S)


def test_a_call_that_settles_asks_nothing_where_nothing_was_written(line, pool):
    connections, main = line
    add_one(connections, main, pool)
    meeting = pool.submit(functools.partial(run, connections, "barrier", b"b", 2))
    main.expect((Verb.BARRIER, b"/b", 2))
    main.reply(b"\x00")
    meeting.result(JOIN_S)


def test_a_wait_whose_time_is_up_leaves_the_connection_in_use(line, peer, pool):
    connections, main = line
    waiting = begin_wait(connections, main, pool, timeout_s=0.02)
    main.expect((Verb.CANCEL_WAIT,))
    main.reply(b"\x01")
    main.expect((Verb.CHECK, [b"/late"]))
    main.reply(b"\x01")
    with pytest.raises(StoreTimeoutError) as caught:
        waiting.result(JOIN_S)
    assert caught.value.missing == ("late",)
    add_one(connections, main, pool)
    assert not peer.has_callers()


def test_a_refusal_before_anything_was_sent_leaves_the_connection_in_use(line, peer, pool):
    connections, main = line
    with pytest.raises(LocalProtocolError):
        run(connections, "add", b"n", 1 << 63)
    add_one(connections, main, pool)
    assert not peer.has_callers()


def test_an_empty_queue_leaves_the_connection_in_use(line, peer, pool):
    connections, main = line
    popping = pool.submit(run, connections, "queue_pop", b"q", False)
    main.expect((Verb.QUEUE_POP, b"/q"))
    main.reply(bytes(8))
    with pytest.raises(QueueEmptyError):
        popping.result(JOIN_S)
    add_one(connections, main, pool)
    assert not peer.has_callers()


def test_a_silent_server_is_an_error_and_the_next_call_connects_anew(line, peer, pool, impatient):
    connections, main = line
    with pytest.raises(ReplyTimeoutError, match="did not answer within"):
        run(connections, "check", [b"k"], timeout_s=0)
    main.expect((Verb.CHECK, [b"/k"]))
    main.expect_end()
    checking = pool.submit(run, connections, "check", [b"k"])
    second = peer.accept()
    second.expect((Verb.CHECK, [b"/k"]))
    second.reply(b"\x00")
    assert checking.result(JOIN_S)


def test_a_thread_behind_a_call_that_is_not_answered_has_its_turn_when_that_ends(line, peer, pool, impatient):
    connections, main = line
    first = pool.submit(functools.partial(run, connections, "add", b"a", 1, timeout_s=0))
    main.expect((Verb.ADD, b"/a", 1))
    second = pool.submit(run, connections, "add", b"b", 1)
    with pytest.raises(ReplyTimeoutError):
        first.result(JOIN_S)
    anew = peer.accept()
    anew.expect((Verb.ADD, b"/b", 1))
    anew.reply(ONE)
    assert second.result(JOIN_S) == 1


def test_a_reply_without_meaning_costs_the_connection(line, peer, pool):
    connections, main = line
    checking = pool.submit(run, connections, "check", [b"k"])
    main.expect((Verb.CHECK, [b"/k"]))
    main.reply(b"\x07")
    with pytest.raises(RemoteProtocolError):
        checking.result(JOIN_S)
    main.expect_end()
    adding = pool.submit(run, connections, "add", b"n", 1)
    second = peer.accept()
    second.expect((Verb.ADD, b"/n", 1))
    second.reply(ONE)
    assert adding.result(JOIN_S) == 1


def test_a_connection_closed_by_the_server_ends_this_call_and_all_later_ones(line, peer, pool):
    connections, main = line
    adding = pool.submit(run, connections, "add", b"n", 1)
    main.expect((Verb.ADD, b"/n", 1))
    main.close()
    with pytest.raises(ConnectionLostError, match="Connection was likely closed"):
        adding.result(JOIN_S)
    for _ in range(2):
        with pytest.raises(ConnectionLostError, match="Connection was likely closed"):
            run(connections, "add", b"n", 1)
    assert not peer.has_callers()


def test_a_side_connection_closed_by_the_server_ends_the_store_too(line, peer, pool):
    connections, main = line
    waiting = begin_wait(connections, main, pool)
    checking = pool.submit(run, connections, "check", [b"k"])
    side = peer.accept()
    side.expect((Verb.CHECK, [b"/k"]))
    side.close()
    with pytest.raises(ConnectionLostError):
        checking.result(JOIN_S)
    with pytest.raises(ConnectionLostError):
        run(connections, "check", [b"k"])
    main.reply(b"\x00")
    waiting.result(JOIN_S)


def test_the_legacy_server_is_recognised_and_then_asked_carefully(line, peer, pool):
    connections, main = line
    getting = pool.submit(run, connections, "get", "k")
    main.expect((Verb.CHECK, [b"/k"]), (Verb.GET, b"/k"))
    main.reply(b"\x01")
    main.close()
    second = peer.accept()
    second.expect((Verb.CHECK, [b"/k"]))
    second.reply(b"\x00")
    second.expect((Verb.GET, b"/k"))
    second.reply(ONE + b"v")
    assert getting.result(JOIN_S) == b"v"
    again = pool.submit(run, connections, "get", "k")
    second.expect((Verb.CHECK, [b"/k"]))
    second.reply(b"\x00")
    second.expect((Verb.GET, b"/k"))
    second.reply(ONE + b"w")
    assert again.result(JOIN_S) == b"w"


def test_closing_ends_the_waits_of_other_threads_and_says_why(line, pool):
    connections, main = line
    waiting = begin_wait(connections, main, pool)
    connections.close("the store is closed")
    with pytest.raises(ConnectionLostError, match=r"^the store is closed$"):
        waiting.result(JOIN_S)
    with pytest.raises(ConnectionLostError, match=r"^the store is closed$"):
        run(connections, "check", [b"k"])
    main.expect_end()


def interrupt_when_waiting(main, number):
    """From the server's end: answer "absent", and send this process a signal once the client waits."""
    main.expect((Verb.CHECK, [b"/late"]))
    main.reply(b"\x01")
    main.expect((Verb.WAIT, [b"/late"]))
    os.kill(os.getpid(), number)


def test_ctrl_c_ends_a_wait_at_once_and_the_next_call_connects_anew(line, peer, pool):
    connections, main = line
    assert threading.current_thread() is threading.main_thread()
    interrupting = pool.submit(interrupt_when_waiting, main, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(connections, "wait", [b"late"])
    interrupting.result(JOIN_S)
    main.expect_end()
    checking = pool.submit(run, connections, "check", [b"k"])
    second = peer.accept()
    second.expect((Verb.CHECK, [b"/k"]))
    second.reply(b"\x00")
    assert checking.result(JOIN_S)


def test_a_signal_handler_may_use_the_store_that_its_thread_waits_on(line, peer, pool):
    connections, main = line
    answers = []

    def play():
        interrupt_when_waiting(main, signal.SIGUSR1)
        side = peer.accept()
        side.expect((Verb.CHECK, [b"/k"]))
        side.reply(b"\x00")
        main.reply(b"\x00")

    before = signal.signal(signal.SIGUSR1, lambda *_: answers.append(run(connections, "check", [b"k"])))
    try:
        playing = pool.submit(play)
        run(connections, "wait", [b"late"])
        playing.result(JOIN_S)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert answers == [True]
