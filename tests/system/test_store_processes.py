"""One store in many threads, under signals and across forks."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import struct
import threading
import time

import pytest
from tests.support.client_twins import each_client  # noqa: F401 - a fixture
from tests.support.scripted_peer import ScriptedPeer

from rallypoint import twin
from rallypoint.errors import (
    ConnectionLostError,
    ConnectTimeoutError,
    ForkedStoreError,
    ReplyTimeoutError,
    StoreTimeoutError,
)
from rallypoint.protocol.spec import Verb
from rallypoint.store import connections
from rallypoint.store.tcp import TCPStore

pytestmark = pytest.mark.usefixtures("each_client")

HOST = "127.0.0.1"
JOIN_S = 60
HANDLERS_MAX = 20
PIECES = 20_000


@pytest.fixture
def store():
    with TCPStore(HOST, 0, is_master=True, wait_for_workers=False, timeout=JOIN_S, server="process") as hosting:
        yield hosting


@pytest.fixture
def other(store):
    with TCPStore(HOST, store.port, wait_for_workers=False, timeout=JOIN_S) as client:
        yield client


def test_a_waiting_thread_is_woken_by_another_on_the_same_store(store, pool):
    getting = [pool.submit(store.get, f"k{number}") for number in range(6)]
    for number in range(6):
        store.set(f"k{number}", str(number))
    assert [future.result(JOIN_S) for future in getting] == [b"%d" % number for number in range(6)]


def test_what_one_thread_wrote_another_sees_while_a_third_waits(store, pool):
    waiting = pool.submit(store.wait, ["end"])
    for number in range(200):
        store.set("k", str(number))
        assert pool.submit(store.get, "k").result(JOIN_S) == b"%d" % number
    store.set("end", "")
    waiting.result(JOIN_S)


def mix_calls(store, name, turns):
    """Every kind of call in random order, beside others who do the same."""
    chance = random.Random(name)
    for turn in range(turns):
        kind = chance.randrange(7)
        if kind == 0:
            store.set(f"{name} {turn}", str(turn))
            assert store.get(f"{name} {turn}") == str(turn).encode()
        elif kind == 1:
            store.add("all", 1)
            store.add(name, 1)
        elif kind == 2:
            with pytest.raises(StoreTimeoutError):
                store.wait(["all", "never"], 0.001)
        elif kind == 3:
            store.multi_set([f"{name} a", f"{name} b"], ["1" * 20_000, "2"])
            assert store.multi_get([f"{name} a", f"{name} b"]) == [b"1" * 20_000, b"2"]
        elif kind == 4:
            store.queue_push("queue", name)
            assert store.queue_pop("queue")
        elif kind == 5:
            store.barrier(f"{name} barrier {turn}", 1)
        else:
            assert store.compare_set(f"{name} once", "", "x") == b"x"
            assert store.check([f"{name} once"])


def test_many_threads_mix_their_calls_on_one_store_under_signals(store, pool):
    waiting = pool.submit(store.get, "late")
    inside = []

    def handle(*_):
        # On a busy machine signals come faster than calls end: without a bound, handlers would interrupt each other's
        # calls until the stack is full.
        if len(inside) < HANDLERS_MAX:
            inside.append(True)
            try:
                store.check(["all"])
            finally:
                inside.pop()

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.003, 0.003)
    try:
        mixing = [pool.submit(mix_calls, store, f"thread {number}", 100) for number in range(5)]
        mix_calls(store, "main thread", 100)
        for future in mixing:
            future.result(JOIN_S)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    names = ["main thread", *(f"thread {number}" for number in range(5))]
    assert store.add("all", 0) == sum(store.add(name, 0) for name in names) > 0
    assert store.queue_len("queue") == 0
    store.set("late", "v")
    assert waiting.result(JOIN_S) == b"v"


def test_ctrl_c_ends_a_wait_and_the_store_goes_on(store, other):
    store.set("k", "v")

    def interrupt():
        other.wait(["started"])
        os.kill(os.getpid(), signal.SIGINT)

    def wait_for_nothing():
        store.set("started", "")
        store.wait(["never"])

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            wait_for_nothing()
    finally:
        thread.join(JOIN_S)
    assert store.get("k") == b"v"
    assert store.add("n", 1) == 1


class InterruptionError(Exception):
    """What a signal handler raises."""


def raise_interruption(*_):
    raise InterruptionError


# An interruption amid connecting leaves the new socket to the garbage collector, which closes it, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_interruptions_at_any_moment_leave_the_store_whole(store, pool):
    chance = random.Random(1)
    counting = pool.submit(lambda: [store.add("beside", 1) for _ in range(300)])
    interrupted = 0
    before = signal.signal(signal.SIGALRM, raise_interruption)
    try:
        for turn in range(600):
            try:
                signal.setitimer(signal.ITIMER_REAL, chance.random() * chance.choice([0.0002, 0.001]) + 1e-6)
                store.set("k", str(turn))
                store.add("n", 1)
                store.wait(["never"], 0.002)
            except StoreTimeoutError:
                pass
            except InterruptionError:
                interrupted += 1
            try:
                signal.setitimer(signal.ITIMER_REAL, 0)
            except InterruptionError:
                interrupted += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 0
    assert counting.result(JOIN_S)[-1] == 300
    store.set("k", "end")
    assert store.get("k") == b"end"


def test_a_handled_signal_does_not_end_a_wait(store, other):
    handled = []

    def disturb():
        other.wait(["started"])
        os.kill(os.getpid(), signal.SIGUSR1)
        other.set("late", "v")

    before = signal.signal(signal.SIGUSR1, lambda *_: handled.append(True))
    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        store.set("started", "")
        assert store.get("late") == b"v"
    finally:
        thread.join(JOIN_S)
        signal.signal(signal.SIGUSR1, before)
    assert handled == [True]


def in_child(act):
    """Run ``act`` in a forked child and give the text that it returns."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, str(act()).encode())
        except BaseException as error:  # noqa: BLE001 - the parent judges
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        text = answers.read()
    os.waitpid(pid, 0)
    return text


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_is_told_and_can_clone(store):
    store.set("k", "v")
    told = in_child(lambda: store.get("k"))
    assert told.startswith(f"{ForkedStoreError.__name__}: this store belongs to process {os.getpid()}, process ")
    assert "clone()" in told
    assert in_child(lambda: store.clone().get("k")) == "b'v'"
    assert in_child(store.close) == "None"
    assert store.get("k") == b"v"
    with pytest.raises(StoreTimeoutError):
        store.wait(["absent"], 0)


@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_child_that_a_signals_handler_forks_amid_a_call_leaves_the_answer_to_its_parent(store, other):
    parent, children = os.getpid(), []
    reader, writer = os.pipe()

    def fork(*_):
        child = os.fork()
        if child:
            children.append(child)
            other.set("late", "v")

    before = signal.signal(signal.SIGALRM, fork)
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        found = store.get("late")
    except ForkedStoreError:
        found = b"forked"
    finally:
        if os.getpid() != parent:
            os.write(writer, found)
            os._exit(0)
        signal.signal(signal.SIGALRM, before)
    os.close(writer)
    with os.fdopen(reader, "rb") as answers:
        assert (found, answers.read()) == (b"v", b"forked")
    os.waitpid(children[0], 0)
    assert store.add("n", 1) == 1


def test_a_stopped_server_is_an_error_in_time_and_forgiven_when_it_goes_on(store, other, monkeypatch):
    monkeypatch.setattr(connections, "REPLY_GRACE_S", 0.1)
    store.set("k", "v")
    assert other.get("k") == b"v"
    other.set_timeout(0.1)
    pid = store._server._handle.pid
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
    try:
        with pytest.raises(ReplyTimeoutError, match=rf"^the server at {HOST}:{store.port} did not answer within 0\.2"):
            other.get("k")
        # c10d connects anew; a session asks again over the connection that it has.
        with pytest.raises((ConnectTimeoutError, ReplyTimeoutError)):
            other.get("k")
    finally:
        os.kill(pid, signal.SIGCONT)
    monkeypatch.undo()
    assert other.get("k") == b"v"


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_a_reply_in_many_pieces_ends_with_its_deadline_or_a_signal(pool, monkeypatch, is_interrupted):
    monkeypatch.setattr(connections, "REPLY_GRACE_S", 0.05)
    sent = []

    def dribble(conversation):
        conversation.expect((Verb.CHECK, [b"/k"] * PIECES), (Verb.MULTI_GET, [b"/k"] * PIECES))
        conversation.reply(b"\0")
        with contextlib.suppress(OSError):
            while len(sent) < PIECES:
                conversation.reply(struct.pack("<Qs", 1, b"x"))
                sent.append(True)
                time.sleep(0.0003)
        conversation.close()

    def interrupt(*_):
        raise InterruptionError

    with ScriptedPeer() as peer:
        timeout_s = JOIN_S if is_interrupted else 0.5
        connecting = pool.submit(TCPStore, HOST, peer.port, timeout=timeout_s, dialect="c10d")
        dribbling = pool.submit(dribble, peer.accept())
        client = connecting.result(JOIN_S)
        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2 if is_interrupted else 0)
            with pytest.raises(InterruptionError if is_interrupted else ReplyTimeoutError):
                client.multi_get(["k"] * PIECES)
        finally:
            signal.signal(signal.SIGALRM, before)
        dribbling.result(JOIN_S)
        assert len(sent) < PIECES
        client.close()


def test_a_killed_server_is_an_error_at_once(store, other):
    os.kill(store._server._handle.pid, signal.SIGKILL)
    for client in (store, other):
        with pytest.raises(ConnectionLostError):
            client.get("k")


def test_the_server_needs_a_process_of_its_own_only_without_the_native_twin(monkeypatch):
    monkeypatch.delenv("RALLYPOINT_SERVER", raising=False)
    with TCPStore(HOST, 0, is_master=True, wait_for_workers=False) as store:
        is_thread = any(str(store.port) in thread.name for thread in threading.enumerate())
        assert is_thread == (twin.native() is not None)
        store.set("k", "v")
        assert store.get("k") == b"v"
