from __future__ import annotations

import pytest
from tests.support.engine_sessions import Bench
from tests.support.twins import over_each_twin

from rallypoint.protocol.session.spec import SessionVerb, Status
from rallypoint.protocol.spec import CloseReason

pytestmark = over_each_twin

V = SessionVerb
OK, REFUSED = Status.OK, Status.REFUSED


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_every_verb_says_what_is_so_afterwards(bench) -> None:
    client = bench.client()
    for verb, fields, reply in [
        (V.SET, (b"/k", b"v"), (1,)),
        (V.COMPARE_SET, (b"/k", b"v", b"w"), (b"w",)),
        (V.COMPARE_SET, (b"/k", b"x", b"y"), (b"w",)),
        (V.ADD, (b"/n", 5), (5,)),
        (V.CHECK, ([b"/k", b"/n"],), (0,)),
        (V.CHECK, ([b"/k", b"/none"],), (1,)),
        (V.GETNUMKEYS, (), (2,)),
        (V.APPEND, (b"/k", b"x"), (4,)),
        (V.APPEND, (b"/new", b"x"), (5,)),
        (V.MULTI_SET, ([(b"/m", b"1"), (b"/m2", b"2")],), (7,)),
        (V.DELETE_KEY, (b"/m",), (1,)),
        (V.DELETE_KEY, (b"/m",), (0,)),
        (V.PING, (7,), (7,)),
        (V.QUEUE_PUSH, (b"/q", b"1"), (1,)),
        (V.QUEUE_PUSH, (b"/q", b"2"), (2,)),
        (V.QUEUE_LEN, (b"/q",), (2,)),
        (V.LIST_KEYS, (), ([b"/k", b"/n", b"/new", b"/m2"],)),
        (V.READ, (b"/k",), (4, b"wx")),
        (V.READ, (b"/none",), (0, b"")),
        (V.SWAP, (b"/k", 4, b"s", 0), (1, 9)),
        (V.SWAP, (b"/k", 4, b"t", 0), (0, 9)),
        (V.SWAP, (b"/none", 4, b"t", 0), (0, 0)),
        (V.SWAP, (b"/s", 0, b"t", 0), (1, 10)),
        (V.SWAP, (b"/s", -1, b"u", 0), (1, 11)),
        (V.READ_PREFIX, (b"/n",), ([(b"/n", 3, b"5"), (b"/new", 5, b"x")],)),
        (V.READ_PREFIX, (b"/none",), ([],)),
        (V.LIST_PREFIX, (b"/n",), ([b"/n", b"/new"],)),
        (V.DELETE_PREFIX, (b"/n",), (2,)),
        (V.LIST_PREFIX, (b"",), ([b"/k", b"/m2", b"/s"],)),
    ]:
        assert client.ask(verb, *fields) == (OK, *reply), (verb, fields)


def test_large_values_come_whole(bench) -> None:
    client = bench.client()
    large = bytes(range(256)) * 100
    client.ask(V.SET, b"/a", large)
    client.ask(V.SET, b"/b", b"small")
    assert client.ask(V.READ, b"/a") == (OK, 1, large)
    assert client.ask(V.READ_PREFIX, b"/") == (OK, [(b"/a", 1, large), (b"/b", 2, b"small")])
    assert client.ask(V.COMPARE_SET, b"/a", b"", b"") == (OK, large)


@pytest.mark.parametrize(
    ("verb", "fields", "reason"),
    [
        (V.ADD, (b"/text", 1), CloseReason.NOT_A_NUMBER),
        (V.SET, (b"/large", bytes(900)), CloseReason.STORE_FULL),
        (V.SWAP, (b"/large", -1, bytes(900), 0), CloseReason.STORE_FULL),
        (V.SWAP, (b"/text", -2, b"", 0), CloseReason.BAD_ARGUMENT),
        (V.SWAP, (b"/text", -1, b"", 5), CloseReason.NO_SUCH_LEASE),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(verb, fields, reason) -> None:
    client = Bench(stored_size_max=1000).client()
    client.ask(V.SET, b"/text", b"text")
    status, code, _ = client.ask(verb, *fields)
    assert (status, code) == (REFUSED, reason.value.encode())
    assert client.ask(V.READ_PREFIX, b"") == (OK, [(b"/text", 1, b"text")])


def test_every_creation_releases_who_waits_for_the_key(bench) -> None:
    waiting, writing = bench.client(), bench.client()
    for verb, fields in [
        (V.SET, (b"/k", b"")),
        (V.COMPARE_SET, (b"/k", b"", b"")),
        (V.ADD, (b"/k", 0)),
        (V.APPEND, (b"/k", b"")),
        (V.MULTI_SET, ([(b"/k", b"")],)),
        (V.SWAP, (b"/k", 0, b"", 0)),
    ]:
        request_id = waiting.send(V.WAIT, [b"/k"])
        assert writing.ask(verb, *fields)[0] is OK
        assert waiting.read() == [(OK, request_id, ())]
        writing.ask(V.DELETE_PREFIX, b"/k")
