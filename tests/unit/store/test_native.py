"""Both twins of the client against servers that say anything: one outcome, word for word."""

from __future__ import annotations

import contextlib
import gc
import socket
import struct
import sys
import threading
import tracemalloc
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.client_twins import CLIENTS
from tests.support.scripted_peer import ScriptedPeer, scripted_peer

from rallypoint import twin
from rallypoint.errors import DistError, LocalProtocolError, RemoteProtocolError
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import LISTED_COUNT_MAX, REPLY_SIZE_MAX, Verb
from rallypoint.store import native
from rallypoint.store.native import Helper, make_client
from rallypoint.types import Endpoint

JOIN_S = 60
LONG_S = 60.0
MANY = 4000


def u64(number):
    return struct.pack("<Q", number)


def i64(number):
    return struct.pack("<q", number)


peer = scripted_peer


@pytest.fixture
def make(peer, pool, monkeypatch):
    """Make a client of one twin, and the server's end of its connection."""
    made = []

    def build(name):
        module = twin.native() if name == "native" else None
        monkeypatch.setattr(native, "twin", SimpleNamespace(native=lambda: module))
        connecting = pool.submit(make_client, Endpoint("127.0.0.1", peer.port), LONG_S)
        server = peer.accept()
        made.append(connecting.result(JOIN_S))
        return made[-1], server

    yield build
    for client in made:
        client.close("the test is over")


LOOK = encode_request(Verb.CHECK, [b"/k"]) + encode_request(Verb.GET, b"/k")
LOOK_2 = encode_request(Verb.CHECK, [b"/a", b"/b"]) + encode_request(Verb.MULTI_GET, [b"/a", b"/b"])
CHECK = encode_request(Verb.CHECK, [b"/k"])
WAIT = encode_request(Verb.WAIT, [b"/k"])
POP = encode_request(Verb.QUEUE_POP, b"/q")
POP_AGAIN = POP + encode_request(Verb.CHECK, [b"/q"]) + encode_request(Verb.QUEUE_LEN, b"/q")

OUTCOMES = [
    # the call and its arguments; what is sent and what is answered, in turn; the result, or the error's words
    ("get", ("k",), [(LOOK, b"\0" + u64(1) + b"v")], b"v"),
    ("get", ("k",), [(LOOK, b"\0" + u64(0))], b""),
    ("get", ("k",), [(LOOK, b"\1" + u64(1) + b"v")], b"v"),
    ("get", ("k",), [(LOOK, b"\1" + u64(0)), (WAIT, b"\0"), (LOOK, b"\0" + u64(0))], b""),
    ("get", ("k",), [(LOOK, b"\0" + u64(100_000) + bytes(100_000))], bytes(100_000)),
    ("get", ("k",), [(LOOK, b"\2")], r"CHECK was answered b'\\x02', not 00 or 01"),
    ("get", ("k",), [(LOOK, b"\0" + u64(REPLY_SIZE_MAX + 1))], "claims a value of 1073741825 bytes"),
    ("get", ("k",), [(LOOK, b"\0" + u64((1 << 64) - 1))], "claims a value of 18446744073709551615 bytes"),
    ("get", ("k",), [(LOOK, b"\1" + u64(0)), (WAIT, b"\7")], r"the wait was answered b'\\x07', not 00"),
    ("get", ("k",), [(LOOK, b"\0" + u64(5) + b"par"), None], "Connection was likely closed"),
    ("get", ("k",), [(LOOK, b""), None], "Connection was likely closed"),
    ("multi_get", (["a", "b"],), [(LOOK_2, b"\0" + u64(1) + b"1" + u64(0))], [b"1", b""]),
    ("multi_get", (("a", "b"),), [(LOOK_2, b"\1" + u64(1) + b"1" + u64(1) + b"2")], [b"1", b"2"]),
    ("multi_get", (iter("ab"),), [(LOOK_2, b"\0" + (u64(70_000) + bytes(70_000)) * 2)], [bytes(70_000)] * 2),
    ("multi_get", (["a", "b"],), [(LOOK_2, b"\0" + u64(1) + b"1" + u64(1 << 63))], "claims a value of 92233720368547"),
    ("multi_get", (["a", "b"],), [(LOOK_2, b"\3")], r"CHECK was answered b'\\x03'"),
    ("check", (["k"],), [(CHECK, b"\0")], True),
    ("check", ([b"k"],), [(CHECK, b"\1")], False),
    ("check", (["k"],), [(CHECK, b"\xff")], r"CHECK was answered b'\\xff'"),
    ("check", ([],), [], True),
    ("wait", (["k"],), [(CHECK, b"\0")], None),
    ("wait", (["k"],), [(CHECK, b"\1"), (WAIT, b"\0")], None),
    ("wait", (["k"],), [(CHECK, b"\2")], r"CHECK was answered b'\\x02'"),
    ("wait", (["k"],), [(CHECK, b"\1"), (WAIT, b"\2")], r"the wait was answered b'\\x02', not 00"),
    ("add", ("n", -1), [(encode_request(Verb.ADD, b"/n", -1), i64(-5))], -5),
    ("add", ("n", True), [(encode_request(Verb.ADD, b"/n", 1), i64(1 << 62))], 1 << 62),
    ("count_workers", (1,), [(encode_request(Verb.ADD, b"init/", 1), i64(1))], 1),
    ("compare_set", ("k", "a", b"b"), [(encode_request(Verb.COMPARE_SET, b"/k", b"a", b"b"), u64(1) + b"b")], b"b"),
    (
        "compare_set",
        ("k", "", bytearray()),
        [(encode_request(Verb.COMPARE_SET, b"/k", b"", b""), u64(1 << 40))],
        "claims a value of 1099511627776 bytes",
    ),
    ("delete_key", ("k",), [(encode_request(Verb.DELETE_KEY, b"/k"), i64(2))], "keys deleted is 2, it must be from 0"),
    ("num_keys", (), [(encode_request(Verb.GETNUMKEYS), i64(-1))], "the number of keys is -1"),
    ("num_keys", (), [(encode_request(Verb.GETNUMKEYS), i64(7))], 7),
    ("list_keys", (), [(encode_request(Verb.LIST_KEYS), i64(2) + u64(2) + b"/a" + u64(0))], [b"/a", b""]),
    ("list_keys", (), [(encode_request(Verb.LIST_KEYS), i64(-1))], "claims to list -1 keys"),
    ("list_keys", (), [(encode_request(Verb.LIST_KEYS), i64(LISTED_COUNT_MAX + 1))], "claims to list 268435457 keys"),
    ("list_keys", (), [(encode_request(Verb.LIST_KEYS), i64(1) + u64(8193))], "claims a key of 8193 bytes"),
    ("queue_len", ("q",), [(encode_request(Verb.QUEUE_LEN, b"/q"), i64(-3))], "the length of the queue is -3"),
    ("queue_pop", ("q", False), [(POP, i64(1) + u64(1) + b"i")], b"i"),
    ("queue_pop", ("q", False), [(POP, i64(0))], "^queue is empty$"),
    ("queue_pop", ("q", True), [(POP, i64(-9))], "the length of the queue is -9"),
    (
        "queue_pop",
        ("q", True),
        [(POP, i64(0)), (encode_request(Verb.WAIT, [b"/q"]), b"\0"), (POP_AGAIN, i64(0) + b"\0" + i64(0))],
        "cannot be waited for: b'/q' is a key too",
    ),
    ("barrier", ("b", 2), [(encode_request(Verb.BARRIER, b"/b", 2), b"\0")], None),
    ("barrier", ("b", 2), [(encode_request(Verb.BARRIER, b"/b", 2), b"\1")], r"the wait was answered b'\\x01', not 00"),
    ("set", ("k", "v"), [(encode_request(Verb.SET, b"/k", b"v"), b"")], None),
    ("append", (b"k", b""), [(encode_request(Verb.APPEND, b"/k", b""), b"")], None),
    ("queue_push", ("q", "i"), [(encode_request(Verb.QUEUE_PUSH, b"/q", b"i"), b"")], None),
    ("multi_set", (["a"], [b"1"]), [(encode_request(Verb.MULTI_SET, [(b"/a", b"1")]), b"")], None),
]


@pytest.mark.parametrize("name", CLIENTS)
@pytest.mark.parametrize("cut", [None, 1])
@pytest.mark.parametrize(("call", "arguments", "turns", "outcome"), OUTCOMES)
def test_one_call_has_one_course_and_one_outcome(make, pool, name, cut, call, arguments, turns, outcome):
    client, server = make(name)
    arguments = tuple(iter("ab") if type(given).__name__ == "str_ascii_iterator" else given for given in arguments)
    calling = pool.submit(getattr(client, call), *arguments, LONG_S)
    for turn in turns:
        if turn is None:
            server.close()
            break
        sent, answer = turn
        heard = b""
        while len(heard) < len(sent):
            heard += server.sock.recv(len(sent) - len(heard))
        assert heard == sent
        step = cut if cut and len(answer) < 1000 else max(1, len(answer))
        for start in range(0, len(answer), step):
            server.reply(answer[start : start + step])
    if not isinstance(outcome, str):
        assert calling.result(JOIN_S) == outcome
        return
    with pytest.raises(DistError, match=outcome) as caught:
        calling.result(JOIN_S)
    if isinstance(caught.value, RemoteProtocolError):
        server.expect_end()


class Babbler:
    """A server that answers the first segment of each connection with the same bytes, whatever it was, and no more."""

    def __init__(self):
        self.words = b""
        self.peer = ScriptedPeer()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while True:
            conversation = self.peer.accept(shakes_hands=False)
            if not conversation.sock.recv(1, socket.MSG_PEEK):
                return
            conversation.shake_hands()
            with contextlib.suppress(OSError):
                conversation.sock.recv(1 << 16)
                conversation.reply(self.words)
                conversation.sock.shutdown(socket.SHUT_WR)
                while conversation.sock.recv(1 << 16):
                    pass
            conversation.close()

    def stop(self):
        socket.create_connection(("127.0.0.1", self.peer.port)).close()
        self.thread.join(JOIN_S)
        self.peer.__exit__(None, None, None)


@pytest.fixture(scope="module")
def babbler():
    server = Babbler()
    yield server
    server.stop()


def outcome_of(name, port, call, arguments):
    """Make one call of a new client; give what became of it."""
    module = twin.native() if name == "native" else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "twin", SimpleNamespace(native=lambda: module))
        client = make_client(Endpoint("127.0.0.1", port), LONG_S)
    try:
        return getattr(client, call)(*arguments, LONG_S)
    except DistError as error:
        return type(error), str(error)
    finally:
        client.close("the test is over")


WORDS = [b"\0", b"\1", b"\2", u64(0), u64(1), u64(2), i64(-1), u64(1 << 40), b"v", b"wxyz", bytes(7), bytes(20_000)]
CALLS = [
    ("get", ("k",)),
    ("multi_get", (["a", "b"],)),
    ("check", (["k"],)),
    ("wait", (["k"],)),
    ("add", ("n", 1)),
    ("compare_set", ("k", "a", "b")),
    ("delete_key", ("k",)),
    ("num_keys", ()),
    ("list_keys", ()),
    ("queue_len", ("q",)),
    ("queue_pop", ("q", False)),
    ("queue_pop", ("q", True)),
    ("barrier", ("b", 2)),
]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(call=st.sampled_from(CALLS), words=st.lists(st.sampled_from(WORDS), max_size=6).map(b"".join))
def test_whatever_a_server_says_both_twins_take_it_alike(babbler, call, words):
    babbler.words = words
    outcomes = [outcome_of(name, babbler.peer.port, *call) for name in CLIENTS]
    assert outcomes.count(outcomes[0]) == len(outcomes)


REFUSED = [
    ("get", ("k" * 8192,)),
    ("get", ("\ud800",)),
    ("set", ("k", bytes((8 << 20) + 1))),
    ("set", ("k" * 100, 1)),
    ("set", (None, "v")),
    ("add", ("n", 1 << 63)),
    ("add", ("n", -(1 << 63) - 1)),
    ("add", ("n", 1.5)),
    ("barrier", ("b", 1 << 70)),
    ("compare_set", ("k", 1, "v")),
    ("check", ("k",)),
    ("check", (["k"] * 131_073,)),
    ("check", (["k", 5],)),
    ("check", (5,)),
    ("multi_get", (["k", "l" * 9000],)),
    ("multi_get", (["k"] * 131_073,)),
    ("multi_set", (["a", "b"], ["1"])),
    ("multi_set", (["a"] * 40, [bytes(7 << 20)] * 40)),
    ("wait", (b"k",)),
]


@pytest.mark.parametrize(("call", "arguments"), REFUSED)
def test_what_cannot_be_asked_is_refused_in_the_same_words_and_costs_nothing(make, pool, call, arguments):
    said = set()
    for name in CLIENTS:
        client, server = make(name)
        with pytest.raises((TypeError, ValueError, DistError)) as caught:
            getattr(client, call)(*arguments, LONG_S)
        said.add((type(caught.value), str(caught.value)))
        adding = pool.submit(client.add, "n", 1, LONG_S)
        server.expect((Verb.ADD, b"/n", 1))
        server.reply(i64(1))
        assert adding.result(JOIN_S) == 1
    assert len(said) == 1


def test_a_request_that_is_too_large_as_a_whole_is_refused_by_size(make):
    for name in CLIENTS:
        client, _ = make(name)
        with pytest.raises(LocalProtocolError, match="the limit for one request is 268435456"):
            client.multi_set([f"k{number}" for number in range(40)], [bytes(7 << 20)] * 40, LONG_S)


def test_the_helper_makes_the_errors_that_the_python_twin_raises():
    helper = Helper(Endpoint("node0", 29500), lambda endpoint, timeout_s: None)
    assert str(helper.silent("did not answer", 1.5)) == "the server at node0:29500 did not answer within 1.500 s"
    assert str(helper.broken(104)) == "Connection reset by peer: the connection to node0:29500 is lost"
    cause = helper.lost()
    assert helper.ended("over", cause).__cause__ is cause


@pytest.mark.parametrize("name", CLIENTS)
def test_calls_and_errors_without_number_keep_no_memory(make, pool, name):
    client, server = make(name)
    keys = [f"key{number}" for number in range(2)]  # made here: a literal is shared with all of the process

    def serve(turns):
        for _ in range(turns):
            server.expect((Verb.CHECK, [b"/key0", b"/key1"]))
            server.reply(b"\0")

    def call(turns):
        serving = pool.submit(serve, turns)
        for _ in range(turns):
            assert client.check(keys, LONG_S)
            with pytest.raises(TypeError):
                client.get(1, LONG_S)
        serving.result(JOIN_S)

    call(100)
    references = [sys.getrefcount(thing) for thing in (keys, keys[0], client)]
    tracemalloc.start()
    kept = []
    for _ in range(2):  # what the interpreter keeps for itself is there after the first
        call(MANY)
        gc.collect()
        kept.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert [sys.getrefcount(thing) for thing in (keys, keys[0], client)] == references
    assert kept[1] - kept[0] < 20 * MANY
