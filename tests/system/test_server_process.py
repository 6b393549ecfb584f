"""The server process of an embedded server lives exactly as long as its owner."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import pytest
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, RawClient, use_twin
from tests.support.served import running_owner, wait_until_gone

from rallypoint.store.tcp import TCPStore

START = """
import os, signal, sys, warnings
from rallypoint.net.address import listen
from rallypoint.server.daemon import start_server
handle = start_server(listen("127.0.0.1", 0), {mode!r})
"""
SAY_AND_STAY = """
print(handle.port, handle.pid, flush=True)
sys.stdin.read()
"""
FORK_A_STAYER = """
warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of any fork beside threads
word, own_word = os.pipe()
sibling = os.fork()
if sibling == 0:
    os.write(own_word, b".")
    signal.pause()
os.read(word, 1)  # what it does first, letting go of the listeners, it has done; before, it would keep them open
print(handle.port, handle.pid, sibling, flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=LOOP_TWINS, autouse=True)
def twin(request, monkeypatch):
    return use_twin(request.param, monkeypatch)


def pings(port):
    client = RawClient(("127.0.0.1", port))
    try:
        return client.ping()
    finally:
        client.close()


def is_refused(port):
    with contextlib.suppress(ConnectionRefusedError):
        RawClient(("127.0.0.1", port)).close()
        return False
    return True


def test_the_server_ends_when_its_owner_is_killed():
    with running_owner(START.format(mode="process") + SAY_AND_STAY) as (owner, (port, pid)):
        client = RawClient(("127.0.0.1", port))
        assert client.ping()
        owner.kill()
        assert client.read_end() == b""
        client.close()
        wait_until_gone(pid)
        assert is_refused(port)


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_what_the_owner_forked_does_not_keep_the_server_alive(mode):
    with running_owner(START.format(mode=mode) + FORK_A_STAYER) as (owner, (port, pid, sibling)):
        try:
            client = RawClient(("127.0.0.1", port))
            assert client.ping()
            owner.kill()
            owner.wait(PATIENCE_S)
            if mode == "process":
                wait_until_gone(pid)
            assert client.read_end() == b""
            client.close()
            assert is_refused(port)
            os.kill(sibling, 0)
        finally:
            os.kill(sibling, signal.SIGKILL)


def test_without_pidfd_the_server_ends_too():
    hide = "import rallypoint.server.daemon as d\nd._BOOTSTRAP = 'import os; del os.pidfd_open; ' + d._BOOTSTRAP\n"
    script = hide + START.format(mode="process") + FORK_A_STAYER
    with running_owner(script) as (owner, (port, pid, sibling)):
        try:
            assert pings(port)
            owner.kill()
            wait_until_gone(pid)
        finally:
            os.kill(sibling, signal.SIGKILL)


@pytest.mark.parametrize("mode", ["process", "thread"])
@pytest.mark.parametrize("ending", ["", "handle.close()\nhandle.close()", "del handle", "raise SystemExit(0)"])
def test_the_server_ends_with_an_owner_that_ends_well_and_nothing_is_warned_of(mode, ending):
    with running_owner(START.format(mode=mode) + SAY_AND_STAY + ending) as (owner, (port, pid)):
        assert pings(port)
        _, said = owner.communicate("", PATIENCE_S)
        assert owner.returncode == 0
        assert said == ""
        assert is_refused(port)
        if mode == "process":
            wait_until_gone(pid)


@pytest.mark.parametrize("mode", ["process", "thread"])
@pytest.mark.parametrize(
    "ending", ["sys.exit(0)", "handle.close(); sys.exit(0)", "del handle; sys.exit(0)", "os._exit(0)"]
)
def test_a_forked_child_that_ends_leaves_its_parents_server_alone(mode, ending):
    fork = f"""
warnings.simplefilter("ignore", DeprecationWarning)
child = os.fork()
if child == 0:
    {ending}
    sys.exit(0)
os.waitpid(child, 0)
"""
    with running_owner(START.format(mode=mode) + fork + SAY_AND_STAY) as (owner, (port, _)):
        assert pings(port)
        _, said = owner.communicate("", PATIENCE_S)
        assert said == ""
        assert is_refused(port)


def test_a_terminals_ctrl_c_does_not_reach_the_server():
    script = "import os\nos.setpgid(0, 0)\n" + START.format(mode="process")
    script += "signal.signal(signal.SIGINT, signal.SIG_IGN)" + SAY_AND_STAY
    with running_owner(script) as (owner, (port, _)):
        os.killpg(owner.pid, signal.SIGINT)
        assert pings(port)


def test_an_owner_that_becomes_another_program_ends_its_server():
    script = START.format(mode="process")
    script += "print(handle.port, handle.pid, flush=True)\nos.execvp('cat', ['cat'])"
    with running_owner(script) as (owner, (port, pid)):
        wait_until_gone(pid)
        assert is_refused(port)
        assert owner.poll() is None


def test_sigterm_ends_the_server_process_and_its_owner_can_still_close_it():
    with running_owner(START.format(mode="process") + SAY_AND_STAY + "handle.close()") as (owner, (port, pid)):
        client = RawClient(("127.0.0.1", port))
        assert client.ping()
        os.kill(pid, signal.SIGTERM)
        assert client.read_end() == b""
        client.close()
        _, said = owner.communicate("", PATIENCE_S)
        assert (owner.returncode, said) == (0, "")


WAIT_IN_A_DAEMON_THREAD = """
import os, sys, threading, rallypoint
store = rallypoint.TCPStore({host!r}, {port}, is_master=True, server={mode!r})
begun = threading.Event()

def wait():
    begun.set()
    store.wait(["never"], 100)

threading.Thread(target=wait, daemon=True).start()
begun.wait()
while not store._client.is_waiting:
    pass
print(store.port, store._server._handle.pid, flush=True)
sys.stdin.read()
store.set("last", "word")
"""


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_daemon_thread_that_waits_at_the_exit_says_nothing(mode):
    script = WAIT_IN_A_DAEMON_THREAD.format(mode=mode, host="localhost", port=0)
    with running_owner(script) as (owner, (port, pid)):
        reader = TCPStore("localhost", port)
        reader.set_timeout(PATIENCE_S)
        got = []
        thread = threading.Thread(target=lambda: got.append(reader.get("last")))
        thread.start()
        while not reader._client.is_waiting and thread.is_alive():
            pass
        assert owner.communicate("", PATIENCE_S) == ("", "")
        assert owner.returncode == 0
        thread.join(PATIENCE_S)
        assert got == [b"word"]  # what was written before the exit still went out
        reader.close()
        if mode == "process":
            wait_until_gone(pid)
        assert is_refused(port)


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_socket_file_is_gone_though_a_daemon_thread_waited_at_the_exit(mode, tmp_path):
    path = tmp_path / "a.sock"
    with running_owner(WAIT_IN_A_DAEMON_THREAD.format(mode=mode, host=f"unix:{path}", port=0)) as (owner, (_, pid)):
        assert path.exists()
        assert owner.communicate("", PATIENCE_S) == ("", "")
        if mode == "process":
            wait_until_gone(pid)
        assert not path.exists()
