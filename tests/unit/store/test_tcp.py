from __future__ import annotations

import copy
import math
import pickle
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
from tests.support.client_twins import each_client  # noqa: F401 - a fixture
from tests.support.scripted_peer import scripted_peer
from tests.support.stores import HOST, JOIN_S, first_store, make_store

from rallypoint.errors import (
    BarrierTimeoutError,
    ConnectionLostError,
    DistNetworkError,
    DistStoreError,
    LocalProtocolError,
    QueueEmptyError,
    StoreTimeoutError,
)
from rallypoint.protocol.spec import Verb
from rallypoint.store.tcp import TCPStore
from rallypoint.testing import store_checks

pytestmark = pytest.mark.usefixtures("each_client")


make = make_store
store = first_store
peer = scripted_peer


# --- keys and values -------------------------------------------------------------------------------------


def test_a_get_of_a_present_key_is_one_round_trip_with_torchs_prefix(peer, pool, make):
    connecting = pool.submit(make, HOST, peer.port, dialect="c10d")
    server = peer.accept()
    getting = pool.submit(connecting.result(JOIN_S).get, "k")
    server.expect((Verb.CHECK, [b"/k"]), (Verb.GET, b"/k"))
    server.reply(b"\x00" + b"\x01" + bytes(7) + b"v")
    assert getting.result(JOIN_S) == b"v"


def test_the_constructor_sends_the_handshake_and_nothing_else(peer, pool, make):
    connecting = pool.submit(make, HOST, peer.port, wait_for_workers=False, dialect="c10d")
    server = peer.accept()
    connecting.result(JOIN_S).close()
    server.expect_end()


def test_where_the_agent_speaks_c10d_only_nothing_else_is_tried_nor_proven(peer, pool, make, monkeypatch):
    monkeypatch.setenv("RALLYPOINT_PLAIN_STORE", f"{HOST}:{peer.port}")
    monkeypatch.setenv("RALLYPOINT_DIALECT", "session")
    monkeypatch.setenv("RALLYPOINT_TOKEN", "the-token-of-the-run-of-thirty-two-letters")
    connecting = pool.submit(make, HOST, peer.port, wait_for_workers=False)
    server = peer.accept()
    connecting.result(JOIN_S).close()
    server.expect_end()


def test_keys_and_values_of_all_text_types(store):
    store.set("k", bytearray(b"v"))
    assert store.get(b"k") == b"v"
    store.set(bytearray(b"k"), "w")
    assert store.get("k") == b"w"
    assert store.check(key for key in ("k", b"k"))


@pytest.mark.parametrize("wrong", [1, None, memoryview(b"k")])
def test_other_types_are_refused(store, wrong):
    for call in (
        lambda: store.set(wrong, "v"),
        lambda: store.set("k", wrong),
        lambda: store.get(wrong),
        lambda: store.compare_set("k", wrong, "v"),
        lambda: store.check([wrong]),
        lambda: store.append("k", wrong),
        lambda: store.multi_set(["k"], [wrong]),
    ):
        with pytest.raises(TypeError):
            call()
    assert store.num_keys() == 0


def test_a_bare_string_is_no_list_of_keys(store):
    for call in (store.check, store.wait, store.multi_get):
        with pytest.raises(TypeError, match="keys must be a list of keys, not one str"):
            call("abc")


def test_arguments_are_positional_as_torchs(store):
    with pytest.raises(TypeError):
        store.set(key="k", value="v")
    with pytest.raises(TypeError):
        store.wait(keys=["k"])


def test_keys_and_values_over_the_limits_are_the_callers_error_and_cost_nothing(store):
    for call in (
        lambda: store.set("k" * 8192, "v"),
        lambda: store.set("k", bytes(8 * 1024 * 1024 + 1)),
        lambda: store.add("n", 1 << 63),
        lambda: store.check(["k"] * 131_073),
    ):
        with pytest.raises(LocalProtocolError, match=r"the limit|64 bits"):
            call()
    store.set("k", "v")
    assert store.get("k") == b"v"


def test_add_wants_a_whole_number(store):
    with pytest.raises(TypeError, match="amount must be an int, not float"):
        store.add("n", 1.5)


def test_a_multi_set_that_does_not_pair_up_stores_nothing(store):
    with pytest.raises(DistStoreError, match="same size: got 2 keys and 1 values"):
        store.multi_set(["a", "b"], ["1"])
    assert store.num_keys() == 0


def test_delete_key_tells_whether_there_was_one(store):
    store.set("k", "v")
    assert [store.delete_key("k"), store.delete_key("k")] == [True, False]


def test_list_keys_shows_users_keys_and_num_keys_counts_all(make):
    store = make(HOST, 0, 1)
    store.set("a/b", "1")
    assert store.list_keys() == ["a/b"]
    assert store.num_keys() == 2


def test_list_keys_refuses_what_is_no_text(store):
    store.set(b"\xff", "v")
    with pytest.raises(UnicodeDecodeError):
        store.list_keys()


# --- time ------------------------------------------------------------------------------------------------


def test_a_timeout_names_the_missing_keys_only(store):
    store.set("a", "1")
    with pytest.raises(StoreTimeoutError) as caught:
        store.wait(["a", b"b"], 0.05)
    assert str(caught.value).startswith("wait timeout after 50ms, keys: /b (missing 1 of 2 keys: 'b'; waited 0.0")
    assert str(caught.value).endswith(f" s on {HOST}:{store.port})")
    assert (caught.value.keys, caught.value.missing) == (("a", "b"), ("b",))
    assert caught.value.waited_s >= 0.05
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.__cause__ is None


def test_a_timeout_of_nothing_looks_once(store):
    store.set("k", "v")
    store.queue_push("q", "item")
    store.set_timeout(0)
    assert store.get("k") == b"v"
    assert store.multi_get(["k", "k"]) == [b"v", b"v"]
    assert store.queue_pop("q") == b"item"
    store.wait(["k"], 0)
    store.barrier("alone", 1, 0)
    for call in (
        lambda: store.get("absent"),
        lambda: store.multi_get(["k", "absent"]),
        lambda: store.queue_pop("q"),
        lambda: store.wait(["absent"], timedelta()),
    ):
        with pytest.raises(StoreTimeoutError, match=r"^wait timeout after 0ms, keys: /"):
            call()


@pytest.mark.parametrize("forever", [math.inf, timedelta.max])
def test_an_infinite_timeout_waits(store, pool, forever):
    store.set_timeout(forever)
    getting = pool.submit(store.get, "k")
    store.set("k", "v")
    assert getting.result(JOIN_S) == b"v"
    assert store.timeout == timedelta.max


def test_negative_timeouts_are_refused(store, make):
    for call in (
        lambda: store.set_timeout(-1),
        lambda: store.wait(["k"], -0.001),
        lambda: store.barrier("b", 1, timedelta(seconds=-1)),
        lambda: make(HOST, 0, timeout=-1),
    ):
        with pytest.raises(ValueError, match="timeout must be 0 or more seconds"):
            call()


def test_timeouts_are_seconds_or_a_timedelta(store):
    assert store.timeout == timedelta(seconds=JOIN_S)
    store.set_timeout(timedelta(milliseconds=20))
    with pytest.raises(StoreTimeoutError, match=r"^wait timeout after 20ms"):
        store.get("absent")
    with pytest.raises(TypeError):
        store.set_timeout("1")


# --- queues and barriers ---------------------------------------------------------------------------------


def test_a_pop_that_loses_the_race_goes_on_waiting(peer, pool, make):
    connecting = pool.submit(make, HOST, peer.port, dialect="c10d")
    server = peer.accept()
    popping = pool.submit(connecting.result(JOIN_S).queue_pop, "q")
    server.expect((Verb.QUEUE_POP, b"/q"))
    server.reply(bytes(8))
    server.expect((Verb.WAIT, [b"/q"]))
    look = (Verb.QUEUE_POP, b"/q"), (Verb.CHECK, [b"/q"]), (Verb.QUEUE_LEN, b"/q")
    server.reply(b"\x00")
    server.expect(*look)
    server.reply(bytes(8) + b"\x01" + bytes(8))  # somebody else was faster
    server.expect((Verb.WAIT, [b"/q"]))
    server.reply(b"\x00")
    server.expect(*look)
    one = b"\x01" + bytes(7)
    server.reply(one + one + b"x" + b"\x01" + bytes(8))
    assert popping.result(JOIN_S) == b"x"


def test_many_consumers_get_each_item_once(store, make, pool):
    consumers = [make(HOST, store.port) for _ in range(4)]
    popping = [pool.submit(consumers[number % 4].queue_pop, "q") for number in range(8)]
    for number in range(8):
        store.queue_push("q", str(number))
    assert sorted(future.result(JOIN_S) for future in popping) == [b"%d" % number for number in range(8)]


def test_an_empty_queue(store):
    with pytest.raises(QueueEmptyError, match="empty"):
        store.queue_pop("q", block=False)
    assert store.queue_len("q") == 0


def test_queues_are_refused_by_the_flag(make):
    store = make(use_libuv=False)
    assert store.libuvBackend is False
    for call in (lambda: store.queue_push("q", "v"), lambda: store.queue_pop("q"), lambda: store.queue_len("q")):
        with pytest.raises(NotImplementedError, match=r"^queues not implemented on legacy TCPStore backend$"):
            call()
    store.set("k", "v")
    assert store.get("k") == b"v"


def test_a_barrier_that_times_out_says_how_many_came(store):
    store.set("before", "anything")
    with pytest.raises(
        BarrierTimeoutError, match=r"^barrier timeout after 50ms, key: bc \(1 of 3 came; waited "
    ) as caught:
        store.barrier("bc", 3, 0.05)
    assert (caught.value.arrived, caught.value.expected) == (1, 3)
    store.set("k", "v")
    assert store.get("k") == b"v"


def test_threads_meet_at_a_barrier_on_one_store(store, pool):
    for future in [pool.submit(store.barrier, "gate", 5) for _ in range(5)]:
        future.result(JOIN_S)
    assert store.get("gate") == b"5"


# --- making and ending -----------------------------------------------------------------------------------


def test_a_store_cannot_be_sent_or_copied_and_says_what_to_do(store):
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=rf"a TCPStore cannot be pickled .* port {store.port} .* clone\(\)"):
            attempt(store)


def test_properties_and_repr_of_a_server_and_a_client(store, make):
    client = make(HOST, store.port, timeout=5)
    assert (store.host, store.libuvBackend, store.has_extended_api()) == (HOST, True, True)
    assert client.timeout == timedelta(seconds=5)
    assert f"remote={HOST}:{store.port})), server=TCPServer(port={store.port}))" in repr(store)
    assert repr(client).startswith("TCPStore(client=TCPClient(SocketImpl(fd=")
    assert repr(client).endswith("server=<nullptr>)")
    client.close()
    assert repr(client) == "TCPStore(client=<nullptr>, server=<nullptr>)"


def test_clones_have_their_own_timeout_and_do_not_keep_the_server(store):
    clone = store.clone()
    clone.set_timeout(7)
    assert store.timeout == timedelta(seconds=JOIN_S)
    clone.set("k", "v")
    assert store.get("k") == b"v"
    assert "server=<nullptr>" in repr(clone)
    store.close()
    with pytest.raises(ConnectionLostError):
        clone.get("k")
    clone.close()


def test_a_closed_store_says_so(make):
    with make() as store:
        store.set("k", "v")
    store.close()
    with pytest.raises(ConnectionLostError, match=rf"^the store on {HOST}:{store.port} is closed$"):
        store.get("k")


def test_a_store_that_is_dropped_takes_its_server_along():
    store = TCPStore(HOST, 0, is_master=True, wait_for_workers=False, server="thread")
    port = store.port
    del store
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port))


def test_a_store_that_outlives_the_modules_goes_quietly():
    program = "import os\nfrom rallypoint.store.tcp import TCPStore\nos.kept = TCPStore('127.0.0.1', 0, is_master=True)"
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, check=True, capture_output=True)
    assert ended.stderr == b""


def test_a_master_does_not_need_its_host_name_to_lead_anywhere(make):
    elsewhere = "192.0.2.1"  # kept free for examples; nobody calls it
    store = make(elsewhere, 0)
    store.set("k", "v")
    assert store.get("k") == b"v"
    assert store.host == elsewhere


@pytest.mark.parametrize(
    ("arguments", "kind", "text"),
    [
        (("h", 1, 0), ValueError, "TCPStore world size cannot be 0"),
        (("h", 65536), ValueError, "port must be from 0 to 65535, not 65536"),
        (("h", -1), ValueError, "port must be from 0 to 65535, not -1"),
        (("h", 0), DistNetworkError, "a client must name the port"),
        (("h", "1"), TypeError, "port must be an int, not str"),
        (("h", True), TypeError, "port must be an int, not bool"),
        ((b"h", 1), TypeError, "host_name must be a str, not bytes"),
        (("h", 1, 2.0), TypeError, "world_size must be an int or None, not float"),
        (("h", 1, None, 1), TypeError, "is_master must be a bool, not int"),
        (("h", 1, None, False, None), TypeError, "timeout must be seconds or a timedelta, not NoneType"),
        (("h", 1, None, False, -1), ValueError, "timeout must be 0 or more seconds"),
    ],
)
def test_wrong_arguments_are_named(arguments, kind, text):
    with pytest.raises(kind, match=text):
        TCPStore(*arguments)


@pytest.mark.parametrize("check", store_checks(), ids=str)
def test_it_behaves_as_a_store(check):
    check.run(lambda: TCPStore(HOST, 0, is_master=True, wait_for_workers=False, server="thread"))


def test_a_store_may_spin_and_so_do_its_clones(make, pool):
    store = make(spin_us=200)
    store.set("k", "v")
    assert store.clone().get("k") == b"v"
    getting = pool.submit(store.get, "late")
    store.set("late", "v")
    assert getting.result(JOIN_S) == b"v"
    with pytest.raises(ValueError, match="spin_us must be from 0 to 1000 microseconds, not 2000"):
        make(spin_us=2000)


def test_a_class_that_forgets_our_constructor_is_told():
    class Forgetful(TCPStore):
        def __init__(self):
            pass

    with pytest.raises(RuntimeError, match=r"call super\(\)\.__init__\(\) first"):
        Forgetful().get("k")


def test_a_host_must_have_a_name_that_others_can_resolve(make):
    with pytest.raises(DistNetworkError, match=r"client socket has timed out after \d+ms.*no-such-host\.invalid"):
        make("no-such-host.invalid", 0, is_master=True, timeout=0.3)
