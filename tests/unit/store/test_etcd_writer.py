"""Writes count once, wherever a connection is cut: before etcd has them, or after, when only the answer is lost."""

from __future__ import annotations

import itertools

import pytest
from tests.support.cutting_proxy import CuttingProxy

from rallypoint.clock import Deadline
from rallypoint.store import etcd_wire as wire
from rallypoint.store.etcd import EtcdStore
from rallypoint.store.etcd_cluster import Refused

LONG_S = 60.0


@pytest.fixture
def cut_store(etcd, etcd_url):
    """Give a function that makes a store whose connections are cut when told, and the store's proxy."""
    made = []

    def make(cuts=lambda number: (None, None)):
        proxy = CuttingProxy(etcd.members[0].endpoint.port, cuts)
        prefix = etcd_url.rpartition("/")[2]
        store = EtcdStore(f"etcd://127.0.0.1:{proxy.port}/{prefix}", timeout=LONG_S)
        made.append((store, proxy))
        return store, proxy

    yield make
    for store, proxy in made:
        store.close()
        proxy.__exit__(None, None, None)


def lose_answers(store, monkeypatch, every=2):
    """Let etcd do a write, and lose what it says of it, each ``every``-th time."""
    cluster = store._cluster
    calls = itertools.count(1)
    original = cluster._call

    def call(link, method, message, deadline, **options):
        answer = original(link, method, message, deadline, **options)
        if method == "KV/Txn" and next(calls) % every == 0:
            from rallypoint.errors import ConnectionLostError

            raise ConnectionLostError("lost for the test's sake")
        return answer

    monkeypatch.setattr(cluster, "_call", call)


@pytest.mark.parametrize("every", [2, 3])
def test_adds_whose_answers_are_lost_count_once(etcd_stores, monkeypatch, every):
    store = etcd_stores()
    store.set("n", "0")
    lose_answers(store, monkeypatch, every)
    assert [store.add("n", 1) for _ in range(12)] == list(range(1, 13))


def test_every_verb_is_told_what_its_lost_answer_said(etcd_stores, monkeypatch):
    store = etcd_stores()
    store.multi_set(["a", "b/1", "b/2"], ["1", "1", "1"])
    lose_answers(store, monkeypatch)
    for _ in range(2):  # each verb on either side of a loss
        assert store.delete_key("a")
        assert not store.delete_key("a")
        assert store.compare_set("a", "", "1") == b"1"
        is_done, revision = store.swap("a", store.read("a").revision, "1")
        assert is_done
        assert revision == store.read("a").revision
        assert store.delete_prefix("b/") == 2
        store.multi_set(["b/1", "b/2"], ["1", "1"])
        store.queue_push("q", "x")
        assert store.queue_len("q") == 1
        assert store.queue_pop("q") == b"x"
        store.append("log", "z")
        store.set("odd", "")  # so that the next round begins on the other side
    assert store.get("log") == b"zz"


def test_a_write_that_is_not_to_be_done_is_not_done_later(etcd_stores, monkeypatch):
    store = etcd_stores()
    store.set("k", "v")
    lose_answers(store, monkeypatch, every=1_000_000)
    deadline = Deadline(LONG_S)
    writers = store._writers
    writer = writers._free[-1]
    before = writer.number
    assert writers._done_before(writer, True, deadline) is None
    assert writer.number == before + 2
    assert store.swap("k", 1, "w")[0] is False


def test_cuts_anywhere_lose_nothing_and_count_nothing_twice(cut_store):
    bounds = itertools.cycle([(700, None), (None, 300), (1500, None), (None, 900)])
    store, proxy = cut_store(lambda number: next(bounds))
    for number in range(1, 61):
        assert store.add("n", 1) == number
        store.set(f"k{number}", "v")
    assert store.num_keys() == 61
    assert proxy.connections > 5


def test_marks_whose_lease_has_ended_are_made_anew(etcd_stores):
    store = etcd_stores()
    store.set("k", "1")
    store.lease_revoke(store._leases.marks(0, Deadline(LONG_S)))
    store.set("k", "2")
    assert store.get("k") == b"2"


def test_a_refused_write_leaves_its_writer_usable(etcd_stores):
    store = etcd_stores()
    store.set("k", "1")
    with pytest.raises(Refused):
        store._writers.write(
            [], [wire.op_put(wire.put(b"x", b"", lease=12345))], deadline=Deadline(LONG_S), has_lease=True
        )
    store.set("k", "2")
    assert store.get("k") == b"2"


def test_names_are_given_once(etcd_stores):
    store, other = etcd_stores(), etcd_stores()
    names = [one._writers.unique() for one in (store, other) for _ in range(3)]
    assert len(set(names)) == 6
    assert store._writers.session != other._writers.session
