"""What is the native loop's own; what it has in common with the Python one is in ``test_loop``."""

from __future__ import annotations

import contextlib
import gc
import os
import platform
import signal
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, RawClient, make_twin, running_loop, use_twin

from rallypoint.net.address import listen, listen_unix
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import Verb
from rallypoint.server import native as module
from rallypoint.server.limits import DEFAULT_LIMITS, Limits
from rallypoint.server.loop import ServerLoop
from rallypoint.server.native import NativeLoop, make_loop

SYS_RECVFROM = {"x86_64": 45, "aarch64": 207}.get(platform.machine())
NATIVE = [twin for twin in LOOP_TWINS if twin == "native"]  # none where it was not built: nothing to show then


@pytest.fixture(params=LOOP_TWINS)
def server(request):
    with running_loop(twin=request.param) as running:
        yield running


@pytest.mark.parametrize(
    ("twin", "kind"), [(twin, NativeLoop if twin == "native" else ServerLoop) for twin in LOOP_TWINS]
)
def test_the_twin_that_runs_serves(monkeypatch, twin, kind):
    use_twin(twin, monkeypatch)
    loop = make_loop(DEFAULT_LIMITS, listen("127.0.0.1", 0), spin_us=1)
    assert isinstance(loop, kind)
    loop.abandon()


def test_without_the_compiled_module_there_is_no_native_loop(monkeypatch):
    monkeypatch.setattr(module, "native", lambda: None)
    with pytest.raises(AssertionError, match="not there"):
        NativeLoop()


@pytest.mark.parametrize("twin", LOOP_TWINS)
def test_a_spinning_server_serves_and_ends(monkeypatch, twin):
    use_twin(twin, monkeypatch)
    (listener,) = listen("127.0.0.1", 0)
    address = listener.getsockname()
    loop = make_loop(DEFAULT_LIMITS, [listener], spin_us=1000)
    thread = threading.Thread(target=loop.run)
    thread.start()
    with contextlib.closing(RawClient(address)) as client:
        assert all(client.ping(number) for number in range(100))
    loop.stop(0.0)
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_listeners_stay_the_callers_when_no_descriptor_is_left(monkeypatch):
    (listener,) = listen("127.0.0.1", 0)

    class Full:
        @staticmethod
        def Reactor(*args):  # noqa: N802 - the module's own name
            raise OSError(24, "none left")

    monkeypatch.setattr(module, "native", lambda: Full)
    with listener:
        with pytest.raises(OSError, match="none left"):
            NativeLoop(DEFAULT_LIMITS, [listener])
        assert listener.getsockname()


def test_a_server_serves_from_its_start_before_anybody_listens_to_it():
    for twin in NATIVE:
        (listener,) = listen("127.0.0.1", 0)
        address = listener.getsockname()
        loop = make_twin(twin, Limits(), [listener])
        loop.start()
        loop.start()
        with contextlib.closing(RawClient(address)) as client:
            assert client.ping()
            loop.stop(0.0)
            loop.run()
            assert client.read_end() == b""


def test_a_server_that_nobody_refers_to_any_more_ends():
    for twin in NATIVE:
        (listener,) = listen("127.0.0.1", 0)
        address = listener.getsockname()
        loop = make_twin(twin, Limits(), [listener])
        loop.start()
        with contextlib.closing(RawClient(address)) as client:
            assert client.ping()
            del loop
            gc.collect()
            assert client.read_end() == b""
        with pytest.raises(ConnectionRefusedError):
            RawClient(address)


@pytest.mark.parametrize("twin", LOOP_TWINS)
def test_nothing_stays_open_after_the_end(twin, tmp_path):
    before = open_descriptors()
    for _ in range(3):
        with running_loop(twin=twin, listeners=[*listen("localhost", 0), listen_unix(str(tmp_path / "a"))]) as running:
            assert running.client().ping()
    assert open_descriptors() == before
    assert list(tmp_path.iterdir()) == []


def test_refusals_that_nobody_takes_are_counted_beyond_a_bound():
    class SlowLog:
        is_asleep = threading.Event()
        may_go_on = threading.Event()
        lines = 0
        left_out = 0

        def note(self, message, now):
            self.is_asleep.set()
            assert self.may_go_on.wait(PATIENCE_S)
            self.lines += 1

        def leave_out(self, count):
            self.left_out += count

    for twin in NATIVE:
        with running_loop(twin=twin) as server:
            log = server.loop._notices._refusals = SlowLog()
            refuse(server)
            assert log.is_asleep.wait(PATIENCE_S)
            for _ in range(2000):
                refuse(server)
            log.may_go_on.set()
            server.stop(PATIENCE_S)
            assert log.left_out > 0
            assert log.lines + log.left_out == 2001


def refuse(server):
    with contextlib.closing(RawClient(server.address, validates=False)) as client:
        client.send(b"\x63")
        assert client.read_end() == b""


def test_the_numbers_can_be_seen_while_it_serves(server):
    client = server.client()
    client.ask(Verb.SET, b"/k", b"v")
    assert client.ping()
    refuse(server)
    seen = server.statistics()
    assert (seen.connections, seen.validated, seen.keys, seen.requests) == (1, 1, 1, 3)
    assert {reason.name: count for reason, count in seen.closed.items()} == {"BAD_HANDSHAKE": 1}


def test_looking_is_not_kept_waiting_by_peers_that_ask_without_end(server):
    client, waiter = server.client(), server.client()
    client.send(encode_request(Verb.PING, 1) * 200_000)
    waiter.ask(Verb.WAIT, [b"/never"])
    assert waiter.sock.fileno() >= 0
    for _ in range(200):
        assert server.statistics().connections >= 0
    assert client.read(4 * 200_000) == struct.pack("<I", 1) * 200_000


@pytest.mark.parametrize("twin", LOOP_TWINS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer Pythons warn of any fork beside threads
def test_a_forked_child_has_no_server_and_the_parents_goes_on(twin):
    foreign = open_pollers()  # of whatever else lives in this process
    with running_loop(twin=twin) as running:
        busy = running.client()
        stop = threading.Event()

        def ask_without_end():
            while not stop.is_set():
                assert busy.ping()

        thread = threading.Thread(target=ask_without_end)
        thread.start()
        try:
            for _ in range(20):
                assert exit_code_of_child(running.loop, foreign) == 0
        finally:
            stop.set()
            thread.join(PATIENCE_S)
        idle = running.client()
        assert idle.ping()


def exit_code_of_child(loop, foreign):
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            loop.abandon()
            loop.stop(0.0)
            code = 2 if open_pollers() - foreign else 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def open_pollers():
    return {number for number, name in open_descriptors().items() if "eventpoll" in name}


def open_descriptors():
    names = {}
    for file in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the one that lists them
            names[file.name] = str(file.readlink())
    return names


@pytest.mark.parametrize("twin", LOOP_TWINS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_listeners_of_a_forked_child_do_not_outlive_the_server(twin):
    ours, theirs = socket.socketpair()
    with ours, running_loop(twin=twin) as running:
        address = running.address
        assert running.client().ping()
        pid = os.fork()
        if pid == 0:
            running.loop.abandon()
            theirs.send(b"x")
            ours.close()
            theirs.recv(1)
            os._exit(0)
        theirs.close()
        ours.settimeout(PATIENCE_S)
        ours.recv(1)  # it has run so far, and lives until the other end is closed
        running.stop(0.0)
        with pytest.raises(ConnectionRefusedError):
            RawClient(address)
    os.waitpid(pid, 0)


def test_signals_are_left_to_the_programs_own_threads():
    for twin in NATIVE:
        with running_loop(twin=twin) as running:
            assert running.client().ping()  # the thread has got as far as that
            names = {}
            for task in Path("/proc/self/task").iterdir():
                lines = (task / "status").read_text().splitlines()
                facts = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
                names[facts["Name"]] = int(facts["SigBlk"], 16)
            assert names["rallypoint"] & 1 << signal.SIGTERM - 1
            assert names["rallypoint"] & 1 << signal.SIGINT - 1


@pytest.mark.parametrize("twin", LOOP_TWINS)
def test_heavy_peers_do_not_keep_a_light_one_waiting_for_all_of_them(twin):
    with running_loop(twin=twin) as running:
        light, *heavy = (running.client() for _ in range(9))
        for client in heavy:
            client.sock.setblocking(False)
        chunk = encode_request(Verb.MULTI_SET, [(b"/%d" % number, bytes(50)) for number in range(20_000)])
        sent = dict.fromkeys(heavy, 0)
        for number in range(50):
            for client in heavy:
                with contextlib.suppress(BlockingIOError):
                    sent[client] += client.sock.send(memoryview(chunk * 2)[sent[client] % len(chunk) :])
            before = running.statistics().requests
            assert light.ping(number)
            assert running.statistics().requests - before < 100


@pytest.mark.parametrize("twin", LOOP_TWINS)
def test_a_local_peer_is_served_under_an_abstract_name(twin):
    name = b"\0rallypoint/test/%d" % os.getpid()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(name)
    listener.listen()
    with running_loop(twin=twin, listeners=[listener]) as running:
        running.address = name.decode()
        assert running.client().ping()
        refuse(running)
        assert running.wait_for_line(lambda line: "0x63" in line).startswith("closed a local peer: ")


FULL_TABLE = """
import os, resource, socket, threading
from rallypoint.net.address import listen
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import MAGIC, Verb
from rallypoint.server.limits import Limits
from rallypoint.server.native import NativeLoop

(listener,) = listen("127.0.0.1", 0)
client = socket.socket()
client.settimeout(20)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
for _ in range(3):  # what the server itself needs; nothing is left for its reserve
    os.close(taken.pop())

def log(line):
    print(line, flush=True)
    while taken:
        os.close(taken.pop())

address = listener.getsockname()
loop = NativeLoop(Limits(), [listener], log=log)
client.connect(address)
thread = threading.Thread(target=loop.run)
thread.start()
client.sendall(encode_request(Verb.VALIDATE, MAGIC) + encode_request(Verb.PING, 7))
print(client.recv(4))
loop.stop(0.0)
thread.join()
"""


def test_accepting_pauses_when_not_even_the_reserve_is_left():
    for _ in NATIVE:
        run = subprocess.run([sys.executable, "-c", FULL_TABLE], capture_output=True, text=True, check=True)
        said, answer = run.stdout.splitlines()
        assert said.endswith("accepts nothing for 0.1 s: no file descriptor is left (limit 64)")
        assert answer == str(struct.pack("<I", 7))


# --- the thread of a peer that speaks alone ---------------------------------------------------------------


def has_solo_thread() -> bool:
    return any((task / "comm").read_text() == "rallypoint-solo\n" for task in Path("/proc/self/task").iterdir())


@pytest.fixture(params=NATIVE)
def with_solo(request, monkeypatch):
    """A server with a peer that has a thread of its own by now, asleep until the peer's next bytes."""
    monkeypatch.setattr(module, "SOLO_AFTER", 3)
    with running_loop(twin=request.param) as running:
        assert not has_solo_thread()
        alone = running.client()
        assert all(alone.ping(number) for number in range(8))
        assert has_solo_thread()
        yield running, alone


def test_two_peers_in_turns_have_no_thread_of_their_own():
    for twin in NATIVE:
        with running_loop(twin=twin) as running:
            one, other = running.client(), running.client()
            assert all(peer.ping(number) for number in range(200) for peer in (one, other))
            assert not has_solo_thread()


def test_a_peer_alone_goes_back_to_the_others_when_they_speak_and_comes_again(with_solo):
    running, alone = with_solo
    for number in range(50):
        other = running.client()
        assert all(peer.ping(turn) for turn in range(number % 7) for peer in (other, alone))
        other.close()
        assert all(alone.ping(turn) for turn in range(number % 5))


def solo_sleeps_in_recv() -> bool:
    """Tell whether the thread waits for its peer, not for one to be given."""
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text() == "rallypoint-solo\n":
            return (task / "syscall").read_text().startswith(f"{SYS_RECVFROM} ")
    return False


@pytest.mark.skipif(SYS_RECVFROM is None, reason="the number of the system call is not known here")
def test_a_silent_peer_does_not_keep_the_thread_from_the_next_one(with_solo):
    running, alone = with_solo
    while not solo_sleeps_in_recv():
        assert alone.ping()
    other = running.client()
    while solo_sleeps_in_recv():  # a signal may come just before the sleep
        assert other.ping()
    for number in range(8):
        assert other.ping(number)
    while not solo_sleeps_in_recv():
        assert other.ping()
    assert alone.ping()


def test_what_a_peer_alone_waits_for_comes_from_another(with_solo):
    running, alone = with_solo
    for number in range(20):
        key = b"/%d" % number
        alone.ask(Verb.WAIT, [key])
        assert running.client().ping()  # the wait was before that, or comes after the key: both release it
        running.clients[-1].ask(Verb.SET, key, b"")
        assert alone.read(1) == b"\0"


def test_a_peer_alone_that_does_not_read_hurts_nobody_and_loses_nothing(with_solo):
    running, alone = with_solo
    alone.ask(Verb.SET, b"/k", bytes(1 << 20))
    for _ in range(40):
        alone.ask(Verb.GET, b"/k")
    assert running.client().ping()
    assert len(alone.read(40 * (8 + (1 << 20)))) == 40 * (8 + (1 << 20))
    assert alone.ping()


def test_a_peer_alone_is_refused_with_all_that_it_is_owed(with_solo):
    running, alone = with_solo
    alone.send(encode_request(Verb.PING, 1) + b"\x63")
    assert alone.read_end() == struct.pack("<I", 1)
    assert "99" in running.wait_for_line(lambda line: "closed" in line)
    assert running.client().ping()


def test_peers_alone_come_and_go(with_solo):
    running, alone = with_solo
    for _ in range(20):
        alone.close()
        alone = running.client()
        assert all(alone.ping(number) for number in range(8))
    assert running.statistics().connections == 1


def test_the_end_comes_while_a_peer_alone_is_silent(with_solo):
    running, alone = with_solo
    running.stop(0.0)
    assert alone.read_end() == b""
    assert not has_solo_thread()


def test_a_forked_child_lets_go_of_a_peer_alone(with_solo):
    _, alone = with_solo
    child = os.fork()
    if child == 0:
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert all(alone.ping(number) for number in range(8))
