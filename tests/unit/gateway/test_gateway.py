from __future__ import annotations

import contextlib
import struct
from functools import partial

import pytest
from tests.support.fronts import running_front
from tests.support.losing_store import LosingStore
from tests.support.raw_server import PATIENCE_S

from rallypoint.gateway import gateway as module
from rallypoint.gateway.front import FrontOptions
from rallypoint.gateway.gateway import Gateway
from rallypoint.gateway.spaces import KeySpace
from rallypoint.gateway.vocabulary import RelayLimits
from rallypoint.net.address import listen
from rallypoint.protocol.spec import KEY_SIZE_MAX, Verb
from rallypoint.server.limits import Limits
from rallypoint.store.hash import HashStore


@contextlib.contextmanager
def running_gateway(store=None, **options):
    store = HashStore() if store is None else store
    with running_front(partial(Gateway, store), **options) as running:
        running.store = store
        yield running


@pytest.fixture
def gateway():
    with running_gateway() as running:
        yield running


def test_local_peers_use_the_stores_keys(gateway):
    first, second = gateway.client(), gateway.client()
    first.ask(Verb.SET, b"/k", b"value")
    assert first.ping()
    assert second.get(b"/k") == b"value"
    assert gateway.store.get("k") == b"value"
    second.ask(Verb.ADD, b"init/", 1)
    assert second.read(8) == struct.pack("<q", 1)
    assert not gateway.store.check(["init/"])


def test_a_wait_is_released_by_a_peer_and_by_anybody(gateway):
    waiter, other = gateway.client(), gateway.client()
    waiter.ask(Verb.WAIT, [b"/k"])
    assert waiter.ping()
    other.ask(Verb.SET, b"/k", b"")
    assert waiter.read(1) == b"\0"
    waiter.ask(Verb.WAIT, [b"/l"])
    gateway.store.set("l", "")
    assert waiter.read(1) == b"\0"


def test_a_wait_is_cancelled(gateway):
    waiter = gateway.client()
    waiter.ask(Verb.WAIT, [b"/k"])
    waiter.ask(Verb.CANCEL_WAIT)
    assert waiter.read(1) == b"\1"
    gateway.store.set("k", "")
    assert waiter.get(b"/k") == b""


def test_two_key_spaces_of_one_store_do_not_see_each_other():
    store = HashStore()
    with (
        running_gateway(store, space=KeySpace("rounds/6")) as six,
        running_gateway(store, space=KeySpace("rounds/7")) as seven,
    ):
        first, second = six.client(), seven.client()
        first.ask(Verb.SET, b"/k", b"value")
        assert first.get(b"/k") == b"value"
        assert second.get(b"/k") == b""
        second.ask(Verb.GETNUMKEYS)
        assert second.read(8) == bytes(8)
        assert store.get("rounds/6/k") == b"value"


def test_a_refusal_of_the_store_closes_the_peer_that_asked(gateway):
    client, other = gateway.client(), gateway.client()
    client.ask(Verb.SET, b"/k", b"no number")
    client.ask(Verb.ADD, b"/k", 1)
    assert client.read_end() == b""
    gateway.wait_for_line("no number")
    assert other.ping()


def test_the_longest_key_of_c10d_fits(gateway):
    client, key = gateway.client(), b"/" + b"k" * (KEY_SIZE_MAX - 1)
    client.ask(Verb.SET, key, b"value")
    assert client.get(key) == b"value"


def test_peers_of_a_store_that_is_lost_are_closed_when_patience_ends():
    store = LosingStore()
    with running_gateway(store, relay_limits=RelayLimits(patience_s=0.05)) as gateway:
        client, waiter = gateway.client(), gateway.client()
        waiter.ask(Verb.WAIT, [b"/k"])
        assert waiter.ping()
        store.lose()
        client.ask(Verb.GET, b"/k")
        assert client.read_end() == b""
        gateway.wait_for_line("the store could not be reached for 0.")
        store.find()
        store.set("k", "")
        assert waiter.read(1) == b"\0"


def test_a_peer_that_goes_leaves_no_wait_behind(gateway):
    client, other = gateway.client(), gateway.client()
    client.ask(Verb.WAIT, [b"/k"])
    assert client.ping()
    client.close()
    while gateway.front.statistics(PATIENCE_S).unanswered:
        assert other.ping()


def test_names_that_are_waited_for_are_bounded():
    with running_gateway(limits=Limits(waited_names_max=2)) as gateway:
        client, other = gateway.client(), gateway.client()
        client.ask(Verb.WAIT, [b"/a", b"/b", b"/c"])
        assert client.read_end() == b""
        gateway.wait_for_line("all peers would wait for 3 names, the limit is 2")
        assert other.ping()


def test_one_in_the_foreground_closes_its_store(monkeypatch):
    ran = []
    monkeypatch.setattr(module, "run_until_signalled", lambda gateway, on_ready: ran.append(gateway) or 7)
    listeners = listen("127.0.0.1", 0)
    assert module.serve(HashStore(), listeners, FrontOptions(space=KeySpace("s"))) == 7
    assert ran[0]._side._closes_store
    ran[0].loop.abandon()
    for listener in listeners:
        listener.close()
