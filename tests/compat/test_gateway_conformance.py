"""The conformance kit on a gateway to stores of every kind: behind it they behave as a server's store does."""

from __future__ import annotations

from itertools import count

import pytest

from rallypoint.gateway.local import LocalGateway
from rallypoint.gateway.opening import open_store
from rallypoint.store.file import FileStore
from rallypoint.store.hash import HashStore
from rallypoint.store.tcp import TCPStore
from rallypoint.testing import store_checks

STORES = ["hash", "file", "server", "etcd"]


class Client(TCPStore):
    """A client with a gateway and a store of its own, until it is closed."""

    def __init__(self, make, key_space):
        self._below = make()
        self._gateway = LocalGateway(self._below, key_space)
        super().__init__("127.0.0.1", self._gateway.port, wait_for_workers=False, dialect="c10d")

    def close(self):
        super().close()
        self._gateway.close()
        self._below.close()


def serving():
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, dialect="session", server="thread")


@pytest.fixture
def make(request, tmp_path):
    if request.param == "file":
        files = count()
        return lambda: FileStore(str(tmp_path / str(next(files))))
    if request.param == "etcd":
        cluster = request.getfixturevalue("etcd")
        return lambda: open_store(cluster.url(), 30.0)
    return HashStore if request.param == "hash" else serving


def behaviours():
    """Give each check on each store; c10d has no words for a store without queues."""
    for store in STORES:
        for check in store_checks():
            if store != "file" or not check.body.__module__.endswith("queue_checks"):
                yield pytest.param(store, check, id=f"{store}-{check}")


@pytest.mark.parametrize(("make", "check"), list(behaviours()), indirect=["make"])
def test_a_store_behind_a_gateway_behaves_as_a_store(make, check):
    check.run(lambda: Client(make, "a/space"))
