"""Stores by URL."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from tests.support.certificates import Authority

from rallypoint.errors import AuthenticationError, DistNetworkError
from rallypoint.store import url as url_module
from rallypoint.store.bootstrap import get_free_port
from rallypoint.store.hash import HashStore
from rallypoint.store.tcp import TCPStore
from rallypoint.store.url import register_rendezvous_handler, rendezvous

LONG_S = 30.0
VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE", "USE_LIBUV")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    monkeypatch.setenv("RALLYPOINT_SERVER", "thread")
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def own_scheme(monkeypatch):
    monkeypatch.setattr(url_module, "_handlers", dict(url_module._handlers))


def meet(url, *arguments, **options):
    return next(rendezvous(url, *arguments, timeout=options.pop("timeout", LONG_S), **options))


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("file://", "file:// rendezvous: path missing"),
        ("file:///tmp/x", "file:// rendezvous: rank parameter missing"),
        ("file:///tmp/x?rank=0", "file:// rendezvous: world size parameter missing"),
        ("tcp://127.0.0.1", "tcp:// rendezvous: port number missing"),
        ("tcp://127.0.0.1:2345", "tcp:// rendezvous: rank parameter missing"),
        ("tcp://127.0.0.1:2345?rank=1", "tcp:// rendezvous: world size parameter missing"),
        ("tcp://127.0.0.1:2345?rank=x&world_size=2", "invalid literal"),
        ("env://", "environment variable RANK expected, but not set"),
        ("env://?rank=0", "environment variable WORLD_SIZE expected, but not set"),
        ("env://?rank=0&world_size=1", "environment variable MASTER_ADDR expected, but not set"),
    ],
)
def test_what_is_missing_is_named(url, complaint):
    with pytest.raises(ValueError, match=complaint):
        meet(url)


def test_a_store_by_tls_has_a_certificate_and_wants_one(tmp_path, monkeypatch):
    files = Authority(tmp_path / "ours").issue("localhost")
    for name, path in zip(("CA", "CERT", "KEY"), files, strict=False):
        monkeypatch.setenv(f"RALLYPOINT_TLS_{name}", path)
    port = get_free_port()
    store, rank, world_size = next(rendezvous(f"tls://localhost:{port}?rank=0&world_size=1"))
    assert (rank, world_size) == (0, 1)
    store.set("k", b"v")
    twin = store.clone()  # by the address that the server has here, which is not in the certificate
    assert twin.get("k") == b"v"
    twin.close()
    monkeypatch.delenv("RALLYPOINT_TLS_CERT")
    with pytest.raises(AuthenticationError, match="it refuses our certificate: certificate required"):
        TCPStore("localhost", port, timeout=20)
    store.close()


def test_an_unknown_scheme_is_named_with_the_known_ones():
    with pytest.raises(
        RuntimeError,
        match=r"No rendezvous handler for foo:// \(there are env://, etcd://, etcds://, file://, tcp://, tls://\)",
    ):
        rendezvous("foo://host")


def test_a_url_is_a_string_and_ranks_are_numbers():
    with pytest.raises(RuntimeError, match="`url` must be a string"):
        rendezvous(3)
    with pytest.raises(RuntimeError, match=r"`rank` must be an integer\. 0"):
        rendezvous("env://", "0")
    with pytest.raises(RuntimeError, match=r"`world_size` must be an integer\. 2"):
        rendezvous("env://", 0, "2")


@pytest.mark.parametrize("query", ["rank=1&world_size=2", "rank=1", "world_size=2"])
def test_ranks_stand_in_the_url_or_in_the_arguments_but_not_in_both(query):
    with pytest.raises(AssertionError, match="has node-specific arguments"):
        rendezvous(f"tcp://127.0.0.1:2345?{query}", rank=1, world_size=2)


def test_two_ranks_on_one_file_see_each_others_keys(tmp_path):
    url = f"file://{tmp_path}/store?world_size=2"
    (first, *place), (second, *other_place) = meet(f"{url}&rank=0"), meet(f"{url}&rank=1")
    assert (place, other_place) == ([0, 2], [1, 2])
    first.set("k0", "v0")
    second.set("k1", "v1")
    assert (second.get("k0"), first.get("k1")) == (b"v0", b"v1")
    assert first.timeout == timedelta(seconds=LONG_S)
    first.close()
    second.close()
    assert not (tmp_path / "store").exists()


def in_thread(call):
    outcome = []
    thread = threading.Thread(target=lambda: outcome.append(call()))
    thread.start()

    def result():
        thread.join(LONG_S)
        assert not thread.is_alive()
        return outcome[0]

    return result


def check_two_meet(url_of_rank):
    """Rank 0 serves, rank 1 comes, and they see each other's keys."""
    first = in_thread(lambda: meet(url_of_rank(0)))
    second, *place = meet(url_of_rank(1))
    server, *server_place = first()
    with server, second:
        assert (server_place, place) == ([0, 2], [1, 2])
        server.set("k0", "v0")
        second.set("k1", "v1")
        assert (second.get("k0"), server.get("k1")) == (b"v0", b"v1")
        assert "server=TCPServer" in repr(server)
        assert "server=<nullptr>" in repr(second)


def test_rank_0_serves_at_a_tcp_url_and_the_others_come():
    port = get_free_port()
    check_two_meet(lambda rank: f"tcp://localhost:{port}?rank={rank}&world_size=2")


def test_rank_0_serves_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(get_free_port()))
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_two_meet(lambda rank: f"env://?rank={rank}")


def test_ranks_come_from_the_environment_or_the_arguments(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "0")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    for arguments in ((), (0, 1), (-1, 1), (0,)):
        store, rank, world_size = meet("env://", *arguments)
        store.close()
        assert (rank, world_size) == (0, 1)


@pytest.mark.parametrize("said", ["True", "1"])
def test_with_an_agents_store_every_rank_is_a_client(monkeypatch, said):
    with TCPStore("localhost", 0, is_master=True, timeout=LONG_S) as agents:
        monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", said)
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        monkeypatch.setenv("MASTER_PORT", str(agents.port))
        for rank in (0, 1):
            store, *_ = meet("env://", rank, 2)
            with store:
                assert "server=<nullptr>" in repr(store)
                store.set(f"k{rank}", "v")
        assert agents.check(["k0", "k1"])


def test_an_agents_store_does_not_stop_a_job_from_serving_elsewhere(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", "29500")
    store, *_ = meet("tcp://localhost:0?rank=0&world_size=1")
    with store:
        assert "server=TCPServer" in repr(store)


@pytest.mark.parametrize(
    ("variable", "query", "expected"),
    [(None, "", True), ("0", "", False), ("0", "&use_libuv=1", True), ("1", "&use_libuv=0", False)],
)
def test_use_libuv_may_stand_in_the_url(monkeypatch, variable, query, expected):
    if variable is not None:
        monkeypatch.setenv("USE_LIBUV", variable)
    store, *_ = meet(f"tcp://localhost:0?rank=0&world_size=1{query}")
    with store:
        assert store.libuvBackend is expected


def test_a_host_that_does_not_exist_fails_in_the_timeout_by_name():
    with pytest.raises(DistNetworkError, match=r"client socket has timed out after.*nosuch\.invalid"):
        meet("tcp://nosuch.invalid:2345?rank=1&world_size=2", timeout=timedelta(seconds=1))
    with pytest.raises(AssertionError, match="hostname cannot be None"):
        meet("tcp://:0?rank=0&world_size=1")


def test_one_meeting_a_url(tmp_path):
    for url in (f"file://{tmp_path}/store?rank=0&world_size=1", "tcp://localhost:0?rank=0&world_size=1"):
        meetings = rendezvous(url)
        with next(meetings)[0], pytest.raises(RuntimeError, match="Unable to perform re-rendezvous using"):
            next(meetings)


@pytest.mark.usefixtures("own_scheme")
def test_a_scheme_of_ones_own_gets_the_url_and_the_options():
    asked = []

    def handler(url, **options):
        asked.append((url, options))
        yield HashStore(), 3, 4

    register_rendezvous_handler("own", handler)
    store, rank, world_size = meet("own://place?a=b", 3, 4, colour="red")
    assert (type(store), rank, world_size) == (HashStore, 3, 4)
    assert asked == [("own://place?a=b&rank=3&world_size=4", {"timeout": LONG_S, "colour": "red"})]
    for scheme in ("own", "tcp", "env", "file"):
        with pytest.raises(RuntimeError, match=f"Rendezvous handler for {scheme}:// already registered"):
            register_rendezvous_handler(scheme, handler)


def test_etcd_by_its_url(etcd):
    url = etcd.url()
    meeting = rendezvous(f"{url}?rank=1&world_size=3", timeout=60)
    store, rank, world_size = next(meeting)
    with store:
        assert (rank, world_size, store.timeout.total_seconds()) == (1, 3, 60.0)
        store.set("k", "v")
        (other, *_) = next(rendezvous(url, rank=0, world_size=3))
        with other:
            assert other.get("k") == b"v"
    with pytest.raises(RuntimeError, match="using etcd:// method"):
        next(meeting)


def test_etcd_needs_a_rank(etcd):
    with pytest.raises(ValueError, match="using etcd:// rendezvous: rank parameter missing"):
        next(rendezvous(etcd.url()))
