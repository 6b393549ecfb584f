"""From nothing to a store."""

from __future__ import annotations

import socket
import threading
from datetime import timedelta

import pytest

from rallypoint.clock import Deadline
from rallypoint.errors import (
    BindError,
    DistNetworkError,
    DistStoreError,
    StoreTimeoutError,
    WorkersMissingError,
)
from rallypoint.store.bootstrap import (
    create_c10d_store,
    get_free_port,
    get_socket_with_port,
    open_endpoint,
    store_timeout,
)
from rallypoint.store.hash import HashStore
from rallypoint.store.prefix import PrefixStore
from rallypoint.store.tcp import TCPStore
from rallypoint.types import Endpoint

LONG_S = 30.0


@pytest.fixture(autouse=True)
def _servers_in_threads(monkeypatch):
    monkeypatch.setenv("RALLYPOINT_SERVER", "thread")
    monkeypatch.delenv("USE_LIBUV", raising=False)


def in_thread(call):
    outcome = []

    def run():
        try:
            outcome.append(call())
        except Exception as error:  # noqa: BLE001 - looked at by the test
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def result():
        thread.join(LONG_S)
        assert not thread.is_alive()
        return outcome[0]

    return result


# --- create_c10d_store -----------------------------------------------------------------------------------


def test_a_lone_server_on_the_hosts_own_name_with_the_default_port_comes_up():
    with create_c10d_store(True, socket.gethostname(), timeout=LONG_S) as store:
        assert store.port > 0
        assert store.timeout == timedelta(seconds=LONG_S)
        store.set("k", "v")
        assert store.get("k") == b"v"


@pytest.mark.parametrize("is_server", [True, False])
def test_several_members_need_a_port(is_server):
    with pytest.raises(ValueError, match=r"server_port must be specified when world_size > 1, got server_port=-1"):
        create_c10d_store(is_server, "localhost", world_size=2)


@pytest.mark.parametrize("port", [-1, 0])
def test_a_client_needs_a_port(port):
    with pytest.raises(DistNetworkError, match="a client must name the port"):
        create_c10d_store(False, "localhost", port)


def test_three_meet_on_port_0_and_see_each_others_keys():
    with create_c10d_store(True, "localhost", 0, 3, LONG_S, wait_for_workers=False) as server:
        clients = [
            create_c10d_store(False, "localhost", server.port, 3, LONG_S, wait_for_workers=False) for _ in range(2)
        ]
        stores = [server, *clients]
        for number, store in enumerate(stores):
            store.set(f"key{number}", f"value{number}")
        for store in stores:
            assert store.multi_get(["key0", "key1", "key2"]) == [b"value0", b"value1", b"value2"]
        for client in clients:
            client.close()


def test_all_come_back_when_all_are_there_with_torchs_keys():
    with get_socket_with_port() as listener:
        port = listener.getsockname()[1]
    server = in_thread(lambda: create_c10d_store(True, "localhost", port, 2, LONG_S))
    with create_c10d_store(False, "localhost", port, 2, LONG_S) as client, server() as store:
        assert sorted(store.list_keys()) == [
            "_tcp_store/num_members/last_member",
            "_tcp_store/num_members/num_members",
        ]
        assert client.num_keys() == 3  # with the server's own count of clients


def test_a_server_that_waits_in_vain_says_how_many_came():
    deadline = Deadline(1)
    with pytest.raises(DistStoreError, match=r"1/2") as caught:
        create_c10d_store(True, "localhost", 0, 2, 1)
    assert deadline.has_passed()
    assert isinstance(caught.value, WorkersMissingError)


def test_a_client_that_waits_in_vain_says_how_many_came():
    with TCPStore("localhost", 0, is_master=True) as server:
        with pytest.raises(WorkersMissingError, match=r"waiting for members\. 1/2 members came") as caught:
            create_c10d_store(False, "localhost", server.port, 2, 0.2)
        assert (caught.value.arrived, caught.value.expected) == (1, 2)


def test_a_client_without_a_server_fails_in_its_timeout():
    port = get_free_port()
    with pytest.raises(DistNetworkError, match=str(port)):
        create_c10d_store(False, "localhost", port, timeout=1)


def test_a_client_of_a_silent_socket_fails_in_its_timeout():
    with get_socket_with_port() as listener, pytest.raises(DistNetworkError):
        create_c10d_store(False, "localhost", listener.getsockname()[1], timeout=1)


def test_a_port_in_use_is_an_error_at_once_that_names_it():
    deadline = Deadline(LONG_S)
    with create_c10d_store(True, "localhost", 0, timeout=LONG_S) as store:
        port = store.port
        with pytest.raises(BindError, match=rf"failed to listen on any local network address.*{port}"):
            create_c10d_store(True, "localhost", port, timeout=LONG_S)
    assert not deadline.has_passed()


@pytest.mark.parametrize(("value", "expected"), [("0", False), ("1", True), (None, True)])
def test_use_libuv_is_read_from_the_environment(monkeypatch, value, expected):
    if value is not None:
        monkeypatch.setenv("USE_LIBUV", value)
    with create_c10d_store(True, "localhost", timeout=LONG_S) as store:
        assert store.libuvBackend is expected


def test_the_argument_use_libuv_is_ignored_and_a_log_line_says_so(caplog):
    with create_c10d_store(True, "localhost", timeout=LONG_S, use_libuv=False) as store:
        assert store.libuvBackend is True
    assert "use_libuv=False is deprecated and ignored: set the environment variable USE_LIBUV" in caplog.text


# --- ports -----------------------------------------------------------------------------------------------


def test_the_socket_listens_on_loopback_and_can_be_served_on_without_a_gap():
    listener = get_socket_with_port()
    host, port = listener.getsockname()[:2]
    assert host in {"127.0.0.1", "::1"}
    with socket.create_connection((host, port), LONG_S):
        pass
    with TCPStore("localhost", port, is_master=True, timeout=LONG_S, master_listen_fd=listener.detach()) as store:
        assert store.port == port
        store.set("k", "v")


def test_a_free_port_can_be_bound():
    with TCPStore("localhost", get_free_port(), is_master=True, timeout=LONG_S) as store:
        store.set("k", "v")


def test_a_machine_without_loopback_says_so(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [])
    with pytest.raises(OSError, match="localhost has no address"):
        get_socket_with_port()
    nowhere = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("192.0.2.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: nowhere)
    with pytest.raises(OSError, match="assign"):
        get_socket_with_port()


# --- store_timeout ---------------------------------------------------------------------------------------


class Foreign:
    """A store of no class of ours."""

    def __init__(self):
        self.timeout = timedelta(seconds=60)
        self.set_timeouts = []

    def set_timeout(self, timeout):
        self.set_timeouts.append(timeout)
        self.timeout = timeout


def test_the_timeout_holds_inside_and_not_after():
    store = HashStore()
    store.set_timeout(60)
    with store_timeout(store, 0.05):
        assert store.timeout == timedelta(seconds=0.05)
        with pytest.raises(StoreTimeoutError, match="after 50ms"):
            store.get("missing")
    assert store.timeout == timedelta(seconds=60)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, StoreTimeoutError])
def test_the_timeout_is_put_back_on_every_exit(error):
    for store in (HashStore(), Foreign()):
        store.timeout_before = store.timeout
        with pytest.raises(error), store_timeout(store, 1):
            raise error("out")
        assert store.timeout == store.timeout_before


def test_two_threads_on_one_store_do_not_see_each_others_timeout():
    store = HashStore()
    store.set_timeout(60)
    is_inside, may_leave = threading.Event(), threading.Event()

    def other():
        with store_timeout(store, 5):
            is_inside.set()
            may_leave.wait(LONG_S)
            return store.timeout

    result = in_thread(other)
    is_inside.wait(LONG_S)
    assert store.timeout == timedelta(seconds=60)
    with store_timeout(store, 7):
        may_leave.set()
        assert result() == timedelta(seconds=5)
        assert store.timeout == timedelta(seconds=7)
    assert store.timeout == timedelta(seconds=60)


def test_timeouts_nest():
    store = HashStore()
    with store_timeout(store, 5):
        with store_timeout(store, 1):
            assert store.timeout == timedelta(seconds=1)
        assert store.timeout == timedelta(seconds=5)


def test_a_timeout_set_inside_ends_with_the_block():
    store = HashStore()
    store.set_timeout(60)
    with store_timeout(store, 5):
        before = store.timeout
        store.set_timeout(1)
        assert store.timeout == timedelta(seconds=1)
        store.set_timeout(before)
    assert store.timeout == timedelta(seconds=60)


def test_a_prefix_is_looked_through():
    below = HashStore()
    store = PrefixStore("a", PrefixStore("b", below))
    with store_timeout(store, 5):
        assert store.timeout == below.timeout == timedelta(seconds=5)
    assert store.timeout == below.timeout == timedelta(seconds=300)


def test_a_foreign_store_is_set_and_put_back():
    store = Foreign()
    with store_timeout(PrefixStore("p", store), 5):
        assert store.timeout == timedelta(seconds=5)
    with store_timeout(store, float("inf")):
        assert store.timeout == timedelta(days=24)
    assert store.set_timeouts == [
        timedelta(seconds=5),
        timedelta(seconds=60),
        timedelta(days=24),
        timedelta(seconds=60),
    ]


def test_a_foreign_store_that_several_share_gets_its_own_timeout_back_at_the_end():
    store = Foreign()
    first, second = store_timeout(store, 5), store_timeout(store, 7)
    first.__enter__()
    second.__enter__()
    assert store.timeout == timedelta(seconds=7)
    first.__exit__(None, None, None)
    assert store.timeout == timedelta(seconds=7)
    second.__exit__(None, None, None)
    assert store.timeout == timedelta(seconds=60)


def test_a_subclass_that_keeps_its_own_time_is_foreign():
    class OwnTime(HashStore):
        own = timedelta(seconds=60)

        @property
        def timeout(self):
            return self.own

        def set_timeout(self, timeout, /):
            self.own = timeout

    store = OwnTime()
    with store_timeout(store, 5):
        assert store.own == timedelta(seconds=5)
    assert store.own == timedelta(seconds=60)


def test_a_negative_timeout_is_refused():
    with pytest.raises(ValueError, match="0 or more"), store_timeout(HashStore(), -1):
        pass


def test_an_endpoint_is_served_and_reached():
    with open_endpoint(Endpoint("127.0.0.1", 0), True, timeout=30) as host:
        place = Endpoint("127.0.0.1", host.port)
        with open_endpoint(place, timeout=30, dialect="c10d") as plain, open_endpoint(place, timeout=30) as other:
            plain.set("k", "v")
            assert other.get("k") == b"v"
            assert (plain.has_sessions(), other.timeout.total_seconds()) == (False, 30)
