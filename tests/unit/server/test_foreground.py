from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading

import pytest
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, RawClient, use_twin

from rallypoint.net.address import listen
from rallypoint.protocol.spec import Verb
from rallypoint.server.data_dir import DataDir, DataDirError
from rallypoint.server.foreground import run_until_signalled, serve


@pytest.fixture(params=LOOP_TWINS, autouse=True)
def twin(request, monkeypatch):
    return use_twin(request.param, monkeypatch)


def pings(address):
    client = RawClient(address)
    try:
        return client.ping()
    finally:
        client.close()


def test_serving_in_the_foreground_ends_with_0_after_one_signal():
    (listener,) = listen("127.0.0.1", 0)
    address = listener.getsockname()

    def use_then_signal():
        assert pings(address)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=use_then_signal)
    before = signal.getsignal(signal.SIGTERM)
    assert serve([listener], on_ready=thread.start) == 0
    thread.join(PATIENCE_S)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_signal_ends_a_drain_with_its_number():
    (listener,) = listen("127.0.0.1", 0)
    address = listener.getsockname()
    client = []

    def owe_something_then_signal_twice():
        client.append(RawClient(address))
        client[0].ask(Verb.SET, b"/k", bytes(8 * 1024 * 1024))
        for _ in range(3):
            client[0].ask(Verb.GET, b"/k")
        client[0].read(100)
        os.kill(os.getpid(), signal.SIGTERM)
        with contextlib.suppress(ConnectionRefusedError, ConnectionResetError):  # reset: still in the backlog
            while True:  # until the drain has begun
                socket.create_connection(address, PATIENCE_S).close()
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=owe_something_then_signal_twice)
    assert serve([listener], on_ready=thread.start, drain_s=3600.0) == 128 + signal.SIGINT
    thread.join(PATIENCE_S)
    client[0].close()


def test_what_was_stored_is_there_again_in_a_data_directory(tmp_path):
    def use(request):
        (listener,) = listen("127.0.0.1", 0)
        address = listener.getsockname()
        replies = []

        def ask_then_signal():
            client = RawClient(address)
            client.ask(*request)
            client.ask(Verb.GET, b"/k")
            replies.append(client.read(9))
            client.close()
            os.kill(os.getpid(), signal.SIGTERM)

        thread = threading.Thread(target=ask_then_signal)
        assert serve([listener], data_dir=tmp_path, on_ready=thread.start) == 0
        thread.join(PATIENCE_S)
        return replies[0][8:]

    assert use((Verb.SET, b"/k", b"v")) == b"v"
    assert use((Verb.SET, b"/other", b"w")) == b"v"


def test_a_data_directory_in_use_is_an_error_and_the_port_is_free_again(tmp_path):
    directory = DataDir(tmp_path)
    (listener,) = listen("127.0.0.1", 0)
    with pytest.raises(DataDirError, match="is in use"):
        serve([listener], data_dir=tmp_path)
    assert listener.fileno() == -1
    directory.close()


def test_anything_that_runs_and_stops_can_run_in_the_foreground():
    drains = []

    class Server:
        def run(self):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)

        def stop(self, drain_s):
            drains.append(drain_s)

    assert run_until_signalled(Server(), drain_s=7.0) == 128 + signal.SIGTERM
    assert drains == [7.0, 0.0]
