"""The compiled fast lane of a session's client, against a server that is played by hand; and the client without it."""

from __future__ import annotations

import gc
import os
import signal
import socket
import threading
import weakref

import pytest
from tests.support.client_twins import IS_BUILT
from tests.support.session_peer import opened_trunk, session_peer

from rallypoint import twin
from rallypoint.errors import (
    ConnectionLostError,
    ForkedStoreError,
    LocalProtocolError,
    QueueEmptyError,
    RefusedError,
    RemoteProtocolError,
    ReplyTimeoutError,
    StoreTimeoutError,
)
from rallypoint.protocol.session.codec import encode_reply
from rallypoint.protocol.session.spec import EventKind, SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.store.lane import CALLS, Lender, open_lane
from rallypoint.store.session import SessionClient

V = SessionVerb
JOIN_S = 60
LONG_S = 300.0

COURSES = [
    ("set", ("k", b"v"), (V.SET, b"/k", b"v"), (3,), None),
    ("get", ("k",), (V.GET, b"/k"), (b"v",), b"v"),
    ("get", (b"k",), (V.GET, b"/k"), (b"",), b""),
    ("add", ("k", -2), (V.ADD, b"/k", -2), (-5,), -5),
    ("compare_set", ("k", "a", "b"), (V.COMPARE_SET, b"/k", b"a", b"b"), (b"c",), b"c"),
    ("check", (["k", b"l"],), (V.CHECK, [b"/k", b"/l"]), (0,), True),
    ("check", (("k",),), (V.CHECK, [b"/k"]), (1,), False),
    ("wait", (["k"],), (V.WAIT, [b"/k"]), (), None),
    ("append", ("k", "v"), (V.APPEND, b"/k", b"v"), (3,), None),
    ("multi_get", (["k", "l"],), (V.MULTI_GET, [b"/k", b"/l"]), ([b"v", b""],), [b"v", b""]),
    ("multi_set", (["k", "l"], ["v", b"w"]), (V.MULTI_SET, [(b"/k", b"v"), (b"/l", b"w")]), (3,), None),
    ("queue_push", ("k", "v"), (V.QUEUE_PUSH, b"/k", b"v"), (1,), None),
    ("queue_pop", ("k", True), (V.QUEUE_POP, b"/k"), (b"v",), b"v"),
    ("queue_len", ("k",), (V.QUEUE_LEN, b"/k"), (4,), 4),
    ("delete_key", ("k",), (V.DELETE_KEY, b"/k"), (1,), True),
    ("delete_key", ("k",), (V.DELETE_KEY, b"/k"), (0,), False),
    ("num_keys", (), (V.GETNUMKEYS,), (9,), 9),
    ("barrier", ("k", 2), (V.BARRIER, b"/k", 2), (), None),
    ("swap", ("k", 5, "v", 0), (V.SWAP, b"/k", 5, b"v", 0), (1, 6), (True, 6)),
]
"""A call, its arguments, its request, the fields of the answer, the result."""


peer = session_peer
trunk_and_server = opened_trunk


@pytest.fixture
def parts(trunk_and_server):
    """A client, and the server's end of its first connection."""
    trunk, server = trunk_and_server
    client = SessionClient(trunk)
    yield client, server
    client.close("the test is over")


@pytest.fixture(params=["lane", "trunk"] if IS_BUILT else ["trunk"])
def line(request, parts):
    """The same, with the lane and without."""
    if request.param == "lane":
        open_lane(parts[0], twin.native())
    return parts


class InterruptionError(Exception):
    """What a signal's handler raises."""


def add(client, server, pool, total=1):
    """See that calls go on."""
    adding = pool.submit(client.add, "n", 1, LONG_S)
    server.ok(V.ADD, server.expect(V.ADD, b"/n", 1), total)
    assert adding.result(JOIN_S) == total
    return server.last_id


@pytest.mark.parametrize(("call", "given", "request_", "fields", "result"), COURSES)
def test_a_call_is_one_request_and_its_answer(line, pool, call, given, request_, fields, result):
    client, server = line
    for number in (1, 2):
        calling = pool.submit(getattr(client, call), *given, LONG_S)
        assert server.expect(*request_) == number
        assert server.done == number
        server.ok(request_[0], number, *fields)
        assert calling.result(JOIN_S) == result


def test_every_call_of_the_lane_has_its_course():
    assert {course[0] for course in COURSES} == set(CALLS)
    assert all(callable(getattr(SessionClient, name)) for name in CALLS)


def test_signs_of_a_trunk_at_rest_are_empty(parts):
    assert not any(Lender.signs(parts[0].trunk))


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        (b"\x11\0\0\0\x00" + b"\x01" + b"\0" * 7 + b"\x09" + b"\0" * 7, "get"),  # a value longer than its frame
        (b"\x12\0\0\0\x00" + b"\x01" + b"\0" * 7 + b"\0" * 9, "get"),  # a byte behind the value
        (b"\x0a\0\0\0\x00" + b"\x01" + b"\0" * 7 + b"\x02", "check"),  # neither ready nor not
    ],
)
def test_an_answer_of_other_fields_is_an_error(line, pool, answer, given):
    client, server = line
    arguments = {"get": ("k",), "check": (["k"],)}[given]
    calling = pool.submit(getattr(client, given), *arguments, LONG_S)
    server.next()
    server.reply(answer)
    with pytest.raises(RemoteProtocolError):
        calling.result(JOIN_S)
    assert add(client, server, pool) == 2


def test_a_late_answer_is_waited_for(line, pool):
    client, server = line
    for number in (1, 3):
        getting = pool.submit(client.get, "k", LONG_S)
        server.expect(V.GET, b"/k")
        with pytest.raises(TimeoutError):
            getting.result(0.03)
        server.ok(V.GET, number, b"v")
        assert getting.result(JOIN_S) == b"v"
        assert add(client, server, pool) == number + 1


def test_an_answer_in_pieces_is_put_together(line, pool):
    client, server = line
    for number in range(1, 30, 4):
        getting = pool.submit(client.get, "k", LONG_S)
        server.expect(V.GET, b"/k")
        answer = encode_reply(Status.OK, V.GET, server.last_id, b"value")
        server.reply(answer[:number])
        server.reply(answer[number:])
        assert getting.result(JOIN_S) == b"value"


@pytest.mark.parametrize("size", [16_300, 16_384, 16_400, 70_000, 1 << 20])
def test_large_values_go_both_ways(line, pool, size):
    client, server = line
    value = os.urandom(size)
    setting = pool.submit(client.set, "k", value, LONG_S)
    server.ok(V.SET, server.expect(V.SET, b"/k", value), 3)
    setting.result(JOIN_S)
    getting = pool.submit(client.get, "k", LONG_S)
    server.ok(V.GET, server.expect(V.GET, b"/k"), value)
    assert getting.result(JOIN_S) == value
    assert add(client, server, pool) == 3


def test_a_request_that_the_system_does_not_take_at_once_is_sent_all_the_same(line, pool):
    client, server = line
    client.trunk.link.stream._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    value = os.urandom(16_000)
    for number in (1, 2):
        setting = pool.submit(client.set, "k", value, LONG_S)
        assert server.expect(V.SET, b"/k", value) == number
        server.ok(V.SET, number, 3)
        setting.result(JOIN_S)


def test_other_threads_call_while_one_waits(line, pool):
    client, server = line
    getting = pool.submit(client.get, "late", LONG_S)
    late = server.expect(V.GET, b"/late")
    adding = [pool.submit(client.add, f"k{number}", number, LONG_S) for number in range(4)]
    for _ in adding:
        verb, key, amount = server.next()
        server.ok(verb, server.last_id, amount * 10)
        assert key == b"/k%d" % amount
    assert [future.result(JOIN_S) for future in adding] == [0, 10, 20, 30]
    server.ok(V.GET, late, b"v")
    assert getting.result(JOIN_S) == b"v"
    assert add(client, server, pool) == 6
    assert server.done == 6


def test_done_stays_behind_a_write_that_waits(line, pool):
    client, server = line
    popping = pool.submit(client.queue_pop, "q", True, LONG_S)
    number = server.expect(V.QUEUE_POP, b"/q")
    add(client, server, pool)
    assert server.done == number
    server.ok(V.QUEUE_POP, number, b"item")
    assert popping.result(JOIN_S) == b"item"
    add(client, server, pool)
    assert server.done == 3


def test_an_event_before_the_answer_is_heard(line, pool):
    client, server = line
    watching = pool.submit(client.watch, "k", False, None, LONG_S)
    number = server.expect(V.WATCH, b"/k", 0, -1)
    server.ok(V.WATCH, number, 7)
    watch = watching.result(JOIN_S)
    adding = pool.submit(client.add, "n", 1, LONG_S)
    server.expect(V.ADD, b"/n", 1)
    server.tell(number, EventKind.SET, b"/k", b"v", 8)
    server.ok(V.ADD, 2, 1)
    assert adding.result(JOIN_S) == 1
    assert watch.next(0).value == b"v"
    watch.close()


def test_a_timeout_of_nothing_asks_and_cancels_in_one_segment(line, pool):
    client, server = line
    for number in (1, 2):
        getting = pool.submit(client.get, "k", 0.0)
        server.expect(V.GET, b"/k")
        server.expect(V.CANCEL, number)
        server.ok(V.GET, number, b"v")
        assert getting.result(JOIN_S) == b"v"
    getting = pool.submit(client.get, "k", 0.0)
    server.expect(V.GET, b"/k")
    server.expect(V.CANCEL, 3)
    server.expire(V.GET, 3, [b"/k"])
    with pytest.raises(StoreTimeoutError):
        getting.result(JOIN_S)


def test_a_queue_is_looked_into(line, pool):
    client, server = line
    for answer in ("ok", "expire"):
        popping = pool.submit(client.queue_pop, "q", False, LONG_S)
        number = server.expect(V.QUEUE_POP, b"/q")
        server.expect(V.CANCEL, number)
        getattr(server, answer)(V.QUEUE_POP, number, b"item" if answer == "ok" else [b"/q"])
        if answer == "ok":
            assert popping.result(JOIN_S) == b"item"
        else:
            with pytest.raises(QueueEmptyError):
                popping.result(JOIN_S)


@pytest.mark.parametrize("timeout_s", [0.001, 0.02, 0.06])
def test_a_wait_ends_at_its_deadline(line, pool, timeout_s):
    client, server = line
    waiting = pool.submit(client.wait, ["k", "l"], timeout_s)
    number = server.expect(V.WAIT, [b"/k", b"/l"])
    server.expect(V.CANCEL, number)
    server.expire(V.WAIT, number, [b"/l"])
    with pytest.raises(StoreTimeoutError) as caught:
        waiting.result(JOIN_S)
    assert list(caught.value.missing) == ["l"]
    assert add(client, server, pool) == 2


def test_a_refusal_is_an_error_and_calls_go_on(line, pool):
    client, server = line
    adding = pool.submit(client.add, "k", 1, LONG_S)
    server.refuse(server.expect(V.ADD, b"/k", 1), CloseReason.STORE_FULL, "there is no room")
    with pytest.raises(RefusedError, match="there is no room"):
        adding.result(JOIN_S)
    assert add(client, server, pool) == 2


def test_what_cannot_be_sent_is_an_error_and_no_request(line, pool):
    client, server = line
    with pytest.raises(LocalProtocolError):
        client.set("k" * 10_000, "v", LONG_S)
    with pytest.raises(TypeError):
        client.add("k", "v", LONG_S)
    with pytest.raises(TypeError):
        client.set(7, "v", LONG_S)
    assert client.check([], LONG_S)
    assert add(client, server, pool) == 1


def test_a_silent_server_is_an_error_and_its_late_answer_is_dropped(line, pool, impatient):
    client, server = line
    setting = pool.submit(client.set, "k", "v", 0.05)
    server.expect(V.SET, b"/k", b"v")
    with pytest.raises(ReplyTimeoutError):
        setting.result(JOIN_S)
    server.ok(V.SET, 1, 3)
    assert add(client, server, pool) == 2


def test_a_lost_connection_is_made_again_and_the_request_sent_again(line, peer, pool):
    client, server = line
    add(client, server, pool)
    adding = pool.submit(client.add, "k", 1, LONG_S)
    assert server.expect(V.ADD, b"/k", 1) == 2
    server.close()
    with peer.meet(is_resumed=1).sock as sock:
        server.sock = sock
        assert server.expect(V.ADD, b"/k", 1) == 2
        assert server.done == 2
        server.ok(V.ADD, 2, 7)
        assert adding.result(JOIN_S) == 7
        assert add(client, server, pool) == 3
        client.close("the test is over")


def test_a_connection_that_is_lost_between_calls_is_made_again(line, peer, pool):
    client, server = line
    add(client, server, pool)
    server.close()
    adding = pool.submit(client.add, "k", 1, LONG_S)
    with peer.meet(is_resumed=1).sock as sock:
        server.sock = sock
        server.ok(V.ADD, server.expect(V.ADD, b"/k", 1), 7)
        assert adding.result(JOIN_S) == 7
        client.close("the test is over")


def test_closing_ends_the_call_of_another_thread(line, pool):
    client, server = line
    getting = pool.submit(client.get, "k", LONG_S)
    server.expect(V.GET, b"/k")
    client.close("it is closed here")
    with pytest.raises(ConnectionLostError, match="it is closed here"):
        getting.result(JOIN_S)
    with pytest.raises(ConnectionLostError, match="it is closed here"):
        client.set("k", "v", LONG_S)
    server.expect_end()


@pytest.mark.parametrize("raises", [True, False])
def test_a_signal_is_handled_amid_a_call(line, pool, raises):
    client, server = line
    handled = threading.Event()

    def handle(*_):
        handled.set()
        if raises:
            raise InterruptionError

    def play():
        number = server.expect(V.GET, b"/k")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
        if raises:
            server.expect(V.CANCEL, number)
        else:
            handled.wait(JOIN_S)
        server.ok(V.GET, number, b"v")

    before = signal.signal(signal.SIGALRM, handle)
    try:
        playing = pool.submit(play)
        if raises:
            with pytest.raises(InterruptionError):
                client.get("k", LONG_S)
        else:
            assert client.get("k", LONG_S) == b"v"
        playing.result(JOIN_S)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert add(client, server, pool) == 2


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_is_told(line, pool):
    client, server = line
    add(client, server, pool)
    child = os.fork()
    if child == 0:
        try:
            client.get("k", LONG_S)
        except ForkedStoreError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert add(client, server, pool) == 2


def test_a_client_that_nobody_has_is_collected(parts):
    if IS_BUILT:
        client = SessionClient(parts[0].trunk)
        open_lane(client, twin.native())
        gone = weakref.ref(client)
        client.trunk.land = int
        del client
        gc.collect()
        assert gone() is None
