"""``rallypoint serve --data-dir`` under ``kill -9``: what was acknowledged is there, and nothing counts twice.

``RALLYPOINT_KILL_ROUNDS`` sets how often the server is killed.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest
from tests.support.launcher import until
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, VALIDATE, RawClient, use_twin
from tests.support.raw_session import RawSession
from tests.support.served import free_port, served

from rallypoint import TCPStore
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.protocol.spec import Verb

ROUNDS = int(os.environ.get("RALLYPOINT_KILL_ROUNDS", "6"))
CLIENTS = 16


@pytest.fixture(params=LOOP_TWINS, autouse=True)
def each_twin(request, monkeypatch):
    return use_twin(request.param, monkeypatch)


def start(tmp_path, port=0, **keywords):
    return served("--port", str(port), "--data-dir", str(tmp_path / "data"), **keywords)


def address_of(ready):
    return ready["host"], ready["port"]


class Worker(threading.Thread):
    """One client that adds, sets and swaps until it is told to end, and counts what was acknowledged."""

    def __init__(self, number, address, is_over):
        super().__init__(name=f"client {number}")
        self.number = number
        self.address = address
        self.is_over = is_over
        self.added = self.swapped = self.pushed = self.writes = 0
        self.last = b""
        self.error = None

    def run(self):
        try:
            session = RawSession(self.address)
            try:
                while not self.is_over.is_set():
                    self.work(session)
            finally:
                session.close()
        except BaseException as error:
            self.error = error
            raise

    def work(self, session):
        self.writes += 1
        self.last = b"%d" % self.writes
        mine = b"/mine/%d" % self.number
        adds = [(SessionVerb.ADD, (b"/sum", 1)), (SessionVerb.ADD, (mine, 1))]
        (_,), (own,), _, _ = session.pipeline(
            [*adds, (SessionVerb.SET, (mine + b"/last", self.last)), (SessionVerb.QUEUE_PUSH, (b"queue", self.last))]
        )
        self.added += 1
        self.pushed += 1
        assert own == self.added, f"add gave {own}, {self.added} were asked for"
        (now,) = session.call(SessionVerb.COMPARE_SET, b"/swapped", b"none", b"none")
        count = 0 if now == b"none" else int(now.split()[0])
        wanted = b"%d by %d at %d" % (count + 1, self.number, self.writes)
        (after,) = session.call(SessionVerb.COMPARE_SET, b"/swapped", b"" if now == b"none" else now, wanted)
        self.swapped += after == wanted


class PlainWorker(threading.Thread):
    """A c10d client: it does not know whether what it asked last was applied when its connection breaks."""

    def __init__(self, address, is_over):
        super().__init__(name="c10d client")
        self.address = address
        self.is_over = is_over
        self.added = self.unknown = 0

    def run(self):
        while not self.is_over.is_set():
            try:
                client = RawClient(self.address, validates=False)
            except ConnectionError:
                time.sleep(0.02)
                continue
            try:
                client.send(VALIDATE)
                while not self.is_over.is_set():
                    client.ask(Verb.ADD, b"/plain", 1)
                    client.sock.settimeout(PATIENCE_S)
                    if len(client.sock.recv(8)) < 8:
                        raise ConnectionResetError
                    self.added += 1
            except ConnectionError:
                self.unknown += 1
            finally:
                client.close()


def check(address, workers, plain):
    session = RawSession(address)
    assert [worker.error for worker in workers] == [None] * len(workers)
    assert session.call(SessionVerb.GET, b"/sum") == (b"%d" % sum(worker.added for worker in workers),)
    for worker in workers:
        assert session.call(SessionVerb.GET, b"/mine/%d" % worker.number) == (b"%d" % worker.added,)
        assert session.call(SessionVerb.GET, b"/mine/%d/last" % worker.number) == (worker.last,)
    (swapped,) = session.call(SessionVerb.GET, b"/swapped")
    assert int(swapped.split()[0]) == sum(worker.swapped for worker in workers)
    assert session.call(SessionVerb.QUEUE_LEN, b"queue") == (sum(worker.pushed for worker in workers),)
    (added,) = session.call(SessionVerb.GET, b"/plain")
    assert plain.added <= int(added) <= plain.added + plain.unknown
    session.close()


@pytest.mark.timeout(60 + 10 * ROUNDS)
def test_no_acknowledged_write_is_lost_and_no_add_counts_twice_over_kill_9(tmp_path):
    chance = random.Random(ROUNDS)
    is_over = threading.Event()
    port = free_port()
    with start(tmp_path, port) as (process, ready):
        address = address_of(ready)
        workers = [Worker(number, address, is_over) for number in range(CLIENTS)]
        plain = PlainWorker(address, is_over)
        for thread in (*workers, plain):
            thread.start()
        time.sleep(0.5)
        process.send_signal(signal.SIGKILL)
    try:
        for _ in range(1, ROUNDS):
            with start(tmp_path, port) as (process, _):
                time.sleep(chance.uniform(0.05, 0.8))
                process.send_signal(signal.SIGKILL)
        with start(tmp_path, port) as (process, _):
            before = [worker.writes for worker in workers]
            until(
                "every client writes again",
                lambda: all(worker.writes > some for worker, some in zip(workers, before, strict=True)),
            )
            is_over.set()
            for thread in (*workers, plain):
                thread.join(PATIENCE_S)
                assert not thread.is_alive()
            check(address, workers, plain)
            process.terminate()
            assert process.wait(PATIENCE_S) == 0
            assert process.stderr.read() == ""
    finally:
        is_over.set()
    writes = sum(worker.writes for worker in workers)
    print(f"{ROUNDS} kills, {writes} rounds of writes by {CLIENTS} clients, {plain.added} adds by c10d")  # noqa: T201
    assert writes > CLIENTS * ROUNDS


def test_all_that_was_there_is_there_again_after_a_clean_end(tmp_path):
    port = free_port()
    with start(tmp_path, port) as (process, ready):
        session = RawSession(address_of(ready))
        (lease,) = session.call(SessionVerb.LEASE_GRANT, 60_000)
        (_, revision) = session.call(SessionVerb.SWAP, b"/leased", -1, b"v", lease)
        session.call(SessionVerb.QUEUE_PUSH, b"q", b"1")
        session.call(SessionVerb.QUEUE_PUSH, b"q", b"2")
        plain = RawClient(address_of(ready))
        plain.ask(Verb.APPEND, b"/log", b"line 1.")
        plain.ask(Verb.APPEND, b"/log", b"line 2.")
        assert plain.ping()
        plain.close()
        process.terminate()
        assert process.wait(PATIENCE_S) == 0
    data, life = session.data_id, session.life_id
    with start(tmp_path, port):
        assert session.call(SessionVerb.READ, b"/leased") == (revision, b"v")
        assert session.losses == 1
        assert session.data_id == data
        assert session.life_id != life
        assert session.call(SessionVerb.GET, b"/log") == (b"line 1.line 2.",)
        assert session.call(SessionVerb.QUEUE_POP, b"q") == (b"1",)
        assert session.call(SessionVerb.LEASE_GRANT, 60_000) == (lease + 1,)
        assert session.call(SessionVerb.LEASE_REVOKE, lease) == (1,)
        assert session.call(SessionVerb.READ, b"/leased")[0] == 0
        session.close()


def test_members_that_wait_meet_on_the_next_server(tmp_path):
    port = free_port()
    with start(tmp_path, port) as (process, ready):
        sessions = [RawSession(address_of(ready)) for _ in range(2)]
        met = {}

        def meet(rank):
            met[rank] = sessions[rank].call(SessionVerb.EXCHANGE, b"g", rank, 2, b"", b"value of %d" % rank)

        def start_to_meet(rank):
            thread = threading.Thread(target=meet, args=(rank,))
            thread.start()
            return thread

        for thread in [start_to_meet(0), start_to_meet(1)]:
            thread.join(PATIENCE_S)
        early = start_to_meet(0)
        time.sleep(0.2)
        process.kill()
    with start(tmp_path, port):
        late = start_to_meet(1)
        for thread in (early, late):
            thread.join(PATIENCE_S)
        assert met == dict.fromkeys(range(2), (2, [b"value of 0", b"value of 1"]))
        for session in sessions:
            session.close()


@pytest.mark.parametrize("each_twin", LOOP_TWINS[:1], indirect=True)
def test_a_session_that_does_not_come_back_ends_with_its_leases(tmp_path, monkeypatch):
    others = []
    with contextlib.ExitStack() as stack:
        for twin in LOOP_TWINS:  # all of them at once, for each waits for the time that a restart grants
            use_twin(twin, monkeypatch)
            (tmp_path / twin).mkdir()
            with start(tmp_path / twin) as (process, ready):
                session = RawSession(address_of(ready), timeout_ms=300)
                (lease,) = session.call(SessionVerb.LEASE_GRANT, 0)
                session.call(SessionVerb.SWAP, b"/leased", -1, b"v", lease)
                process.kill()
            session.close()
            _, ready = stack.enter_context(start(tmp_path / twin))
            others.append(stack.enter_context(contextlib.closing(RawSession(address_of(ready)))))
        for other in others:
            assert other.call(SessionVerb.READ, b"/leased")[0]
        for other in others:
            until("the lease has ended", lambda other=other: other.call(SessionVerb.READ, b"/leased")[0] == 0)


def test_the_files_are_the_owners_alone_and_one_server_at_a_time_has_them(tmp_path):
    with start(tmp_path, before=lambda: os.umask(0)) as (process, ready):
        session = RawSession(address_of(ready))
        session.call(SessionVerb.SET, b"/k", b"v")
        session.close()
        files = list((tmp_path / "data").iterdir())
        assert {file.name for file in files} == {"lock", "store.db", "store.db-wal"}
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        command = [sys.executable, "-m", "rallypoint", "serve", "--port", "0", "--data-dir", str(tmp_path / "data")]
        second = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert (second.returncode, second.stdout) == (1, "")
        assert second.stderr.startswith(f"Error: {tmp_path}/data is in use by process {process.pid}: ")


def test_a_full_disk_ends_the_server_and_answers_nothing_that_is_not_on_it(tmp_path):
    def allow_little():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))

    port = free_port()
    with start(tmp_path, port, before=allow_little) as (process, ready):
        session = RawSession(address_of(ready))
        writer = threading.Thread(target=lambda: [session.call(SessionVerb.ADD, b"/n", 1), *fill(session)])
        writer.start()
        assert process.wait(PATIENCE_S) == 1
        assert "changes could not be committed to" in (said := process.stderr.read())
        assert "the server ends; make sure that the disk has room" in said
    with start(tmp_path, port):
        writer.join(PATIENCE_S)
        assert session.losses == 1
        assert session.call(SessionVerb.GET, b"/n") == (b"41",)
        for number in range(40):
            assert session.call(SessionVerb.GET, b"/big/%d" % number) == (bytes(100_000),)
        session.close()


def fill(session):
    return [
        session.pipeline([(SessionVerb.SET, (b"/big/%d" % number, bytes(100_000))), (SessionVerb.ADD, (b"/n", 1))])
        for number in range(40)
    ]


def test_stores_go_on_over_kill_9_and_every_add_counts_once(tmp_path):
    port = free_port()
    is_over = threading.Event()
    counts = {}

    def count(number):
        store = TCPStore(
            "127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=PATIENCE_S, dialect="session"
        )
        added = 0
        while not is_over.is_set():
            store.add("sum", 1)
            added += 1
            store.set(f"last/{number}", str(added))
        counts[number] = added

    threads = [threading.Thread(target=count, args=(number,)) for number in range(4)]
    for turn in range(3):
        with start(tmp_path, port) as (process, _):
            if not turn:
                for thread in threads:
                    thread.start()
            time.sleep(0.4)
            process.kill()
    with start(tmp_path, port):
        time.sleep(0.2)
        is_over.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        session = RawSession(("127.0.0.1", port))
        assert session.call(SessionVerb.GET, b"/sum") == (b"%d" % sum(counts.values()),)
        for number, added in counts.items():
            assert session.call(SessionVerb.GET, b"/last/%d" % number) == (b"%d" % added,)
        assert len(counts) == len(threads)
        session.close()
