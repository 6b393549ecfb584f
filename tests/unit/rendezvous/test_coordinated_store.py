from __future__ import annotations

import sys
from contextlib import closing, nullcontext
from typing import ClassVar

import pytest
from tests.support.stores import HOST, making_stores

from rallypoint.errors import RendezvousConnectionError
from rallypoint.net.tls import Tls
from rallypoint.rendezvous import coordinated_store as module
from rallypoint.rendezvous.coordinated import SESSION_S
from rallypoint.rendezvous.coordinated_store import create_coordinated_handler
from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.store.tcp import TCPStore
from rallypoint.types import Endpoint


def parameters(endpoint, backend="rallypoint", nodes=2, **options):
    return RendezvousParameters(backend, endpoint, "run", 1, nodes, "node", **({"read_timeout": 5} | options))


@pytest.fixture
def server():
    with making_stores() as build:
        yield build(dialect="session")


@pytest.mark.parametrize(
    "endpoint",
    ["{}:{}", "tcp://{}:{}", "{0}:{1},{0}:{1}", "tcp://{0}:{1},{0}:{1}"],
    ids=["place", "url", "places", "urls"],
)
def test_a_server_is_reached_in_any_form(server, endpoint):
    handler = create_coordinated_handler(parameters(endpoint.format(HOST, server.port), is_host="false"))
    try:
        store = handler._ground.store
        store.set("k", "v")
        assert server.get("k") == b"v"
        assert store._client.trunk.granted_s == SESSION_S
        assert handler.get_backend() == "rallypoint"
    finally:
        handler.shutdown()


def test_one_node_alone_serves_at_any_port():
    handler = create_coordinated_handler(parameters("localhost:0", nodes=1))
    try:
        assert handler._ground.is_host
        info = handler.next_rendezvous()
        assert (info.rank, info.world_size) == (0, 1)
    finally:
        assert handler.shutdown()


@pytest.mark.parametrize(
    ("endpoint", "options", "complaint"),
    [
        ("ftp://a:1", {}, "scheme 'ftp'"),
        ("localhost:0", {"store_type": "file"}, "'store_type' is unknown"),
        ("localhost:0", {"max_restart": 1}, "did you mean 'max_restarts'"),
        ("localhost:0", {"max_restarts": -1}, "must be 0 or more"),
        ("localhost:0", {"labels": "rack"}, "NAME=VALUE"),
        ("localhost:0", {"worker_store": "shared"}, "one of embedded, gateway"),
        ("localhost:0", {"ca_cert": "f"}, "'ca_cert' is unknown"),
        ("localhost:0", {"keep_alive_interval": 0}, "must be positive"),
    ],
)
def test_what_makes_no_sense_is_refused(endpoint, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        create_coordinated_handler(parameters(endpoint, nodes=1, **options))


def test_a_server_without_sessions_is_refused(server, monkeypatch):
    monkeypatch.setattr(TCPStore, "has_sessions", lambda _: False)
    with pytest.raises(RendezvousConnectionError, match="keeps no sessions"):
        create_coordinated_handler(parameters(f"{HOST}:{server.port}", is_host=False))


def test_a_server_that_is_not_there_is_told(server):
    with pytest.raises(RendezvousConnectionError, match="cannot be reached"):
        create_coordinated_handler(parameters(f"tcp://{HOST}:1", read_timeout=0.1))


def test_a_server_that_cannot_be_talked_to_is_told_in_words_of_this_backend(server):
    with pytest.raises(
        RendezvousConnectionError, match=rf"^the store at {HOST}:1 cannot be reached: .*refused"
    ) as caught:
        create_coordinated_handler(parameters(f"{HOST}:1", read_timeout=0.1, is_host=False))
    assert "C10d" not in f"{caught.value} {caught.value.__cause__}"


def test_who_waits_for_a_server_at_a_url_is_told_why(monkeypatch):
    told = []
    monkeypatch.setattr(module, "told_if_slow", lambda *given: told.append(given) or nullcontext())
    with pytest.raises(RendezvousConnectionError):
        create_coordinated_handler(parameters(f"tcp://{HOST}:1,{HOST}:2", read_timeout=0.1))
    with pytest.raises(RendezvousConnectionError, match=f"^etcd at {HOST}:3 did not do .*: connection refused$"):
        create_coordinated_handler(parameters(f"{HOST}:3", "etcd", read_timeout=0.1))
    assert told == [(Endpoint(HOST, 1), 0.1, "run"), (Endpoint(HOST, 3), 0.1, "run")]


class FakeEtcd:
    made: ClassVar[list[tuple[str, dict[str, object]]]] = []

    def __init__(self, url, **options):
        self.made.append((url, options))
        raise OSError("as planned")


@pytest.mark.parametrize(
    ("endpoint", "backend", "options", "url", "tls"),
    [
        ("e:2379", "etcd", {}, "etcd://e:2379", None),
        ("e:1,f:2", "etcd-v2", {"protocol": "https", "etcd_prefix": "/p"}, "etcds://e:1,f:2/p", None),
        ("etcd://e:1/q", "rallypoint", {"etcd_prefix": "p"}, "etcd://e:1/q", None),
        ("e", "etcd", {"cacert": "a", "cert": "c", "key": "k"}, "etcd://e", Tls("a", "c", "k")),
        ("e", "etcd-v2", {"ca_cert": "a", "ssl_cert": "c", "ssl_cert_key": "k"}, "etcd://e", Tls("a", "c", "k")),
    ],
)
def test_etcd_is_found_by_torchs_options(monkeypatch, endpoint, backend, options, url, tls):
    pytest.importorskip("rallypoint.store.etcd")
    monkeypatch.setattr("rallypoint.store.etcd.EtcdStore", FakeEtcd)
    with pytest.raises(RendezvousConnectionError, match="as planned"):
        create_coordinated_handler(parameters(endpoint, backend, **options))
    made, given = FakeEtcd.made.pop()
    assert (made, given["tls"], given["session_ttl"]) == (url, tls, module.ETCD_SESSION_S)


def test_etcd_takes_no_other_protocol():
    with pytest.raises(ValueError, match="http or https"):
        create_coordinated_handler(parameters("e:1", "etcd", protocol="ftp"))


@pytest.mark.parametrize(("endpoint", "backend"), [("", "etcd"), (" ", "etcd-v2"), ("etcd://", "rallypoint")])
def test_etcd_needs_an_endpoint(endpoint, backend):
    with pytest.raises(ValueError, match=f"backend '{backend}' has no endpoint: .*--rdzv-endpoint=host:2379"):
        create_coordinated_handler(parameters(endpoint, backend))


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "rallypoint.store.etcd", None)
    with pytest.raises(RendezvousConnectionError, match=r"rallypoint\[etcd\]"):
        create_coordinated_handler(parameters("e:1", "etcd"))


def test_a_handler_lets_go_of_its_store_if_it_cannot_be_made(server, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no")

    monkeypatch.setattr(module, "CoordinatedRendezvousHandler", refuse)
    with closing(server), pytest.raises(RuntimeError, match="no"):
        create_coordinated_handler(parameters(f"{HOST}:{server.port}", is_host=False))
