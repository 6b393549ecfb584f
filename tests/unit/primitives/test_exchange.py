"""Exchanges."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from tests.support.session_store import FakeServer, PlainStore
from tests.support.stores import Recorder

from rallypoint import events
from rallypoint.errors import ConnectionLostError, StoreTimeoutError
from rallypoint.primitives.exchange import Exchange, exchange, get_all, synchronize
from rallypoint.store.hash import HashStore

LONG_S = 30.0


READ = ("multi_get", ["prefix0", "prefix1", "prefix2"])
COUNT = ("add", "prefix/finished/num_members", 1)
OPEN = ("set", "prefix/finished/last_member", "<val_ignored>")
WAIT = ("wait", ["prefix/finished/last_member"])


@pytest.mark.parametrize(
    ("rank", "arrival_number", "operations"),
    [
        (0, 3, [READ, COUNT, OPEN, WAIT]),
        (0, 1, [READ, COUNT, WAIT]),
        (1, 3, [READ, COUNT, OPEN]),
        (2, 2, [READ, COUNT]),
    ],
)
def test_get_all_does_what_torchs_does(rank, arrival_number, operations):
    store = Recorder(arrival_number)
    assert get_all(store, rank, "prefix", 3) == [b"value"] * 3
    assert store.ops == operations


def test_synchronize_does_what_torchs_does():
    store = Recorder(3)
    assert synchronize(store, b"data", 0, 3, "prefix", timeout=10) == [b"value"] * 3
    around = [("timeout",), ("set_timeout", timedelta(seconds=10)), ("set", "prefix0", b"data")]
    assert store.ops == [*around, READ, COUNT, OPEN, WAIT, ("set_timeout", timedelta(seconds=1234))]


def test_everybody_gets_everything_in_rank_order():
    store = HashStore()
    results = {}

    def give(rank):
        results[rank] = synchronize(store, f"from {rank}", rank, 4, "all/", LONG_S)

    threads = [threading.Thread(target=give, args=(rank,)) for rank in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    assert results == {rank: [b"from 0", b"from 1", b"from 2", b"from 3"] for rank in range(4)}


def test_rank_0_keeps_what_it_has_when_another_dies_after_reading():
    store = HashStore()
    store.set("p1", "theirs")
    seen = []
    events.subscribe(seen.append)
    try:
        assert synchronize(store, "mine", 0, 2, "p", timeout=0.05) == [b"mine", b"theirs"]
    finally:
        events.unsubscribe(seen.append)
    assert [event.name for event in seen] == ["exchange.unread"]
    assert "rank 0 has all 2 values of exchange 'p'" in seen[0].message


def test_a_lost_connection_is_no_courtesy():
    store = Recorder(1, ConnectionLostError("gone"))
    with pytest.raises(ConnectionLostError):
        get_all(store, 0, "prefix", 3)


def test_a_missing_value_is_named_and_the_timeout_put_back():
    store = HashStore()
    store.set_timeout(LONG_S)
    with pytest.raises(StoreTimeoutError) as caught:
        synchronize(store, "mine", 0, 2, "p", timeout=0.05)
    assert caught.value.missing == ("p1",)
    assert store.timeout == timedelta(seconds=LONG_S)


def test_the_timeout_is_put_back_on_a_foreign_store_that_fails():
    store = Recorder(1, ConnectionLostError("gone"))
    with pytest.raises(ConnectionLostError):
        synchronize(store, b"data", 0, 3, "prefix", timeout=10)
    assert store.ops[-1] == ("set_timeout", timedelta(seconds=1234))


@pytest.mark.parametrize("ranks", [(1, 1, 1, 1, 0), (0, 1, 0, 1, 0), (1, 0, 0, 0, 1, 0)])
def test_reading_again_waits_for_nobody(ranks):
    store = HashStore()
    store.multi_set(["p0", "p1"], ["a", "b"])
    store.add("p/finished/num_members", 1)  # a reader that died
    store.set_timeout(0)
    seen = []
    events.subscribe(seen.append)
    try:
        assert [get_all(store, rank, "p", 2) for rank in ranks] == [[b"a", b"b"]] * len(ranks)
    finally:
        events.unsubscribe(seen.append)
    assert seen == []  # rank 0 says so in an event when its time was up


def test_members_that_synchronize_again_and_again_wait_for_nobody_who_is_through():
    store = HashStore()
    seen = []
    events.subscribe(seen.append)
    results = []

    def work(rank):
        results.extend([synchronize(store, f"from {rank}", rank, 2, "p", LONG_S) for _ in range(5)])

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG_S)
            assert not thread.is_alive()
    finally:
        events.unsubscribe(seen.append)
    assert results == [[b"from 0", b"from 1"]] * 10
    assert seen == []


def test_values_are_given_as_the_store_gives_them():
    class Texts(Recorder):
        def multi_get(self, keys):
            return ["text"] * len(keys)

    assert get_all(Texts(2), 1, "p", 2) == ["text"] * 2


@pytest.mark.parametrize("kind", ["plain", "sessions"])
def test_an_exchange_may_be_used_again_and_never_mixes_its_generations(kind):
    store, server = PlainStore(), FakeServer()
    outcomes = {}

    def connect():
        return store if kind == "plain" else server.connect()

    def work(rank):
        with Exchange(connect(), "X", rank, 3) as member:
            outcomes[rank] = [member.give(f"{rank} {turn}", LONG_S) for turn in range(10)]
        outcomes[rank].append(exchange(connect(), "Y", rank, 3, str(rank), timeout=LONG_S))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG_S)
    turns = [[f"{rank} {turn}".encode() for rank in range(3)] for turn in range(10)]
    assert outcomes == {rank: [*turns, [b"0", b"1", b"2"]] for rank in range(3)}
