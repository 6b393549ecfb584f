from __future__ import annotations

import pytest
from tests.support.stores import first_store, make_session_store

from rallypoint.errors import (
    AccessDeniedError,
    DistNetworkError,
    LocalProtocolError,
    NotANumberError,
    RefusedError,
)
from rallypoint.gateway.storeverbs import StoreVerbs, refusal_of, store_key, wire_key
from rallypoint.protocol.session.spec import SESSION_VERBS, SessionVerb, Status
from rallypoint.protocol.spec import NOT_READY, READY
from rallypoint.store.file import FileStore
from rallypoint.store.hash import HashStore
from rallypoint.store.prefix import PrefixStore

make, session_store = make_session_store, first_store

V = SessionVerb
OK = Status.OK


@pytest.fixture(params=["hash", "file", "prefixed file", "sessions"])
def store(request, tmp_path):
    if request.param == "sessions":
        return request.getfixturevalue("session_store")
    if request.param == "hash":
        return HashStore()
    below = FileStore(str(tmp_path / "store"))
    return below if request.param == "file" else PrefixStore("below", below)


@pytest.fixture
def ask(store):
    verbs = StoreVerbs(store)
    return lambda verb, *fields: verbs.perform(verb, fields)


def test_keys_and_values(ask, store):
    assert ask(V.SET, b"/k", b"v")[0] is OK
    assert ask(V.READ, b"/k") == (OK, (1, b"v"))
    assert ask(V.READ, b"/nothing") == (OK, (0, b""))
    assert ask(V.APPEND, b"/k", b"w")[0] is OK
    assert store.get("k") == b"vw"
    assert ask(V.DELETE_KEY, b"/k") == (OK, (1,))
    assert ask(V.DELETE_KEY, b"/k") == (OK, (0,))


def test_numbers_and_swaps(ask):
    assert ask(V.ADD, b"/n", 5) == (OK, (5,))
    assert ask(V.ADD, b"/n", -7) == (OK, (-2,))
    assert ask(V.COMPARE_SET, b"/c", b"", b"new") == (OK, (b"new",))
    assert ask(V.COMPARE_SET, b"/c", b"other", b"newer") == (OK, (b"new",))


def test_several_at_once(ask):
    ask(V.MULTI_SET, [(b"/a", b"1"), (b"/b", b"2")])
    assert ask(V.MULTI_GET, [b"/b", b"/nothing", b"/a"]) == (OK, ([b"2", b"", b"1"],))
    assert ask(V.MULTI_GET, []) == (OK, ([],))
    assert ask(V.MULTI_SET, []) == (OK, (0,))
    assert ask(V.CHECK, [b"/a", b"/b"]) == (OK, (0,))
    assert ask(V.CHECK, [b"/a", b"/nothing"]) == (OK, (1,))
    assert ask(V.CHECK, []) == (OK, (0,))
    assert ask(V.PING, 7) == (OK, (7,))


def test_keys_are_listed(ask, store):
    ask(V.MULTI_SET, [(b"/s/a", b"1"), (b"/s/b", b"2"), (b"/sa", b"3")])
    if not isinstance(store, PrefixStore) or not isinstance(store.underlying_store, FileStore):
        assert ask(V.GETNUMKEYS)[1][0] >= 3
    assert sorted(ask(V.LIST_PREFIX, b"/s/")[1][0]) == [b"/s/a", b"/s/b"]
    assert {b"/s/a", b"/s/b", b"/sa"} <= set(ask(V.LIST_KEYS)[1][0])


def test_a_check_and_a_read_at_once(store):
    verbs = StoreVerbs(store)
    assert verbs.check_and_read(b"/k") == (NOT_READY, None)
    store.set("k", "")
    assert verbs.check_and_read(b"/k") == (READY, b"")


@pytest.mark.parametrize("store", ["hash", "sessions"], indirect=True)
def test_a_queue_is_ready_and_has_no_value(store):
    store.queue_push("q", "item")
    assert StoreVerbs(store).check_and_read(b"/q") == (READY, None)


def test_a_barriers_arrivals_are_counted(store):
    verbs = StoreVerbs(store)
    assert [verbs.count_at(b"/b"), verbs.arrive(b"/b"), verbs.arrive(b"/b"), verbs.count_at(b"/b")] == [0, 1, 2, 2]
    store.set("b", "no number")
    assert verbs.count_at(b"/b") == 0


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_missing_name_is_found_wherever_it_is(store, count):
    verbs, names = StoreVerbs(store), [b"/%d" % number for number in range(count)]
    for absent in names:
        for name in names:
            store.set(store_key(name), b"")
        store.delete_key(store_key(absent))
        assert verbs.first_missing(names) == absent
    store.set(store_key(names[-1]), b"")
    assert verbs.first_missing(names) is None
    assert verbs.first_missing([]) is None


def test_a_search_goes_on_where_it_ended_and_finds_what_was_removed_before():
    store, names = HashStore(), [b"/%d" % number for number in range(1000)]
    verbs, asked, check = StoreVerbs(store), [], store.check

    def counting(keys):
        asked.append(len(keys))
        return check(keys)

    store.check = counting
    witness = verbs.first_missing(names)
    assert witness == names[0]
    asked.clear()
    for number, name in enumerate(names[:-1]):
        store.set(store_key(name), b"")
        witness = verbs.first_missing(names, witness)
        assert witness == names[number + 1]
    assert sum(asked) < 5 * len(names)
    store.delete_key("7")
    store.set("999", b"")
    assert verbs.first_missing(names, witness) == b"/7"
    store.set("7", b"")
    assert verbs.first_missing(names, b"/7") is None


@pytest.mark.parametrize("store", ["hash", "sessions"], indirect=True)
def test_queues(ask, store):
    ask(V.QUEUE_PUSH, b"/q", b"one")
    assert ask(V.QUEUE_LEN, b"/q") == (OK, (1,))
    assert StoreVerbs(store).items(b"/q") == 1
    assert ask(V.READ, b"/q") == (OK, (0, b""))  # a queue is no key
    assert ask(V.QUEUE_POP, b"/q") == (OK, (b"one",))
    assert ask(V.QUEUE_POP, b"/q") == (Status.EXPIRED, ([b"/q"],))


@pytest.mark.parametrize("store", ["file"], indirect=True)
def test_a_store_without_queues_says_so(ask, store):
    assert StoreVerbs(store).items(b"/q") == 0
    with pytest.raises(NotImplementedError) as caught:
        ask(V.QUEUE_PUSH, b"/q", b"one")
    assert refusal_of(caught.value) == (b"unknown_verb", b"queue support is not implemented.")


def test_every_verb_of_c10d_is_there():
    verbs = StoreVerbs(HashStore())
    left = {V.GET, V.WAIT, V.BARRIER}  # asked as READ; the lookout's
    assert {verb for verb in SESSION_VERBS if verb <= V.BARRIER} - left <= set(verbs._verbs)


@pytest.mark.parametrize("wire", [b"/k", b"/", b"/\xff\xfe", "/ключ".encode(), b"/\0init/"])
def test_a_key_goes_there_and_back(wire):
    assert wire_key(store_key(wire)) == wire


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotANumberError("no number", key="k"), b"not_a_number"),
        (RefusedError("full", reason="store_full"), b"store_full"),
        (AccessDeniedError("no"), b"forbidden"),
        (LocalProtocolError("too long"), b"request_too_large"),
    ],
)
def test_a_no_has_its_reason(error, reason):
    assert refusal_of(error) == (reason, str(error).encode())


def test_a_loss_is_no_refusal():
    assert refusal_of(DistNetworkError("gone")) is None
