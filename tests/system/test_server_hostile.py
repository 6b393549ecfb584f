"""Peers that misbehave hurt themselves only."""

from __future__ import annotations

import resource
import signal
import socket
import struct
import subprocess
import sys
import time

import psutil
import pytest
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, VALIDATE, RawClient, use_twin
from tests.support.served import served

from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.session.codec import encode_closing
from rallypoint.protocol.session.spec import OPENING
from rallypoint.protocol.spec import CloseReason, Verb

FILES_MAX = 64


@pytest.fixture(params=LOOP_TWINS, autouse=True)
def twin(request, monkeypatch):
    return use_twin(request.param, monkeypatch)


@pytest.fixture
def server():
    with served("--port", "0") as (process, ready):
        yield process, (ready["host"], ready["port"])


@pytest.fixture
def clients():
    opened = []
    yield opened
    for client in opened:
        client.close()


def few_files():
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES_MAX, FILES_MAX))


def test_running_out_of_descriptors_is_survived(clients):
    with served("--port", "0", before=few_files) as (process, ready):
        address = (ready["host"], ready["port"])
        old = RawClient(address)
        clients.append(old)
        old.ask(Verb.SET, b"/k", b"v")
        refused = 0
        for _ in range(4 * FILES_MAX):
            client = RawClient(address)
            clients.append(client)
            refused += not can_ping(client)
            assert old.get(b"/k") == b"v"
        assert refused > 2 * FILES_MAX
        for client in clients[1:]:
            client.close()
        again = RawClient(address)
        clients.append(again)
        while not can_ping(again):  # the server may not have seen the ends of all the others yet
            again.close()
            again = RawClient(address)
            clients.append(again)
        assert again.get(b"/k") == b"v"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
        assert f"no file descriptor is left (limit {FILES_MAX})" in process.stderr.read()


def test_silent_connections_do_not_use_up_the_descriptors(clients):
    with served("--port", "0", before=few_files) as (_, ready):
        address = (ready["host"], ready["port"])
        silent = [RawClient(address, validates=False) for _ in range(FILES_MAX // 2 + 10)]
        clients.extend(silent)
        for client in silent[:10]:
            assert client.read_end() == b""
        newcomer = RawClient(address)
        clients.append(newcomer)
        assert newcomer.ping()


def can_ping(client):
    try:
        return client.ping()
    except (OSError, AssertionError):
        return False


@pytest.mark.parametrize(
    "greeting",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-scanner\r\n",
        b"\x00\x00\x00\x00\x00",
        b"\x80\x04\x95",
    ],
)
def test_a_scanner_is_closed_at_once_and_the_log_says_why(server, clients, greeting):
    process, address = server
    scanner = RawClient(address, validates=False)
    clients.append(scanner)
    scanner.send(greeting)
    assert scanner.read_end() == b""
    other = RawClient(address)
    clients.append(other)
    assert other.ping()
    process.terminate()
    _, said = process.communicate(timeout=PATIENCE_S)
    (line,) = said.splitlines()
    assert f"closed 127.0.0.1:{scanner.sock.getsockname()[1]}: " in line


def test_half_requests_of_many_peers_leave_no_trace(server, clients):
    process, address = server
    whole = encode_request(Verb.MULTI_SET, [(b"/a", b"1"), (b"/b", b"2" * 1000)])
    for cut in range(1, len(whole), 7):
        client = RawClient(address)
        clients.append(client)
        client.send(whole[:cut])
    other = RawClient(address)
    clients.append(other)
    other.ask(Verb.GETNUMKEYS)
    assert other.read(8) == struct.pack("<q", 0)
    for client in clients[:-1]:
        client.close()
    other.ask(Verb.GETNUMKEYS)
    assert other.read(8) == struct.pack("<q", 0)
    assert process.poll() is None


def test_replies_that_nobody_reads_do_not_fill_the_memory(server, clients):
    process, address = server
    other = RawClient(address)
    clients.append(other)
    other.ask(Verb.SET, b"/big", bytes(8 * 1024 * 1024))
    assert other.ping()
    memory = psutil.Process(process.pid).memory_info
    before = memory().rss
    requests = encode_request(Verb.MULTI_GET, [b"/big"] * 20) + encode_request(Verb.PING, 1) * 100_000
    for _ in range(10):
        greedy = RawClient(address)
        clients.append(greedy)
        greedy.sock.setblocking(False)
        greedy.sock.send(requests)
    for _ in range(20):
        assert other.ping()
    assert memory().rss - before < 100 * 1024 * 1024


def test_a_stopped_client_hurts_nobody(server, clients):
    _, address = server
    script = (
        "import socket, sys\n"
        f"sock = socket.create_connection({address!r})\n"
        f"sock.sendall(bytes.fromhex({(VALIDATE + encode_request(Verb.WAIT, [b'/go'])).hex()!r}))\n"
        "print('waiting', flush=True)\n"
        "sock.recv(1)\n"
    )
    stopped = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    with stopped:
        stopped.stdout.readline()
        stopped.send_signal(signal.SIGSTOP)
        other = RawClient(address)
        clients.append(other)
        other.ask(Verb.SET, b"/go", b"")
        assert other.get(b"/go") == b""
        assert other.ping()
        stopped.send_signal(signal.SIGCONT)
        assert stopped.wait(PATIENCE_S) == 0


def test_many_connections_are_served_together(server, clients):
    _, address = server
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(1000, soft - 100)
    clients.extend(RawClient(address) for _ in range(count))
    for client in clients:
        client.ask(Verb.WAIT, [b"/go"])
    for client in clients:
        assert client.ping()
    clients[0].ask(Verb.SET, b"/go", b"")
    for client in clients:
        assert client.read(1) == b"\x00"


def test_a_flood_of_tiny_requests_leaves_the_others_their_turn(server, clients):
    _, address = server
    flooder, other = RawClient(address), RawClient(address)
    clients += [flooder, other]
    flood = encode_request(Verb.CHECK, [b"/k"]) * 50_000
    flooder.sock.setblocking(False)
    slowest = 0.0
    for _ in range(100):
        try:
            flooder.sock.send(flood)
            flooder.sock.recv(1 << 20)
        except BlockingIOError:
            pass
        begun = time.monotonic()
        assert other.ping()
        slowest = max(slowest, time.monotonic() - begun)
    assert slowest < 10.0


def test_connecting_and_leaving_many_times_leaks_nothing(server):
    process, address = server
    peer = psutil.Process(process.pid)
    client = RawClient(address)
    assert client.ping()
    before = peer.num_fds()
    for number in range(300):
        visitor = RawClient(address, validates=number % 2 == 0)
        if number % 3 == 0:
            visitor.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        visitor.close()
    while peer.num_fds() > before:
        assert client.ping()
    client.close()


def test_half_open_handshakes_keep_no_newcomer_out(clients):
    with served("--port", "0", "--limit", "handshakes_max=200") as (process, ready):
        address = (ready["host"], ready["port"])
        old = RawClient(address)
        clients.append(old)
        assert old.ping()
        memory = psutil.Process(process.pid).memory_info
        before = memory().rss
        silent = [RawClient(address, validates=False) for _ in range(700)]
        clients.extend(silent)
        for _ in range(20):
            newcomer = RawClient(address)
            clients.append(newcomer)
            assert newcomer.ping()
        assert old.ping()
        for client in silent[:400]:
            assert client.read_end() == b""
        assert memory().rss - before < 10 * 1024 * 1024


def test_a_full_server_takes_newcomers_for_connections_that_say_nothing(clients):
    with served("--port", "0", "--limit", "connections_max=50") as (_, ready):
        address = (ready["host"], ready["port"])
        silent = [RawClient(address, validates=False) for _ in range(60)]
        clients.extend(silent)
        for _ in range(50):
            newcomer = RawClient(address)
            clients.append(newcomer)
            assert newcomer.ping()
        for client in silent:
            assert client.read_end() == b""
        late = RawClient(address)
        clients.append(late)
        assert not can_ping(late)
        assert all(client.ping() for client in clients[60:110])


def test_one_address_cannot_take_all_places(clients):
    with served("--port", "0", "--limit", "connections_per_address_max=20") as (process, ready):
        address = (ready["host"], ready["port"])
        for _ in range(20):
            client = RawClient(address)
            clients.append(client)
            assert client.ping()
        session = RawClient(address, validates=False)
        clients.append(session)
        session.send(OPENING)
        detail = "20 peers from 127.0.0.1 are connected, the limit for one address is 20"
        assert session.read_end() == encode_closing(CloseReason.TOO_MANY_FROM_ADDRESS, detail)
        for _ in range(100):
            refused = RawClient(address)
            clients.append(refused)
            assert not can_ping(refused)
        other = socket.create_connection(address, PATIENCE_S, source_address=("127.0.0.2", 0))
        with other:
            other.sendall(VALIDATE + encode_request(Verb.PING, 7))
            assert other.recv(4) == struct.pack("<I", 7)
        assert all(client.ping() for client in clients[:20])
        process.terminate()
        assert detail in process.communicate(timeout=PATIENCE_S)[1]


def test_unread_replies_of_all_peers_together_are_bounded(clients):
    size = 4 * 1024 * 1024
    with served("--port", "0", "--drain-s", "0", "--limit", "output_total_max=32M") as (process, ready):
        address = (ready["host"], ready["port"])
        other = RawClient(address)
        clients.append(other)
        memory = psutil.Process(process.pid).memory_info
        before = memory().rss
        for number in range(30):  # each leaves a value unread that nobody else knows any more
            other.ask(Verb.SET, b"/big", bytes(size))
            assert other.ping()
            greedy = RawClient(address)
            clients.append(greedy)
            greedy.ask(Verb.MULTI_GET, [b"/big"] * 2)
            greedy.read(16)
            other.ask(Verb.SET, b"/big", b"")
            assert other.ping()
            assert memory().rss - before < 80 * 1024 * 1024, f"after {number + 1} peers"
        assert other.ping()
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE_S)
        assert said.count(f"the limit is {32 * 1024 * 1024}") >= 10


def test_keys_without_end_are_refused_and_the_stored_ones_stay(clients):
    with served("--port", "0", "--limit", "keys_max=100") as (_, ready):
        address = (ready["host"], ready["port"])
        other = RawClient(address)
        clients.append(other)
        other.ask(Verb.MULTI_SET, [(b"/%d" % number, b"v") for number in range(100)])
        for number in range(50):
            filler = RawClient(address)
            clients.append(filler)
            filler.ask(Verb.SET, b"/more/%d" % number, b"v")
            assert not can_ping(filler)
        other.ask(Verb.GETNUMKEYS)
        assert other.read(8) == struct.pack("<q", 100)
        assert other.get(b"/7") == b"v"
