from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.raw_server import LOOP_TWINS, RawClient, use_twin

from rallypoint.errors import DistStoreError
from rallypoint.net.address import listen, listen_unix
from rallypoint.net.tls import Tls
from rallypoint.net.unix import has_local_names, local_name
from rallypoint.protocol.session.auth import Token
from rallypoint.protocol.spec import Verb
from rallypoint.server import daemon
from rallypoint.server.daemon import start_server
from rallypoint.server.limits import Limits
from rallypoint.server.security import Security
from rallypoint.types import Endpoint


@pytest.fixture(params=LOOP_TWINS, autouse=True)
def twin(request, monkeypatch):
    return use_twin(request.param, monkeypatch)


@pytest.fixture
def started():
    handles = []

    def start(listeners, *args, **options):
        handles.append(start_server(listeners, *args, **options))
        return handles[-1]

    yield start
    for handle in handles:
        handle.close()


def client_of(handle):
    return RawClient(("127.0.0.1", handle.port))


def pings(address):
    client = RawClient(address)
    try:
        return client.ping()
    finally:
        client.close()


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_server_wants_what_it_is_told_to(started, mode):
    tokens = {"": Token("the-token-of-the-job")}
    strict = started(listen("localhost", 0), mode, security=Security(tokens))
    client = client_of(strict)
    assert client.read_end() == b""
    client.close()
    assert pings(
        (
            "127.0.0.1",
            started(listen("localhost", 0), mode, security=Security(tokens, None, ("::/0", "127.0.0.1"))).port,
        )
    )
    if mode == "process":
        for name in ("cmdline", "environ"):
            assert b"the-token" not in Path(f"/proc/{strict.pid}/{name}").read_bytes()


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_server_that_cannot_have_its_certificate_does_not_start(started, mode, tmp_path):
    with pytest.raises(DistStoreError, match=rf"the file {tmp_path}/no cannot be used: No such file"):
        started(listen("localhost", 0), mode, security=Security(tls=Tls(cert=f"{tmp_path}/no")))


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_server_serves_until_it_is_closed(started, mode):
    handle = started(listen("localhost", 0), mode)
    assert handle.endpoint == Endpoint("127.0.0.1", handle.port)
    assert (handle.pid == os.getpid()) is (mode == "thread")
    assert handle.is_running()
    assert "running" in repr(handle)
    client = client_of(handle)
    assert client.ping()
    handle.close()
    assert client.read_end() == b""
    client.close()
    assert not handle.is_running()
    assert "ended" in repr(handle)
    with pytest.raises(ConnectionRefusedError):
        client_of(handle)
    handle.close()


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_server_ends_with_its_handle(mode):
    handle = start_server(listen("127.0.0.1", 0), mode)
    client = client_of(handle)
    assert client.ping()
    del handle
    gc.collect()
    assert client.read_end() == b""
    client.close()


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_server_on_a_socket_file_removes_it_at_the_end(started, mode, tmp_path):
    path = tmp_path / "a.sock"
    handle = started([listen_unix(str(path))], mode)
    assert handle.endpoint == Endpoint(f"unix:{path}", 0)
    assert pings(str(path))
    handle.close()
    assert not path.exists()


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_limits_reach_the_server(started, mode):
    handle = started(listen("127.0.0.1", 0), mode, Limits(handshake_timeout_s=0.1))
    client = RawClient(("127.0.0.1", handle.port), validates=False)
    assert client.read_end() == b""
    client.close()


def test_the_programs_log_tells_which_server_of_the_program_refused(started, caplog):
    handle = started(listen("127.0.0.1", 0), "thread")
    client = client_of(handle)
    client.send(b"GET /")
    assert client.read_end() == b""
    client.close()
    handle.close()
    (line,) = caplog.messages
    assert line.startswith(f"rallypoint server on 127.0.0.1:{handle.port}: closed 127.0.0.1:")
    assert line.endswith("the verb byte is 71, the last known one is 18")


def test_a_killed_server_refuses_connections_is_reaped_and_its_file_removed(started, tmp_path):
    path = tmp_path / "a.sock"
    handle = started([*listen("127.0.0.1", 0), listen_unix(str(path))])
    unix_handle = started([listen_unix(str(tmp_path / "b.sock"))])
    for victim in (handle, unix_handle):
        client = RawClient(("127.0.0.1", handle.port)) if victim is handle else RawClient(str(tmp_path / "b.sock"))
        assert client.ping()
        os.kill(victim.pid, signal.SIGKILL)
        assert client.read_end() == b""
        client.close()
    with pytest.raises(ConnectionRefusedError):
        client_of(handle)
    unix_handle.close()
    assert not (tmp_path / "b.sock").exists()
    handle.close()
    assert not handle.is_running()
    with pytest.raises(ChildProcessError):
        os.waitpid(handle.pid, os.WNOHANG)


def test_a_server_process_that_does_not_listen_to_reason_is_killed(started, monkeypatch):
    monkeypatch.setattr(daemon, "CLOSE_S", 0.2)
    handle = started(listen("127.0.0.1", 0))
    os.kill(handle.pid, signal.SIGSTOP)
    handle.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(handle.pid, os.WNOHANG)


def test_the_listeners_are_closed_when_the_server_does_not_start(monkeypatch):
    listeners = listen("127.0.0.1", 0)
    monkeypatch.setattr(daemon, "_BOOTSTRAP", "raise SystemExit(3)")
    with pytest.raises(DistStoreError, match="ended with exit code 3 before it served"):
        start_server(listeners)
    assert [listener.fileno() for listener in listeners] == [-1]


def test_why_a_server_did_not_start_is_told(monkeypatch, capfd):
    monkeypatch.setattr(
        daemon, "_BOOTSTRAP", daemon._BOOTSTRAP.replace("sys.argv[3:]", "[sys.argv[3], 'x', '', '', '0']")
    )
    with pytest.raises(DistStoreError, match="did not start: ValueError: invalid literal for int"):
        start_server(listen("127.0.0.1", 0))
    assert "Traceback" in capfd.readouterr().err


def test_a_server_that_never_gets_ready_is_ended(monkeypatch):
    monkeypatch.setattr(daemon, "START_S", 0.2)
    monkeypatch.setattr(daemon, "_BOOTSTRAP", "import sys; sys.stdin.close(); import time; time.sleep(600)")
    monkeypatch.setattr(daemon, "CLOSE_S", 0.1)
    with pytest.raises(DistStoreError, match=r"did not serve within 0\.2 s"):
        start_server(listen("127.0.0.1", 0))


@pytest.mark.parametrize("executable", ["", "/no/such/python"])
def test_a_missing_interpreter_is_an_error(monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(DistStoreError):
        start_server(listen("127.0.0.1", 0))


def test_a_server_process_inherits_its_sockets_and_nothing_else(started):
    with socket.socket() as stranger:
        os.set_inheritable(stranger.fileno(), True)
        handle = started(listen("127.0.0.1", 0))
        assert os.getsid(handle.pid) == handle.pid
        inode = os.fstat(stranger.fileno()).st_ino
        held = subprocess.run(["ls", "-l", f"/proc/{handle.pid}/fd"], capture_output=True, text=True, check=False)
        assert f"[{inode}]" not in held.stdout


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_server_offers_itself_to_its_own_machine_under_a_local_name(started, mode, monkeypatch):
    monkeypatch.delenv("RALLYPOINT_UNIX", raising=False)
    handle = started(listen("localhost", 0), mode)
    name = local_name(handle.port).decode()
    assert pings(name) == has_local_names()
    handle.close()
    with pytest.raises(OSError):
        RawClient(name)


def test_the_local_name_can_be_turned_off_and_a_taken_one_is_no_error(started, monkeypatch):
    monkeypatch.setenv("RALLYPOINT_UNIX", "0")
    handle = started(listen("127.0.0.1", 0), "thread")
    with pytest.raises(OSError):
        RawClient(local_name(handle.port).decode())
    monkeypatch.delenv("RALLYPOINT_UNIX")
    first = started(listen("127.0.0.1", 0), "thread")
    second = started(listen("127.0.0.2", first.port), "thread")
    first_client, local_client = client_of(first), RawClient(local_name(second.port).decode())
    first_client.ask(Verb.SET, b"/k", b"the first one's")
    assert first_client.ping()
    assert local_client.get(b"/k") == b"the first one's"
    first_client.close()
    local_client.close()


@pytest.mark.parametrize("mode", ["process", "thread"])
def test_a_server_may_spin(mode):
    handle = start_server(listen("127.0.0.1", 0), mode, spin_us=100)
    assert pings(("127.0.0.1", handle.port))
    handle.close()


def test_a_certificate_that_is_none_is_named_without_a_trace(tmp_path, capfd):
    bad = tmp_path / "cert.pem"
    bad.write_text("nonsense")
    bad.chmod(0o600)
    security = Security(tls=Tls(None, str(bad), str(bad)))
    with pytest.raises(DistStoreError, match=rf"did not start: the certificate {bad} and the key {bad} cannot be used"):
        start_server(listen("localhost", 0), "process", security=security)
    assert capfd.readouterr().err == ""
