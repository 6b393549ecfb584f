"""Clients of the session dialect over connections that break anywhere, and over a server that stands still.

``RALLYPOINT_CHAOS_ROUNDS`` sets how often each client does its round of calls.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.support import launcher
from tests.support.cutting_proxy import CuttingProxy
from tests.support.raw_server import LOOP_TWINS, use_twin
from tests.support.served import served
from tests.support.stores import HOST, JOIN_S, making_stores

from rallypoint.errors import DistNetworkError, ReplyTimeoutError, UnreachableError

ROUNDS = int(os.environ.get("RALLYPOINT_CHAOS_ROUNDS", "15"))
CLIENTS = 16
IMPATIENCE_S = 0.3
STOPPED_S = 3.5  # more than that, and than what clients grant an answer that is owed
SERVERS = (*LOOP_TWINS, "durable", "guarded")
TOKEN = "0123456789abcdef"


@pytest.fixture(params=SERVERS)
def server(request, monkeypatch, tmp_path):
    kind = request.param
    use_twin(kind if kind in LOOP_TWINS else "python", monkeypatch)
    arguments = ["--data-dir", str(tmp_path / "data")] if kind == "durable" else []
    if kind == "guarded":
        monkeypatch.setenv("RALLYPOINT_TOKEN", TOKEN)
        arguments = ["--allow-plain", HOST]  # so that it would take the wrong turn of a client, too
    with served("--port", "0", *arguments) as (process, ready):
        yield process, ready["port"]


@pytest.fixture
def make():
    with making_stores() as make:
        yield lambda port, **options: make(HOST, port, dialect="session", is_master=False, **options)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(CLIENTS) as executor:
        yield executor


class Client:
    """What one client has been told of its writes; ``unknown`` are those whose call has failed."""

    def __init__(self, number, store):
        self.number = number
        self.store = store
        self.added = self.swapped = self.pushed = self.unknown = 0
        self.errors = []

    def work(self, rounds):
        for step in range(rounds):
            mine = f"mine/{self.number}"
            self.store.add("sum", 1)
            self.added += 1
            assert self.store.add(mine, 1) == self.added
            self.store.set(f"{mine}/last", b"%d" % step)
            assert self.store.get(f"{mine}/last") == b"%d" % step
            self.store.queue_push("queue", b"%d" % step)
            self.pushed += 1
            self.swap(step)

    def swap(self, step):
        now = self.store.compare_set("swapped", b"", b"0 by nobody")
        wanted = b"%d by %d at %d" % (int(now.split()[0]) + 1, self.number, step)
        self.swapped += self.store.compare_set("swapped", now, wanted) == wanted

    def add_impatiently(self, until):
        while time.monotonic() < until():
            try:
                self.store.add("sum", 1)
                self.added += 1
            except DistNetworkError as error:
                self.unknown += 1
                self.errors.append(error)
            time.sleep(0.002)


def check(store, clients):
    assert store.add("sum", 0) == sum(client.added for client in clients)
    for client in clients:
        assert store.add(f"mine/{client.number}", 0) == client.added
        assert store.get(f"mine/{client.number}/last") == b"%d" % (client.added - 1)
    assert store.queue_len("queue") == sum(client.pushed for client in clients)
    assert int(store.get("swapped").split()[0]) == sum(client.swapped for client in clients)


@pytest.mark.timeout(60 + 4 * ROUNDS)
@pytest.mark.parametrize("seed", range(2))
def test_every_write_is_applied_once_over_connections_that_break_anywhere(server, make, pool, seed):
    _, port = server
    chance = random.Random(seed)

    def cut(number):
        if number < CLIENTS:  # who is cut off before it has a session may take the server for one that knows none
            return None, chance.randrange(1000, 5000)
        size = chance.choice([60, 400, 4000])
        places = chance.randrange(size), chance.randrange(150, 150 + size)
        return chance.choice([places, (places[0], None), (None, places[1])])

    with CuttingProxy(port, cut) as proxy, contextlib.ExitStack() as stores:
        clients = []
        for number in range(CLIENTS):
            store = stores.enter_context(contextlib.closing(make(proxy.port)))
            clients.append(Client(number, store))
        working = [pool.submit(client.work, ROUNDS) for client in clients]
        for future in working:
            future.result(JOIN_S + ROUNDS)
        check(make(port), clients)
        assert proxy.connections > CLIENTS
        print(f"{CLIENTS * ROUNDS * 7} calls over {proxy.connections} connections")  # noqa: T201


def test_calls_fail_while_the_server_stands_still_and_go_on_afterwards(server, make, pool):
    process, port = server
    end = time.monotonic() + JOIN_S

    def until():
        return end

    with CuttingProxy(port, lambda _: (None, None)) as proxy, contextlib.ExitStack() as stores:
        clients = []
        for number in range(CLIENTS):
            is_cut_off, is_patient = number % 4 == 0, number % 4 == 1
            store = make(proxy.port if is_cut_off else port, timeout=JOIN_S if is_patient else IMPATIENCE_S)
            clients.append(Client(number, stores.enter_context(contextlib.closing(store))))
        working = [pool.submit(client.add_impatiently, until) for client in clients]
        time.sleep(0.2)
        process.send_signal(signal.SIGSTOP)
        try:
            proxy.cut_all()
            time.sleep(STOPPED_S)
        finally:
            process.send_signal(signal.SIGCONT)
        before = [client.added for client in clients]
        launcher.until(
            "every client adds again",
            lambda: all(client.added > some for client, some in zip(clients, before, strict=True)),
        )
        end = time.monotonic()
        for future in working:
            future.result(JOIN_S)
        added, unknown = sum(client.added for client in clients), sum(client.unknown for client in clients)
        assert added <= make(port).add("sum", 0) <= added + unknown
    for client in clients:
        is_cut_off, is_patient = client.number % 4 == 0, client.number % 4 == 1
        assert bool(client.errors) != is_patient
        for error in client.errors:
            assert isinstance(error, UnreachableError if is_cut_off else ReplyTimeoutError), error
            assert error.waited_s >= IMPATIENCE_S
            if is_cut_off:
                assert f"has been unreachable for {error.unreachable_s:.3f} s" in str(error)
