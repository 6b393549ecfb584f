"""Who waits and who wakes whom, across implementations: one side's waiter, the other side's writer, any server."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from tests.support.client_twins import each_client  # noqa: F401 - a fixture
from tests.support.torch_peers import MEETINGS, OUR_CLIENT, TORCH_LEGACY, meet, name_of, torch_server

from rallypoint.errors import StoreTimeoutError
from rallypoint.store.tcp import TCPStore

pytestmark = pytest.mark.usefixtures("each_client")

JOIN_S = 60


@pytest.fixture(params=MEETINGS, ids=name_of)
def meeting(request):
    with meet(*request.param) as running:
        yield running


def begin(pool, call, *arguments):
    """Run a call in a thread; give its future once the thread is about to make the call."""
    started = threading.Event()

    def run():
        started.set()
        return call(*arguments)

    future = pool.submit(run)
    assert started.wait(JOIN_S)
    return future


def settle(store):
    """Make so many round trips that the server has very likely seen what other threads were about to send."""
    for _ in range(30):
        store.check(["nothing"])


WRITES = {
    "set": lambda store: store.set("k", "v"),
    "add": lambda store: store.add("k", 1),
    "append": lambda store: store.append("k", "v"),
    "an empty append": lambda store: store.append("k", ""),
    "multi_set": lambda store: store.multi_set(["other", "k"], ["1", "2"]),
    "barrier": lambda store: store.barrier("k", 1),
    "compare_set": lambda store: store.compare_set("k", "", "v"),
}


@pytest.mark.parametrize("write", WRITES)
def test_every_write_wakes_a_waiter(meeting, pool, write):
    if write == "compare_set" and meeting.server == TORCH_LEGACY:
        return  # torch's legacy server leaves the waiter asleep
    waiter, writer = meeting.connect(), meeting.connect()
    waiting = begin(pool, waiter.wait, ["k"])
    settle(writer)
    WRITES[write](writer)
    waiting.result(JOIN_S)
    assert writer.check(["k"])


def test_a_get_waits_for_the_key(meeting, pool):
    waiter, writer = meeting.connect(), meeting.connect()
    getting = begin(pool, waiter.get, "k")
    settle(writer)
    writer.set("k", "late")
    assert getting.result(JOIN_S) == b"late"


def test_a_wait_for_several_keys_ends_with_the_last(meeting, pool):
    waiter, writer = meeting.connect(), meeting.connect()
    waiting = begin(pool, waiter.wait, ["a", "b", "c"])
    getting = begin(pool, meeting.connect().multi_get, ["c", "a"])
    settle(writer)
    writer.set("c", "3")
    writer.set("b", "2")
    assert not waiting.done()
    writer.set("a", "1")
    waiting.result(JOIN_S)
    assert getting.result(JOIN_S) == [b"3", b"1"]


def test_one_write_wakes_every_waiter(meeting, pool):
    waiting = [begin(pool, meeting.connect().get, "k") for _ in range(6)]
    writer = meeting.connect()
    settle(writer)
    writer.set("k", "v")
    assert [future.result(JOIN_S) for future in waiting] == [b"v"] * 6


def test_both_kinds_of_clients_wait_for_each_other_on_one_server(meeting, pool):
    here, there = meeting.connect(), meeting.connect_other()
    for turn in range(20):
        answer = begin(pool, there.get, f"ping {turn}")
        settle(here)
        here.set(f"ping {turn}", str(turn))
        assert answer.result(JOIN_S) == str(turn).encode()
        there.set(f"pong {turn}", str(turn))
        assert here.get(f"pong {turn}") == str(turn).encode()


def test_a_timeout_says_what_was_waited_for_and_leaves_the_client_usable(meeting):
    store = meeting.connect(0.1)
    with pytest.raises(RuntimeError, match=r"^wait timeout after 100ms, keys: /the_key"):
        store.get("the_key")
    with pytest.raises(RuntimeError, match=r"^wait timeout after 50ms, keys: /a, /b"):
        store.wait(["a", "b"], timedelta(seconds=0.05))
    with pytest.raises(RuntimeError, match=r"^wait timeout after 100ms, keys: /a, /b"):
        store.multi_get(["a", "b"])
    store.set("the_key", "v")
    assert store.get("the_key") == b"v"
    with pytest.raises(RuntimeError, match=r"^barrier timeout after 100ms, key: bc"):
        store.barrier("bc", 2)
    assert store.add("n", 1) == 1
    assert store.get("bc") == b"1"


def test_set_timeout_counts_for_the_next_wait(meeting):
    store = meeting.connect()
    store.set_timeout(timedelta(milliseconds=30))
    with pytest.raises(RuntimeError, match=r"^wait timeout after 30ms"):
        store.get("absent")


def test_a_deleted_key_is_waited_for_again(meeting):
    store = meeting.connect(0.1)
    store.set("k", "v")
    store.delete_key("k")
    with pytest.raises(RuntimeError, match=r"^wait timeout after 100ms, keys: /k"):
        store.get("k")


def test_a_barrier_releases_all_its_members_together(meeting, pool):
    members = [begin(pool, meeting.connect().barrier, "gate", 4) for _ in range(3)]
    last = meeting.connect()
    settle(last)
    assert not any(member.done() for member in members)
    last.barrier("gate", 4)
    for member in members:
        member.result(JOIN_S)
    assert last.get("gate") == b"4"


def test_a_blocking_pop_waits_for_a_push(meeting, pool):
    if not meeting.has_queues:
        with pytest.raises(NotImplementedError, match="queues not implemented on legacy TCPStore backend"):
            meeting.connect().queue_pop("q")
        return
    consumer, producer = meeting.connect(), meeting.connect()
    for item in (b"a", b""):
        popping = begin(pool, consumer.queue_pop, "q")
        settle(producer)
        producer.queue_push("q", item)
        assert popping.result(JOIN_S) == item
    consumer.set_timeout(timedelta(seconds=0.05))
    with pytest.raises(RuntimeError, match=r"^wait timeout after 50ms, keys: /q"):
        consumer.queue_pop("q")
    assert producer.queue_len("q") == 0


def test_two_clones_push_for_each_other(meeting, pool):
    if not meeting.has_queues:
        with pytest.raises(NotImplementedError):
            meeting.connect().queue_push("q", "x")
        return
    first, second = meeting.connect(), meeting.connect()
    back = begin(pool, lambda: second.queue_push("back", second.queue_pop("forth") + b"!"))
    first.queue_push("forth", "hello")
    assert first.queue_pop("back") == b"hello!"
    back.result(JOIN_S)


@pytest.fixture(params=[names for names in MEETINGS if names[0] == OUR_CLIENT], ids=name_of)
def our_meeting(request):
    with meet(*request.param) as running:
        yield running


def test_threads_that_share_our_client_wait_without_holding_each_other_up(our_meeting, pool):
    store = our_meeting.connect()
    waiting = [begin(pool, store.get, f"k{number}") for number in range(5)]
    settle(store)
    for number in range(5):
        store.set("last", str(number))
        assert pool.submit(store.get, "last").result(JOIN_S) == str(number).encode()
        store.set(f"k{number}", str(number))
    assert [future.result(JOIN_S) for future in waiting] == [b"0", b"1", b"2", b"3", b"4"]


def test_our_client_finds_a_key_that_it_was_not_woken_for(our_meeting, pool):
    # torch's legacy server does not wake a waiter when a swap creates the key; the last look before giving up does.
    waiter, writer = our_meeting.connect(2.0), our_meeting.connect()
    getting = begin(pool, waiter.get, "k")
    settle(writer)
    writer.compare_set("k", "", "v")
    assert getting.result(JOIN_S) == b"v"


def test_our_client_looks_once_where_the_time_is_nothing(our_meeting):
    store = our_meeting.connect()
    store.set("k", "v")
    store.set_timeout(0)
    assert store.get("k") == b"v"
    store.wait(["k"], 0)
    with pytest.raises(StoreTimeoutError, match=r"^wait timeout after 0ms, keys: /absent \(missing 1 of 2 keys"):
        store.wait(["k", "absent"], 0)


def test_our_client_recognises_the_legacy_server_by_itself():
    server = torch_server(use_libuv=False)
    with TCPStore("127.0.0.1", server.port, timeout=0.1, wait_for_workers=False) as store:
        assert store.libuvBackend
        with pytest.raises(StoreTimeoutError):
            store.get("absent")
        store.set("k", "v")
        assert store.multi_get(["k", "k"]) == [b"v", b"v"]
