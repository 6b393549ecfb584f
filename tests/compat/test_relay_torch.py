"""torch's clients, unmodified, on a relay to our server."""

from __future__ import annotations

import os
import threading
from datetime import timedelta

import pytest
from tests.support.relayed import relayed
from tests.support.torch_peers import torch_client, torch_dist

from rallypoint.store.tcp import TCPStore

JOIN_S = 60


@pytest.fixture(scope="module")
def relay():
    with relayed() as running:
        yield running


@pytest.fixture
def ranks(relay, request):
    """Eight clients, each with keys of its own test."""
    return [torch_dist.PrefixStore(request.node.name, torch_client(relay.port)) for _ in range(8)]


def test_what_one_rank_writes_the_others_read(ranks):
    ranks[0].set("k", "value")
    assert [rank.get("k") for rank in ranks] == [b"value"] * 8


def test_a_get_waits_for_its_key(ranks, pool):
    getting = [pool.submit(rank.get, "late") for rank in ranks[1:]]
    ranks[0].set("late", "now")
    assert [each.result(JOIN_S) for each in getting] == [b"now"] * 7


def test_adds_of_all_ranks_add_up(ranks, pool):
    for _ in range(20):
        list(pool.map(lambda rank: rank.add("n", 1), ranks))
    assert ranks[0].add("n", 0) == 160


def test_one_rank_wins_a_compare_set(ranks, pool):
    seen = set(pool.map(lambda entry: entry[1].compare_set("c", "", str(entry[0])), enumerate(ranks)))
    assert len(seen) == 1


def test_many_keys_are_read_and_written_at_once(ranks):
    ranks[0].multi_set(["a", "b", "c"], ["1", "2", "x" * 100_000])
    assert ranks[1].multi_get(["a", "b", "c"]) == [b"1", b"2", b"x" * 100_000]


def test_a_wait_ends_at_its_deadline_and_the_client_goes_on(ranks):
    with pytest.raises(torch_dist.DistStoreError, match="timeout"):
        ranks[0].wait(["never"], timedelta(milliseconds=100))
    ranks[0].set("after", "1")
    assert ranks[0].get("after") == b"1"


def test_keys_are_checked_counted_and_deleted(ranks):
    ranks[0].set("k", "v")
    assert ranks[1].check(["k"])
    assert not ranks[1].check(["k", "nothing"])
    assert ranks[1].delete_key("k")
    assert not ranks[0].check(["k"])
    assert ranks[0].num_keys() >= 0


def test_an_append_grows_a_value(ranks):
    ranks[0].append("log", "one ")
    ranks[0].append("log", "two")
    assert ranks[0].get("log") == b"one two"


def test_each_item_of_a_queue_goes_to_one_rank(ranks, pool):
    popping = [pool.submit(rank.queue_pop, "q") for rank in ranks[1:4]]
    for item in ("1", "2", "3"):
        ranks[0].queue_push("q", item)
    assert sorted(each.result(JOIN_S) for each in popping) == [b"1", b"2", b"3"]
    assert ranks[0].queue_len("q") == 0


def test_all_ranks_pass_a_barrier(relay, pool):
    clients = [torch_client(relay.port) for _ in range(8)]
    arrived = []
    passing = [pool.submit(lambda client=client: (client.barrier("b", 8), arrived.append(1))) for client in clients[:7]]
    assert not arrived
    clients[7].barrier("b", 8)
    for each in passing:
        each.result(JOIN_S)


def test_ranks_behind_a_relay_and_elsewhere_are_of_one_store(relay, ranks):
    direct = torch_client(relay.server_port)
    direct.set("said", "by nobody's relay")
    behind = torch_client(relay.port)
    assert behind.get("said") == b"by nobody's relay"
    behind.set("answered", "yes")
    assert direct.get("answered") == b"yes"


def test_all_ranks_share_one_connection_to_the_server(relay, ranks):
    assert [rank.check(["nothing"]) for rank in ranks] == [False] * 8
    with TCPStore("127.0.0.1", relay.server_port, wait_for_workers=False, dialect="session") as store:
        sessions = store.status("sessions")["sessions"]
    others = [each["label"] for each in sessions if not each["label"].endswith(f" pid {os.getpid()}")]
    assert [label.split()[-1] for label in others] == [str(relay.relay.pid)]


def test_our_clients_find_a_plain_server_behind_the_relays_address(relay):
    with TCPStore("127.0.0.1", relay.port, wait_for_workers=False, dialect="auto") as store:
        store.set("ours", "1")
        assert store.get("ours") == b"1"
        assert not store.has_sessions()


def test_processes_of_a_group_meet_through_the_relay(relay, pool):
    """What init_process_group does with a store: PrefixStores, waits, counters, many keys."""
    world = [torch_dist.PrefixStore("pg", torch_client(relay.port)) for _ in range(8)]
    turn = threading.Barrier(8)

    def member(rank):
        turn.wait(JOIN_S)
        store = world[rank]
        store.set(f"address/{rank}", f"host-{rank}")
        store.wait([f"address/{other}" for other in range(8)])
        return store.multi_get([f"address/{other}" for other in range(8)])

    expected = [b"host-%d" % rank for rank in range(8)]
    assert list(pool.map(member, range(8))) == [expected] * 8
