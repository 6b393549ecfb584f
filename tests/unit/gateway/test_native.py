from __future__ import annotations

import os
import socket
import struct
import threading
from functools import partial

import pytest
from tests.support.fronts import running_front
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, RawClient, running_loop

from rallypoint.clock import Deadline
from rallypoint.errors import DistStoreError
from rallypoint.gateway import relay as relay_module
from rallypoint.gateway.front import FrontOptions
from rallypoint.gateway.native import NativeRelay
from rallypoint.gateway.relay import Relay, make_relay
from rallypoint.gateway.spaces import KeySpace
from rallypoint.net.address import listen
from rallypoint.net.retry import Backoff
from rallypoint.protocol.spec import Verb
from rallypoint.store.reach import Reacher
from rallypoint.testing.clock import ManualClock
from rallypoint.types import Endpoint

pytestmark = pytest.mark.skipif("native" not in LOOP_TWINS, reason="the native twin was not built")

QUICK = Backoff(0.001, 1.0, 0.001, 0.0)


@pytest.fixture
def server():
    with running_loop() as running:
        yield running


def reach(server):
    return lambda session_id, _: Reacher([Endpoint(*server.address)])(session_id, Deadline(PATIENCE_S))


def running(server, **options):
    return running_front(partial(NativeRelay, reach(server), backoff=QUICK), **options)


def kind_of(relay):
    """Give the kind of a relay that never runs; it is closed."""
    if isinstance(relay, Relay):
        relay.loop.abandon()
    return type(relay)


@pytest.mark.parametrize(
    ("options", "is_secured", "kind"),
    [
        (FrontOptions(), False, NativeRelay),
        (FrontOptions(), True, Relay),
        (FrontOptions(space=KeySpace("rounds/7")), False, NativeRelay),
        (FrontOptions(space=KeySpace()), False, Relay),
        (FrontOptions(clock=ManualClock()), False, Relay),
    ],
)
def test_the_compiled_relay_serves_what_it_can(server, options, is_secured, kind):
    assert kind_of(make_relay(reach(server), listen("127.0.0.1", 0), options, is_secured=is_secured)) is kind


def test_without_the_compiled_twin_the_python_one_serves(server, monkeypatch):
    monkeypatch.setattr(relay_module, "native", lambda: None)
    assert kind_of(make_relay(reach(server), listen("127.0.0.1", 0), is_secured=False)) is Relay


def test_it_is_not_made_without_the_compiled_twin(server, monkeypatch):
    monkeypatch.setattr("rallypoint.gateway.native.native", lambda: None)
    with pytest.raises(AssertionError):
        NativeRelay(reach(server), [])


def test_there_are_no_numbers_of_one_that_has_ended(server):
    with running(server) as relay:
        assert relay.client().ping()
        relay.stop()
        with pytest.raises(DistStoreError, match="ended"):
            relay.front.statistics()


def test_what_was_read_ahead_is_not_lost(server):
    def read_ahead(session_id, _):
        link = reach(server)(session_id, Deadline(PATIENCE_S))
        link.stream._data, link.stream._start = struct.pack("<IBQ", 9, 5, 0)[:6], 0  # the head of a frame, half of it
        return link

    with running_front(partial(NativeRelay, read_ahead, backoff=QUICK)) as relay:
        relay.client().ask(Verb.GETNUMKEYS)
        relay.wait_for_line("is lost: ")


def test_its_socket_file_goes_with_it(server, tmp_path):
    path = tmp_path / "relay.sock"
    relay = NativeRelay(reach(server), listen(f"unix:{path}", 0), FrontOptions(log=lambda _: None), backoff=QUICK)
    thread = threading.Thread(target=relay.run)
    thread.start()
    client = RawClient(str(path))
    assert client.ping()
    client.close()
    relay.stop(0.0)
    thread.join(PATIENCE_S)
    assert not path.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_holds_no_connection_of_a_relay(server):
    with running(server) as relay:
        client = relay.client()
        assert client.ping()
        ours, others = socket.socketpair()
        child = os.fork()
        if child == 0:
            ours.close()
            others.recv(1)  # until the parent is done, however
            os._exit(0)
        try:
            relay.front.stop(0.0)
            assert client.read_end() == b""
        finally:
            ours.close()
            others.close()
            assert os.waitpid(child, 0)[1] == 0
