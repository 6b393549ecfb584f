from __future__ import annotations

import pytest
from tests.support.raw_server import running_loop

from rallypoint.gateway.opening import first_place, open_store
from rallypoint.store import url as urls
from rallypoint.store.etcd import EtcdStore
from rallypoint.store.file import FileStore
from rallypoint.store.hash import HashStore
from rallypoint.store.url import register_rendezvous_handler
from rallypoint.types import Endpoint


def test_a_file_is_opened(tmp_path):
    with open_store(f"file://{tmp_path}/store", 7.0) as store:
        assert isinstance(store, FileStore)
        assert store.timeout.total_seconds() == 7.0


def test_a_server_is_connected_to():
    with running_loop() as running:
        host, port = running.address
        with open_store(f"tcp://{host}:{port}", 7.0) as store:
            store.set("k", "v")
            assert store.get("k") == b"v"


def test_an_etcd_cluster_is_connected_to(etcd_url):
    with open_store(etcd_url, 7.0) as store:
        assert isinstance(store, EtcdStore)
        assert store.timeout.total_seconds() == 7.0
        store.set("k", "v")
        assert store.get("k") == b"v"


def test_a_store_of_this_process_is_empty():
    assert isinstance(open_store("hash://", 7.0), HashStore)


def test_a_scheme_that_was_registered_is_asked(monkeypatch):
    monkeypatch.setattr(urls, "_handlers", dict(urls._handlers))

    def meet(url, *, timeout, **_):
        yield (url, timeout), 0, 1

    register_rendezvous_handler("opened", meet)
    assert open_store("opened://somewhere", 7.0) == ("opened://somewhere", 7.0)


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("file://", ValueError, "has no path"),
        ("tcp://head", ValueError, "has no port"),
        ("head:1", ValueError, "write etcd://head:1, tcp://head:1"),
        ("", ValueError, "write etcd://host:port"),
        ("gopher://head", RuntimeError, "gopher"),
    ],
)
def test_what_is_no_store_is_an_error(url, error, words):
    with pytest.raises(error, match=words):
        open_store(url, 7.0)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("tcp://a:1,b:2", Endpoint("a", 1)),
        ("tls://[::1]:1", Endpoint("::1", 1)),
        ("etcd://me:secret@a,b:2/prefix", Endpoint("a", 2379)),
        ("file:///a/b", None),
        ("hash://", None),
    ],
)
def test_the_place_that_is_looked_at_first_is_known(url, place):
    assert first_place(url) == place
