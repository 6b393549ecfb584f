from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections import Counter
from queue import SimpleQueue

import pytest
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, make_twin, running_loop

from rallypoint import events
from rallypoint.net.address import listen, listen_unix
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.session.codec import encode_closing
from rallypoint.protocol.session.codec import encode_request as encode_session
from rallypoint.protocol.session.spec import CLOSING_ID, NONCE_SIZE, OPENING, VERSION, SessionVerb
from rallypoint.protocol.spec import MAGIC, CloseReason, Verb
from rallypoint.server import connections, native
from rallypoint.server import loop as module
from rallypoint.server.connection import Connection
from rallypoint.server.engine import Engine, Limits, Received
from rallypoint.server.loop import ServerLoop
from rallypoint.server.poller import READ, WRITE, PlainPoller
from rallypoint.server.turns import HEAVY_TIMES
from rallypoint.server.vocabulary import Hold, Release
from rallypoint.testing.clock import ManualClock

SOLO = ["native, each alone for a while"] if "native" in LOOP_TWINS else []


@pytest.fixture(params=[*LOOP_TWINS, *SOLO])
def twin(request, monkeypatch):
    if request.param in SOLO:
        monkeypatch.setattr(native, "SOLO_AFTER", 1)
        return "native"
    return request.param


@pytest.fixture(params=[*LOOP_TWINS, *SOLO, "python with plain poll"])
def server(request, monkeypatch):
    twin = request.param
    if twin == "python with plain poll":
        monkeypatch.setattr(module, "make_poller", PlainPoller)
        twin = "python"
    elif twin in SOLO:
        monkeypatch.setattr(native, "SOLO_AFTER", 1)
        twin = "native"
    with running_loop(twin=twin) as running:
        yield running


@pytest.fixture
def python_server():
    with running_loop() as running:
        yield running


def test_requests_are_answered_in_order(server):
    client = server.client()
    client.ask(Verb.SET, b"/k", b"value")
    client.ask(Verb.GET, b"/k")
    client.ask(Verb.ADD, b"/n", 5)
    assert client.read(21) == struct.pack("<Q", 5) + b"value" + struct.pack("<q", 5)


def test_one_clients_set_releases_anothers_wait(server):
    waiter, setter = server.client(), server.client()
    waiter.ask(Verb.WAIT, [b"/k"])
    assert waiter.ping()
    setter.ask(Verb.SET, b"/k", b"")
    assert waiter.read(1) == b"\x00"


def test_many_pipelined_requests_are_all_answered(server):
    client = server.client()
    count = 20_000
    sender = threading.Thread(
        target=client.send, args=(b"".join(encode_request(Verb.PING, number) for number in range(count)),)
    )
    sender.start()
    assert client.read(4 * count) == struct.pack(f"<{count}I", *range(count))
    sender.join()


def test_large_values_go_both_ways(server):
    client = server.client()
    value = os.urandom(8 * 1024 * 1024)
    client.ask(Verb.SET, b"/k", value)
    assert client.get(b"/k") == value


def test_every_listener_is_served(twin, tmp_path):
    path = str(tmp_path / "a.sock")
    listeners = [*listen("localhost", 0), listen_unix(path)]
    with running_loop(listeners=listeners, twin=twin) as running:
        running.client().ask(Verb.SET, b"/k", b"v")
        assert running.clients[0].ping()
        running.address = path
        assert running.client().get(b"/k") == b"v"


def test_a_refused_peer_gets_what_it_is_owed_then_the_end_and_the_log_says_why(server):
    heard = SimpleQueue()
    events.subscribe(heard.put)
    try:
        client = server.client()
        client.send(encode_request(Verb.PING, 1) * 1000 + b"\x63" + bytes(100_000))
        assert client.read_end() == struct.pack("<I", 1) * 1000
        line = server.wait_for_line(lambda line: "the verb byte is 99" in line)
        assert heard.get(timeout=PATIENCE_S).name == "server.refused"
    finally:
        events.unsubscribe(heard.put)
    assert f"closed 127.0.0.1:{client.sock.getsockname()[1]}: " in line
    assert heard.empty()
    assert server.client().ping()


def test_a_refused_peer_that_sent_more_sees_the_end_of_the_stream_and_no_reset(server):
    client = server.client()
    client.send(encode_request(Verb.PING, 1) + b"\x63" + bytes(200_000))
    assert client.read(4) == struct.pack("<I", 1)
    assert client.sock.recv(1) == b""
    client.send(bytes(200_000))
    assert client.sock.recv(1) == b""


def send_for_ever(client):
    while True:
        client.send(b"x")


def test_a_refused_peer_that_does_not_leave_is_closed_all_the_same(twin, monkeypatch):
    monkeypatch.setattr(connections, "LINGER_S", 0.05)
    monkeypatch.setattr(native, "LINGER_S", 0.05)
    with running_loop(twin=twin) as running:
        client = running.client(validates=False)
        client.send(b"\x63")
        assert client.sock.recv(1) == b""
        # Our side is still open; at the latest when the server closed too, what we send is refused.
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_for_ever(client)


def test_a_peer_that_says_nothing_is_closed_at_its_deadline(twin):
    with running_loop(Limits(handshake_timeout_s=0.1), twin=twin) as running:
        validated = running.client()
        assert validated.ping()
        silent = running.client(validates=False)
        assert silent.read_end() == b""
        running.wait_for_line(lambda line: "VALIDATE did not come within 0.1 s" in line)
        assert validated.ping()


def test_connections_over_the_limit_are_refused_and_the_others_live(twin):
    with running_loop(Limits(connections_max=2), twin=twin) as running:
        clients = [running.client() for _ in range(2)]
        assert all(client.ping() for client in clients)
        assert running.client(validates=False).read_end() == b""
        clients[0].close()
        while running.statistics().connections > 1:
            assert clients[1].ping()
        assert running.client().ping()
        running.wait_for_line(lambda line: "the limit is 2" in line)


def test_a_half_closed_peer_still_gets_its_replies(server):
    client = server.client()
    client.ask(Verb.SET, b"/k", bytes(3_000_000))
    for _ in range(4):
        client.ask(Verb.GET, b"/k")
    client.sock.shutdown(socket.SHUT_WR)
    assert len(client.read_end()) == 4 * 3_000_008


@pytest.mark.parametrize("size", [1, 65_535, 65_536, 65_537, 400_000])
def test_what_comes_with_the_end_is_served_and_the_end_noticed(server, size):
    client = server.client()
    set_request = encode_request(Verb.SET, b"/k", bytes(size))
    padding = encode_request(Verb.PING, 7) * (-len(set_request) % 65_536 // 5)  # a read may end with the last byte
    client.send(set_request + padding + encode_request(Verb.CHECK, [b"/k"]))
    client.sock.shutdown(socket.SHUT_WR)
    assert client.read_end().endswith(b"\0")
    assert server.statistics().connections == 0


def test_a_peer_that_vanishes_is_forgotten(server):
    client = server.client()
    client.ask(Verb.WAIT, [b"/k"])
    assert client.ping()
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    other = server.client()
    other.ask(Verb.SET, b"/k", b"v")
    assert other.ping()
    assert server.statistics().waiting == 0


def test_a_peer_that_does_not_read_is_not_read_either_and_hurts_nobody(server):
    greedy, other = server.client(), server.client()
    value = os.urandom(8 * 1024 * 1024)
    other.ask(Verb.SET, b"/big", value)
    assert other.ping()
    request = encode_request(Verb.GET, b"/big")
    greedy.sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        for _ in range(5000):  # until the server has stopped reading, and every buffer on the way is full
            assert other.ping()
            greedy.sock.send(request * 1000)
        raise AssertionError("the server reads without end")
    held = sum(connection.output_size for connection in server.connections())
    assert held < 40 * 1024 * 1024
    greedy.sock.settimeout(PATIENCE_S)
    for _ in range(3):
        assert greedy.read(8) == struct.pack("<Q", len(value))
        assert greedy.read(len(value)) == value
    assert other.ping()


def test_too_much_that_nobody_reads_costs_the_one_that_holds_the_most(twin):
    size = 8 * 1024 * 1024
    with running_loop(Limits(output_total_max=5 * size), twin=twin) as running:
        greedy, sharing, other = running.client(), [running.client() for _ in range(8)], running.client()
        for number in range(10):  # values of its own, and one that the others share
            other.ask(Verb.SET, b"/%d" % number, bytes(size))
        assert other.ping()
        for client in sharing:
            client.ask(Verb.GET, b"/0")
        greedy.ask(Verb.MULTI_GET, [b"/%d" % number for number in range(10)])
        line = running.wait_for_line(lambda line: "unread" in line)
        assert line.endswith(f"the limit is {5 * size}")
        assert len(greedy.read_end()) < 10 * size
        for client in sharing:
            assert len(client.read(8 + size)) == 8 + size
        assert other.ping()
        assert running.statistics().closed == {CloseReason.OUTPUT_TOTAL: 1}
        assert running.statistics().connections == 9


def test_a_paused_peer_goes_on_when_its_output_is_sent(twin):
    with running_loop(Limits(output_size_max=1000), twin=twin) as running:
        client = running.client()
        client.ask(Verb.SET, b"/k", bytes(400))
        client.send(encode_request(Verb.GET, b"/k") * 500)
        assert len(client.read(500 * 408)) == 500 * 408
        assert client.ping()


def test_a_paused_peer_that_vanishes_is_forgotten(twin):
    with running_loop(Limits(output_size_max=1000), twin=twin) as running:
        client = running.client()
        client.ask(Verb.SET, b"/k", bytes(8 * 1024 * 1024))
        client.send(encode_request(Verb.GET, b"/k") * 50)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.read(100)
        client.close()
        other = running.client()
        while running.statistics().connections > 1:
            assert other.ping()


def test_a_newcomer_with_the_number_of_a_lost_peer_is_not_taken_for_it():
    (listener,) = listen("127.0.0.1", 0)
    address = listener.getsockname()
    loop = ServerLoop(Engine(), [listener])
    loop._resume_accepting()
    with contextlib.ExitStack() as stack:
        stack.callback(loop._close_all)
        client = stack.enter_context(socket.create_connection(address))
        while not loop._connections:
            loop._wake_up(0.1)
        (lost,) = loop._connections.values()
        lost.slow_steps = 0
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        newcomer = stack.enter_context(socket.create_connection(address))
        newcomer.sendall(encode_request(Verb.VALIDATE, MAGIC) + encode_request(Verb.PING, 5))
        lost.output.append(b"x")
        loop._dirty.append(lost)  # as if it could be written too
        while not loop._connections or lost in loop._connections.values():
            loop._wake_up(0.1)
        assert lost.fd in loop._connections
        while loop._turns or not loop._engine.statistics().requests:
            loop._wake_up(0.1)
        assert newcomer.recv(4) == struct.pack("<I", 5)


def test_a_slow_reader_of_a_released_wait_gets_it_behind_its_other_replies(server):
    slow, other = server.client(), server.client()
    slow.ask(Verb.SET, b"/big", bytes(8 * 1024 * 1024))
    slow.ask(Verb.WAIT, [b"/later"])
    slow.ask(Verb.GET, b"/big")
    while not server.is_any_blocked():
        assert other.ping()
    other.ask(Verb.SET, b"/later", b"")
    assert other.ping()
    assert slow.read(8 + 8 * 1024 * 1024) == struct.pack("<Q", 8 * 1024 * 1024) + bytes(8 * 1024 * 1024)
    assert slow.read(1) == b"\x00"


def test_peers_whose_requests_take_long_do_not_keep_the_others_waiting():
    class HandClock:
        time = 0.0

        def now(self):
            return self.time

        def sleep(self, duration_s):
            self.time += duration_s

    clock = HandClock()
    engine = Engine()
    served = []
    step = engine.step

    def slow_step(event, now):
        if isinstance(event, Received):
            served.append(event.peer)
            clock.time += 1.0 if len(event.data) > 1000 else 0.0
        return step(event, now)

    engine.step = slow_step
    loop = ServerLoop(engine, listen("127.0.0.1", 0), clock)
    loop._resume_accepting()
    address = loop._acceptor._listeners[loop._acceptor.fds[0]].getsockname()
    with contextlib.ExitStack() as stack:
        stack.callback(loop._close_all)
        clients = [stack.enter_context(socket.create_connection(address)) for _ in range(4)]
        for client in clients:
            client.sendall(encode_request(Verb.VALIDATE, MAGIC))
        while engine.statistics().validated < 4:
            loop._wake_up(0.1)
        while loop._turns:
            loop._wake_up(0.0)
        *heavy, light = clients
        peers = {connection.sock.getpeername(): fd for fd, connection in loop._connections.items()}
        heavy_peers = [peers[client.getsockname()] for client in heavy]
        light_peer = peers[light.getsockname()]
        for client in heavy:
            client.sendall(encode_request(Verb.SET, b"/k", bytes(500_000)))
        while min(loop._connections[peer].slow_steps for peer in heavy_peers) < 2:
            loop._wake_up(0.1)
        for number in range(4):
            light.sendall(encode_request(Verb.PING, number))
            served.clear()
            while light_peer not in served:
                loop._wake_up(0.0)
            assert len(served) <= 4
            assert light.recv(4) == struct.pack("<I", number)
        served.clear()
        while len(served) < 6:
            loop._wake_up(0.0)
        assert Counter(served[:6]) == dict.fromkeys(heavy_peers, 2)


def test_short_steps_do_not_make_up_for_a_long_one_until_its_time_has_passed():
    clock = ManualClock()
    loop = ServerLoop(Engine(), listen("127.0.0.1", 0), clock)
    ends = socket.socketpair()
    connection = Connection(ends[0])

    def step(took_s):
        since = clock.now()
        clock.advance(took_s)
        loop._account(connection, since)
        return connection.slow_steps

    assert [step(took_s) for took_s in (0.0, 1.0, 0.0, 0.0, 1.0, 0.0)] == [0, 1, 1, 1, 2, 2]
    clock.advance(HEAVY_TIMES - 0.5)
    assert step(0.0) == 2
    clock.advance(1.0)
    assert step(0.0) == 0
    loop._close_all()
    for end in ends:
        end.close()


def test_accepting_pauses_and_resumes(python_server, monkeypatch):
    server = python_server
    assert server.client().ping()
    real = server.loop._acceptor.accept
    calls = Counter()

    def exhausted(fd, now):
        calls["all"] += 1
        if calls["all"] == 1:
            server.loop._acceptor.paused_until = now + 0.1
            return []
        return real(fd, now)

    monkeypatch.setattr(server.loop._acceptor, "accept", exhausted)
    assert server.client().ping()
    assert calls["all"] == 2


def test_a_newcomer_that_cannot_be_watched_is_refused(python_server, monkeypatch):
    server = python_server
    assert server.client().ping()

    class FullPoller:
        def __init__(self, real):
            self.real = real

        def register(self, fd, mask):
            raise OSError("no space")

        def __getattr__(self, name):
            return getattr(self.real, name)

    monkeypatch.setattr(server.loop, "_poller", FullPoller(server.loop._poller))
    assert server.client(validates=False).read_end() == b""
    server.wait_for_line(lambda line: "it cannot be watched (no space)" in line)


# --- the end ---------------------------------------------------------------------------------------------


def test_stop_sends_what_is_owed_and_closes(server):
    client = server.client()
    value = os.urandom(8 * 1024 * 1024)
    client.ask(Verb.SET, b"/k", value)
    client.ask(Verb.GET, b"/k")
    while not server.is_any_blocked():
        assert server.client().ping()
    server.loop.stop(PATIENCE_S)
    assert client.read_end() == struct.pack("<Q", len(value)) + value
    server.stop(PATIENCE_S)
    with pytest.raises(ConnectionRefusedError):
        server.client()


def test_stop_waits_for_a_peer_that_does_not_read_only_so_long(server):
    client = server.client()
    client.ask(Verb.SET, b"/k", bytes(8 * 1024 * 1024))
    client.send(encode_request(Verb.GET, b"/k") * 3)
    while not server.is_any_blocked():
        assert server.client().ping()
    server.stop(0.2)


def test_a_second_stop_ends_a_drain(server):
    client = server.client()
    client.ask(Verb.SET, b"/k", bytes(8 * 1024 * 1024))
    client.send(encode_request(Verb.GET, b"/k") * 3)
    while not server.is_any_blocked():
        assert server.client().ping()
    server.loop.stop(3600.0)
    server.stop(0.0)


def test_stopping_an_ended_loop_is_harmless(server):
    server.stop(0.0)
    server.loop.stop()


def test_the_end_of_the_loop_shows_to_waiting_clients(server):
    client = server.client()
    client.ask(Verb.WAIT, [b"/never"])
    assert client.ping()
    server.loop.stop(PATIENCE_S)
    assert client.read_end() == b""


def test_a_watched_descriptor_calls_back_and_may_end_the_loop(twin):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop = make_twin(twin, Limits(), listen("127.0.0.1", 0))
        loop.watch(ours.fileno(), lambda: loop.stop(3600.0))  # it stays readable, and is not asked again
        thread = threading.Thread(target=loop.run)
        thread.start()
        theirs.close()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_something_can_be_done_periodically(twin):
    loop = make_twin(twin, Limits(), listen("127.0.0.1", 0))
    calls = []

    def count():
        calls.append(1)
        if len(calls) == 3:
            loop.stop()

    loop.every(0.01, count)
    loop.run()
    assert len(calls) == 3


def test_a_forked_copy_lets_go_of_everything(twin):
    with running_loop(twin=twin) as running:
        client = running.client()
        assert client.ping()
        (listener,) = listen("127.0.0.1", 0)
        port = listener.getsockname()[1]
        copy = make_twin(twin, Limits(), [listener])
        copy.abandon()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), PATIENCE_S)
        assert client.ping()


class HoldingEngine(Engine):
    """Holds a peer at its first bytes."""

    def __init__(self):
        super().__init__()
        self.received = []

    def step(self, event, now):
        effects = super().step(event, now)
        if type(event) is Received:
            self.received.append(event.data)
            if len(self.received) == 1:
                effects.append(Hold(event.peer))
        return effects


def test_a_held_peer_is_fed_again_when_the_engine_releases_it():
    engine = HoldingEngine()
    with running_loop() as running:
        running.loop._engine, running.loop._step = engine, engine.step
        look = running.loop.door.visit
        client = running.client()
        while not look(lambda: engine.received, PATIENCE_S):
            pass
        client.ask(Verb.PING, 9)
        for _ in range(30):  # wake-ups in which the held peer could be read
            look(lambda: None, PATIENCE_S)
        assert look(lambda: len(engine.received), PATIENCE_S) == 1
        look(lambda: running.loop.apply([Release(next(iter(engine.peers)))]), PATIENCE_S)
        assert client.read(4) == struct.pack("<I", 9)


def test_a_watched_descriptor_may_wait_for_room_and_be_let_go_while_the_loop_runs():
    ours, theirs = socket.socketpair()
    seen = []
    with ours, theirs, running_loop() as running:
        loop = running.loop
        loop.door.visit(lambda: loop.watch(ours.fileno(), lambda: seen.append("read")), PATIENCE_S)
        loop.door.visit(lambda: loop.watch(ours.fileno(), lambda: seen.append("room"), READ | WRITE), PATIENCE_S)
        while not seen:
            loop.door.visit(lambda: None, PATIENCE_S)
        loop.door.visit(lambda: loop.unwatch(ours.fileno()), PATIENCE_S)
        loop.door.visit(lambda: loop.unwatch(ours.fileno()), PATIENCE_S)
        count = len(seen)
        theirs.send(b"x")
        assert loop.door.visit(lambda: list(seen), PATIENCE_S)[count:] == []
    assert set(seen) == {"room"}


def test_ends_of_connections_are_counted_by_reason_and_told():
    told = []
    with running_loop() as running:
        events.subscribe(told.append)
        try:
            closing, breaking, staying = running.client(), running.client(), running.client()
            assert all([closing.ping(), breaking.ping(), staying.ping()])
            closing.close()
            breaking.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            breaking.close()
            while running.loop.door.visit(running.statistics, PATIENCE_S).connections > 1:
                assert staying.ping()
            running.stop(0.0)
        finally:
            events.unsubscribe(told.append)
        assert list(running.loop.ends.values()) == [1, 1, 1]
    assert sorted(event.fields["reason"] for event in told) == ["CONNECTION_LOST", "PEER_CLOSED", "SERVER_STOPPED"]


HELLO = OPENING + encode_session(SessionVerb.HELLO, CLOSING_ID, 0, VERSION, b"", b"", b"me", bytes(NONCE_SIZE), 1000)
LAST_WORD = encode_closing(CloseReason.ENDED, "the server stops")


def test_the_end_is_the_last_that_a_session_hears(twin):
    with running_loop(twin=twin) as running:
        session, plain, setter = running.client(validates=False), running.client(), running.client()
        session.send(HELLO + encode_session(SessionVerb.WAIT, 1, 0, [b"/k"]))
        plain.ask(Verb.WAIT, [b"/k"])
        while running.statistics().waiting < 2:
            assert setter.ping()
        setter.ask(Verb.SET, b"/k", b"")
        running.stop(PATIENCE_S)
        heard = session.read_end()
        assert heard.endswith(LAST_WORD)
        assert heard.count(LAST_WORD) == 1
        assert len(heard) > 2 * len(LAST_WORD)
        assert plain.read_end() == b"\x00"


def test_nobody_is_waited_for_with_the_last_word(twin):
    with running_loop(twin=twin) as running:
        deaf, session = running.client(validates=False), running.client(validates=False)
        deaf.send(HELLO + encode_session(SessionVerb.SET, 1, 0, b"/k", bytes(8 << 20)))
        deaf.send(encode_session(SessionVerb.READ, 2, 0, b"/k"))
        while not running.is_any_blocked():
            pass
        session.send(HELLO)
        assert session.sock.recv(1)
        running.stop(0.0)
        assert session.read_end().endswith(LAST_WORD)
        assert LAST_WORD not in deaf.read_end()
