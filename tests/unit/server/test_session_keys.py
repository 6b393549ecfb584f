from __future__ import annotations

import pytest
from tests.support.engine_sessions import Bench
from tests.support.twins import over_each_twin

from rallypoint.protocol.session.spec import DELETED_KEYS_MAX, SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.keyspace import NUMBER_SIZE_MAX

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


def test_prefixes_are_found_while_keys_come_and_go(bench) -> None:
    client = bench.client()
    assert client.ask(V.LIST_PREFIX, b"/") == (OK, [])
    keys = [b"/%d/%d" % (number % 7, number) for number in range(3000)]
    for start in range(0, 3000, 500):
        client.ask(V.MULTI_SET, [(key, b"") for key in keys[start : start + 500]])
        assert client.ask(V.LIST_PREFIX, b"/3/") == (
            OK,
            sorted(key for key in keys[: start + 500] if key.startswith(b"/3/")),
        )
    for key in keys[::2]:
        client.ask(V.DELETE_KEY, key)
    left = sorted(keys[1::2])
    for prefix in (b"", b"/", b"/3/", b"/3/1", b"/7", b"/6/9", b"/8", b"\xff"):
        assert client.ask(V.LIST_PREFIX, prefix) == (OK, [key for key in left if key.startswith(prefix)])
    assert client.ask(V.DELETE_PREFIX, b"/3/") == (OK, sum(key.startswith(b"/3/") for key in left))
    assert client.ask(V.LIST_PREFIX, b"/3/") == (OK, [])
    client.ask(V.SET, b"/3/", b"")
    client.ask(V.SET, b"/3", b"")
    assert client.ask(V.LIST_PREFIX, b"/3") == (OK, [b"/3", b"/3/"])


def test_one_reply_gives_so_many_keys_with_a_prefix_and_no_more() -> None:
    client = Bench(prefix_keys_max=3).client()
    client.ask(V.MULTI_SET, [(b"/%d" % number, b"") for number in range(3)])
    assert len(client.ask(V.LIST_PREFIX, b"/")[1]) == 3
    client.ask(V.SET, b"/3", b"")
    for verb in (V.LIST_PREFIX, V.READ_PREFIX):
        status, reason, sentence = client.ask(verb, b"/")
        assert (status, reason) == (REFUSED, CloseReason.REPLY_TOO_LARGE.value.encode())
        assert sentence == b"more than 3 keys begin so, which is the limit of one reply"
        assert len(client.ask(verb, b"/3")[1]) == 1
    assert client.ask(V.DELETE_PREFIX, b"/") == (OK, 4)


def test_one_request_deletes_so_many_keys_the_first_ones(bench) -> None:
    client = bench.client()
    keys = [b"/%05d" % number for number in range(DELETED_KEYS_MAX + 5)]
    client.ask(V.MULTI_SET, [(key, b"") for key in keys])
    assert client.ask(V.DELETE_PREFIX, b"/") == (OK, DELETED_KEYS_MAX)
    assert client.ask(V.LIST_PREFIX, b"/") == (OK, keys[DELETED_KEYS_MAX:])
    assert client.ask(V.DELETE_PREFIX, b"/") == (OK, 5)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"1" + b"x" * 1000, 2),
        (b" " * (NUMBER_SIZE_MAX - 1) + b"7", 8),
        (b"0" * (NUMBER_SIZE_MAX - 1) + b"7", 8),
        (b"0" * NUMBER_SIZE_MAX + b"7", 1),
        (b" " * NUMBER_SIZE_MAX + b"7", None),
        (b"1" * 8000, None),
    ],
)
def test_a_number_is_looked_for_at_the_beginning_of_a_value(bench, text, number) -> None:
    client = bench.client()
    client.ask(V.SET, b"/n", text)
    status, *reply = client.ask(V.ADD, b"/n", 1)
    if number is None:
        assert (status, reply[0]) == (REFUSED, CloseReason.NOT_A_NUMBER.value.encode())
    else:
        assert (status, *reply) == (OK, number)
