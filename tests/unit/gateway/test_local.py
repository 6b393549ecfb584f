from __future__ import annotations

import pytest
from tests.support.raw_server import PATIENCE_S, running_loop

from rallypoint.errors import AuthenticationError, BindError
from rallypoint.gateway.local import LocalGateway, delete_key_space
from rallypoint.store.file import FileStore
from rallypoint.store.hash import HashStore
from rallypoint.store.prefix import PrefixStore
from rallypoint.store.tcp import TCPStore


def connect(gateway):
    endpoint = gateway.endpoint
    return TCPStore(endpoint.host, endpoint.port, timeout=PATIENCE_S, wait_for_workers=False, dialect="c10d")


def test_workers_of_a_round_do_not_see_the_round_before():
    with HashStore() as store:
        with LocalGateway(store, "rounds/6/") as gateway, connect(gateway) as worker:
            worker.set("k", "old")
            assert worker.list_keys() == ["k"]
        with LocalGateway(store, "rounds/7/") as gateway, connect(gateway) as worker:
            assert not worker.check(["k"])
            assert worker.num_keys() == 0
            worker.set("k", "new")
        assert PrefixStore("rounds/6", store).get("k") == b"old"
        assert delete_key_space(store, "rounds/6/") == 1
        assert store.list_keys() == ["rounds/7/k"]


def test_a_server_is_relayed():
    with running_loop() as running:
        host, port = running.address
        with LocalGateway(f"tcp://{host}:{port}", key_space="a") as gateway, connect(gateway) as worker:
            worker.set("k", "v")
            assert worker.get("k") == b"v"
            assert running.client().get(b"/a/k") == b"v"
            assert gateway.is_serving()
        assert not gateway.is_serving()


def test_a_file_is_served(tmp_path):
    with LocalGateway(f"file://{tmp_path}/store") as gateway, connect(gateway) as worker:
        worker.set("k", "v")
        with FileStore(str(tmp_path / "store")) as store:
            assert store.get("k") == b"v"


def test_a_socket_file_has_no_port(tmp_path):
    with LocalGateway(HashStore(), bind=f"unix:{tmp_path}/socket") as gateway, connect(gateway) as worker:
        assert gateway.port == 0
        worker.set("k", "v")
        assert worker.get("k") == b"v"


def test_what_connects_is_used_and_its_refusal_is_kept():
    def refuse(session_id, deadline):
        raise AuthenticationError("the server wants to see a token")

    gateway = LocalGateway(refuse, log=lambda _: None)
    gateway._thread.join(PATIENCE_S)
    assert not gateway.is_serving()
    assert str(gateway.failure) == "the server wants to see a token"
    gateway.close()


def test_a_port_that_is_taken_is_an_error():
    with LocalGateway(HashStore()) as gateway, pytest.raises(BindError):
        LocalGateway(HashStore(), port=gateway.port)


def test_closing_twice_is_fine():
    gateway = LocalGateway(HashStore())
    gateway.close()
    gateway.close()


@pytest.mark.parametrize(("upstream", "key_space"), [("tcp://head", "a"), ("file://", "a"), ("hash://", "/")])
def test_what_is_no_place_is_an_error(upstream, key_space):
    with pytest.raises(ValueError):
        LocalGateway(upstream, key_space)


def test_keys_are_deleted_one_by_one_where_there_is_no_other_way(tmp_path):
    with FileStore(str(tmp_path / "store")) as store:
        store.multi_set(["a/1", "a/2", "ab"], ["", "", ""])
        assert delete_key_space(store, "a") == 2
        assert store.list_keys() == ["ab"]


@pytest.mark.parametrize("name", ["", "/"])
def test_a_whole_store_is_not_deleted(name):
    with pytest.raises(ValueError, match="key space"):
        delete_key_space(HashStore(), name)
