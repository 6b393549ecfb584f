"""A password that somebody wrote into an endpoint is shown nowhere, however the endpoint is wrong."""

from __future__ import annotations

import traceback

import pytest
from click.testing import CliRunner

from rallypoint.cli.commands import group as main
from rallypoint.errors import DistError
from rallypoint.events import subscribe, unsubscribe
from rallypoint.gateway.local import LocalGateway
from rallypoint.gateway.opening import open_store
from rallypoint.gateway.vocabulary import RelayLimits
from rallypoint.launch.config import LaunchConfig
from rallypoint.rendezvous.handler import RendezvousParameters
from rallypoint.rendezvous.registry import get_rendezvous_handler
from rallypoint.store.etcd import EtcdStore
from rallypoint.store.tcp import TCPStore
from rallypoint.store.url import rendezvous

SECRET = "hunter2"

SCHEMES = ("etcd://", "etcds://", "tcp://", "tls://", "rallypoint://", "gopher://", "env://")
MANGLED = ("tcp:/", "tcp//", "")

ENDPOINTS = [
    f"{scheme}{who}@{place}"
    for scheme in (*SCHEMES, *MANGLED)
    for who in (f"me:{SECRET}", SECRET, f":{SECRET}", f"me:{SECRET}/{SECRET}", f"me:{SECRET}@{SECRET}")
    for place in ("127.0.0.1:1", "")
] + [
    f"tcp://me:{SECRET}?{SECRET}@127.0.0.1:1",
    f"tcp://me:{SECRET}#{SECRET}@127.0.0.1:1",
    f"tcp://[me:{SECRET}@127.0.0.1:1",
    f"tcp://me:{SECRET}@127.0.0.1:1,you:{SECRET}@127.0.0.1:2",
    f"me:{SECRET}@127.0.0.1:1,you:{SECRET}@127.0.0.1:2",
    f"etcd://me:{SECRET}",
    f"tcp://me:{SECRET}",
    f"rallypoint://me:{SECRET}/run",
    f"file://me:{SECRET}@127.0.0.1",
    f"etcd://127.0.0.1:1?password={SECRET}",
]


@pytest.fixture
def events():
    told = []

    def take(event):
        told.append(repr(event))

    subscribe(take)
    yield told
    unsubscribe(take)


def told_by(call):
    """Give all that a call that fails has to say."""
    try:
        made = call()
    except (DistError, ValueError, RuntimeError, AssertionError, OSError) as error:
        return "\n".join(line for line in _sentences(error))
    return repr(made)


def _sentences(error):
    while error is not None:
        yield from traceback.format_exception_only(error)
        yield repr(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


@pytest.mark.parametrize("backend", ["rallypoint", "etcd", "c10d", "static"])
def test_no_backend_tells_it(backend, events):
    for endpoint in ENDPOINTS:
        options = {"rank": 1, "timeout": 0.05} if backend == "static" else {"read_timeout": 0.05}
        params = RendezvousParameters(backend, endpoint, "run", 2, 2, "node", **options)

        def meet(params=params):
            handler = get_rendezvous_handler(params)
            try:
                handler.next_rendezvous()
            finally:
                handler.shutdown()

        assert SECRET not in told_by(meet), endpoint
    assert SECRET not in "\n".join(events)


def test_no_store_tells_it(events):
    for endpoint in ENDPOINTS:
        for call in (
            lambda: open_store(endpoint, 0.05),  # noqa: B023 - called at once
            lambda: LocalGateway(endpoint, relay_limits=RelayLimits(patience_s=0.05)),  # noqa: B023
            lambda: EtcdStore(endpoint, timeout=0.05),  # noqa: B023
            lambda: TCPStore(endpoint, 1, timeout=0.05, wait_for_workers=False),  # noqa: B023
            lambda: next(rendezvous(endpoint, 1, 2, timeout=0.05)),  # noqa: B023
            lambda: next(rendezvous(f"{endpoint}?rank=1", 1, 2, timeout=0.05)),  # noqa: B023
        ):
            assert SECRET not in told_by(call), endpoint
    assert SECRET not in "\n".join(events)


def test_no_url_of_a_group_tells_it():
    torch_url = pytest.importorskip("rallypoint.integrations.torch_url")
    environ = {"RANK": "0", "WORLD_SIZE": "1", "TORCHELASTIC_RUN_ID": "run"}
    for endpoint in ENDPOINTS:
        for url in (endpoint, f"rallypoint+{endpoint}", f"{endpoint}?serve=2"):
            assert SECRET not in told_by(lambda: torch_url.parse_place(url, environ)), url  # noqa: B023


def test_no_command_tells_it():
    for endpoint in ENDPOINTS:
        for command in (
            ["status", "--timeout-s", "0.05", endpoint],
            ["relay", "--port", "0", "--patience-s", "0.05", endpoint, ":"],
            ["gateway", "--port", "0", "--patience-s", "0.05", "--store", endpoint],
            [
                "run",
                "--nnodes",
                "2",
                "--rdzv-endpoint",
                endpoint,
                "--node-rank",
                "1",
                "--rdzv-conf",
                "timeout=1x",
                "/dev/null",
            ],
        ):
            result = CliRunner().invoke(main, command)
            said = result.output + "".join(_sentences(result.exception))
            assert SECRET not in said, command
            assert result.exit_code not in (None, 0), command


def test_no_configuration_shows_it():
    config = LaunchConfig(1, 1, 1, rdzv_endpoint=f"etcd://me:{SECRET}@h", rdzv_configs={"password": SECRET})
    assert SECRET not in repr(config)
