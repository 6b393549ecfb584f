"""torch's clients, unmodified, on gateways to stores of every kind."""

from __future__ import annotations

import contextlib
import json
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from tests.support.relayed import started
from tests.support.torch_peers import torch_client, torch_dist

JOIN_S = 60
MEET_S = 100.0
MEMBER = Path(__file__).parent.parent / "support" / "gloo_member.py"
SHARED = ["file", "server", "etcd"]  # by several gateways
STORES = ["hash", *SHARED]

shared = pytest.mark.parametrize("url", SHARED, indirect=True)
with_queues = pytest.mark.parametrize("url", [store for store in STORES if store != "file"], indirect=True)


@pytest.fixture(scope="module", params=STORES)
def url(request, tmp_path_factory):
    """Give the URL of a store that is empty."""
    with contextlib.ExitStack() as resources:
        if request.param == "hash":
            yield "hash://"
        elif request.param == "file":
            yield f"file://{tmp_path_factory.mktemp('store')}/store"
        elif request.param == "etcd":
            yield request.getfixturevalue("etcd").url()
        else:
            _, port = resources.enter_context(started("serve"))
            yield f"tcp://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def port(url):
    with started("gateway", "--store", url, "--key-space", "torch") as (_, port):
        yield port


@pytest.fixture
def ranks(port, request):
    """Eight clients, each with keys of its own test."""
    return [torch_dist.PrefixStore(request.node.name, torch_client(port)) for _ in range(8)]


def test_what_one_rank_writes_the_others_read(ranks):
    for value in ("value", "", "grüße", "x" * 1_000_003):
        ranks[0].set("k", value)
        ranks[0].add("written", 1)
        assert [rank.get("k") for rank in ranks] == [value.encode()] * 8


def test_a_get_waits_for_its_key(ranks, pool):
    getting = [pool.submit(rank.get, "late") for rank in ranks[1:]]
    ranks[0].set("late", "now")
    assert [each.result(JOIN_S) for each in getting] == [b"now"] * 7


def test_adds_of_all_ranks_add_up(ranks, pool):
    for _ in range(20):
        list(pool.map(lambda rank: rank.add("n", 1), ranks))
    assert ranks[0].add("n", 0) == 160
    assert ranks[0].get("n") == b"160"


def test_one_rank_wins_a_compare_set(ranks, pool):
    seen = set(pool.map(lambda entry: entry[1].compare_set("c", "", str(entry[0])), enumerate(ranks)))
    assert len(seen) == 1
    assert ranks[0].compare_set("nothing", "something", "other") == b"something"


def test_many_keys_are_read_and_written_at_once(ranks, pool):
    getting = pool.submit(ranks[1].multi_get, ["a", "b", "c"])
    ranks[0].multi_set(["a", "b", "c"], ["1", "2", "x" * 100_000])
    assert getting.result(JOIN_S) == [b"1", b"2", b"x" * 100_000]


def test_a_wait_ends_at_its_deadline_and_the_client_goes_on(ranks):
    with pytest.raises(torch_dist.DistStoreError, match="timeout"):
        ranks[0].wait(["never"], timedelta(milliseconds=100))
    ranks[0].set("after", "1")
    assert ranks[0].get("after") == b"1"


def test_a_wait_for_many_keys_ends_with_the_last(ranks, pool):
    waiting = pool.submit(ranks[0].wait, [f"{number}" for number in range(50)], timedelta(seconds=JOIN_S))
    for number in range(50):
        assert not waiting.done()
        ranks[1 + number % 7].set(f"{number}", "")
        ranks[1 + number % 7].get(f"{number}")
    waiting.result(JOIN_S)


def test_keys_are_checked_counted_listed_and_deleted(port, ranks):
    ranks[0].set("k", "v")
    assert ranks[0].check(["k"])
    assert ranks[1].check(["k"])
    assert not ranks[1].check(["k", "nothing"])
    plain = torch_client(port)
    assert plain.num_keys() == len(plain.list_keys())
    assert ranks[0].delete_key("k")
    assert not ranks[0].check(["k"])
    assert not ranks[0].delete_key("k")


def test_an_append_grows_a_value(ranks):
    ranks[0].append("log", "one ")
    ranks[0].append("log", "two")
    assert ranks[0].get("log") == b"one two"


@with_queues
def test_each_item_of_a_queue_goes_to_one_rank(url, ranks, pool):
    popping = [pool.submit(rank.queue_pop, "q") for rank in ranks[1:4]]
    for item in ("1", "2", "3"):
        ranks[0].queue_push("q", item)
    assert sorted(each.result(JOIN_S) for each in popping) == [b"1", b"2", b"3"]
    assert ranks[0].queue_len("q") == 0
    with pytest.raises(torch_dist.QueueEmptyError):
        ranks[0].queue_pop("q", False)


def test_all_ranks_pass_a_barrier(request, port, pool):
    clients = [torch_client(port) for _ in range(8)]
    passing = [pool.submit(client.barrier, request.node.name, 8) for client in clients[:7]]
    assert not any(each.done() for each in passing)
    clients[7].barrier(request.node.name, 8)
    for each in passing:
        each.result(JOIN_S)


def test_a_value_that_is_no_number_ends_the_client_that_adds_to_it(ranks):
    ranks[0].set("k", "no number")
    with pytest.raises(torch_dist.DistNetworkError):
        ranks[0].add("k", 1)
    assert ranks[1].add("n", 1) == 1


@shared
def test_two_key_spaces_of_one_store_do_not_see_each_other(url, port):
    with started("gateway", "--store", url, "--key-space", "torch/inside") as (_, other_port):
        first, second = torch_client(port), torch_client(other_port)
        first.set("mine", "1")
        assert first.get("mine") == b"1"
        assert not second.check(["mine"])
        second.set("yours", "2")
        assert second.list_keys() == ["yours"]
        assert first.get("inside/yours") == b"2"


@shared
def test_ranks_behind_two_gateways_are_of_one_store(url, port, pool):
    with started("gateway", "--store", url, "--key-space", "torch") as (_, other_port):
        clients = [torch_client(port) for _ in range(4)] + [torch_client(other_port) for _ in range(4)]
        getting = [pool.submit(client.get, "shared") for client in clients[:7]]
        clients[7].set("shared", "by the last")
        assert [each.result(JOIN_S) for each in getting] == [b"by the last"] * 7
        passing = [pool.submit(client.barrier, "both", 8) for client in clients]
        for each in passing:
            each.result(JOIN_S)


@shared
def test_a_gloo_group_of_four_meets_behind_two_gateways(url, port, torch_forks):
    with started("gateway", "--store", url, "--key-space", "torch") as (_, other_port):
        members = [("env", rank, 4, other_port if rank % 2 else port) for rank in range(4)]
        ends = torch_forks.run(MEMBER, members, MEET_S)
    assert [end.code for end in ends] == [0] * 4, [end.errors for end in ends]
    assert [json.loads(end.output)["total"] for end in ends] == [10.0] * 4


@shared
def test_a_restarted_job_cannot_read_the_round_before(url):
    for number in range(3):
        with started("gateway", "--store", url, "--key-space", f"rounds/{number}") as (_, round_port):
            store = torch_dist.TCPStore("127.0.0.1", round_port, 1, is_master=False, timeout=timedelta(seconds=JOIN_S))
            assert not store.check(["left behind"])
            store.set("left behind", "by a round")
            assert store.get("left behind") == b"by a round"


def test_a_flood_of_waits_and_sets_of_many_ranks_loses_nothing(ranks, pool):
    turn = threading.Barrier(8)

    def member(rank):
        turn.wait(JOIN_S)
        store = ranks[rank]
        for step in range(20):
            store.set(f"{step}/{rank}", f"{rank}")
            store.wait([f"{step}/{other}" for other in range(8)])
        return store.multi_get([f"19/{other}" for other in range(8)])

    assert list(pool.map(member, range(8))) == [[b"%d" % rank for rank in range(8)]] * 8
