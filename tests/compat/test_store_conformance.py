"""The conformance kit, with our client on torch's servers: what they do wrong aside, it behaves as on ours."""

from __future__ import annotations

import pytest
from tests.support.client_twins import each_client  # noqa: F401 - a fixture
from tests.support.torch_peers import torch_server

from rallypoint.store.tcp import TCPStore
from rallypoint.testing import store_checks

pytestmark = pytest.mark.usefixtures("each_client")

TORCHS_FAULTS = {
    # Both servers count a key as arrived that was deleted again before the others came.
    "check_a_deleted_key_is_missing": "both",
    # The legacy server does not wake a waiter when a swap creates its key.
    "check_get_waits_for_every_kind_of_creation": "legacy",
}


def checks_of(server):
    faults = {name for name, where in TORCHS_FAULTS.items() if where in ("both", server)}
    return [check for check in store_checks() if check.body.__name__ not in faults]


def client_of_new_server(use_libuv):
    servers = []

    class Client(TCPStore):
        """A client that keeps its server until it is closed."""

        def close(self):
            super().close()
            servers.clear()

    servers.append(torch_server(use_libuv=use_libuv))
    return Client("127.0.0.1", servers[0].port, wait_for_workers=False, use_libuv=use_libuv)


@pytest.mark.parametrize("check", checks_of("libuv"), ids=str)
def test_our_client_behaves_as_a_store_on_torchs_libuv_server(check):
    check.run(lambda: client_of_new_server(True))


@pytest.mark.parametrize("check", checks_of("legacy"), ids=str)
def test_our_client_behaves_as_a_store_on_torchs_legacy_server(check):
    check.run(lambda: client_of_new_server(False))


def test_the_faults_that_are_left_out_are_known_checks():
    assert set(TORCHS_FAULTS) <= {check.body.__name__ for check in store_checks()}
