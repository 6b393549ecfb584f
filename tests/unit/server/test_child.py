from __future__ import annotations

import gc
import os
import platform
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, use_twin

from rallypoint.net.address import listen, listen_unix
from rallypoint.protocol.session.auth import Token
from rallypoint.server import child
from rallypoint.server.child import (
    FAILED,
    FULL_COLLECTION_EVERY,
    READY,
    SECURED,
    collect_seldom,
    log_to_stderr,
    main,
    pack_secrets,
    raise_descriptor_limit,
)
from rallypoint.server.limits import DEFAULT_LIMITS, Limits
from rallypoint.server.security import Security
from rallypoint.twin import native

IS_WATCHED = "san.so" in os.environ.get("LD_PRELOAD", "")  # a sanitizer has memory of its own


@pytest.fixture(params=LOOP_TWINS, autouse=True)
def twin(request, monkeypatch):
    return use_twin(request.param, monkeypatch)


@pytest.fixture
def control():
    ours, theirs = socket.socketpair()
    ours.settimeout(PATIENCE_S)
    with ours:
        yield ours, theirs.detach()


@pytest.fixture(autouse=True)
def same_process(monkeypatch):
    """Let ``main`` run here: signal handlers and limits stay as they are."""
    monkeypatch.setattr(child.signal, "signal", lambda *_: None)
    monkeypatch.setattr(child, "raise_descriptor_limit", lambda: None)
    monkeypatch.setattr(child, "collect_seldom", lambda: None)
    monkeypatch.setattr(child, "keep_memory", lambda: None)


def listener_fds(*listeners):
    return ",".join(str(listener.detach()) for listener in listeners)


def test_it_says_that_it_serves_and_ends_when_told(control):
    ours, fd = control
    ours.send(b"\0")
    main([str(fd), str(os.getppid()), listener_fds(*listen("127.0.0.1", 0)), "", "0"])
    assert ours.recv(100) == READY
    assert ours.recv(100) == b""


def test_it_is_told_what_to_want_before_it_serves(control, monkeypatch):
    ours, fd = control
    told = []
    make_loop = child.make_loop
    monkeypatch.setattr(
        child, "make_loop", lambda *args, **options: (told.append(options["security"]), make_loop(*args, **options))[1]
    )
    security = Security({"": Token("the-token-of-the-job")})
    ours.sendall(pack_secrets(security.pack()) + b"\0")
    main([str(fd), str(os.getppid()), listener_fds(*listen("127.0.0.1", 0)), "", "0", SECURED])
    assert told == [security]
    assert ours.recv(100) == READY


def test_it_does_not_serve_without_the_secrets_that_it_was_to_get(control):
    ours, fd = control
    ours.sendall(pack_secrets(bytes(100))[:50])
    ours.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError, match="its owner is gone"):
        main([str(fd), str(os.getppid()), "", "", "0", SECURED])
    assert ours.recv(100) == FAILED + b"ConnectionError: its owner is gone"


def test_it_ends_when_its_owner_closed_its_side(control, tmp_path):
    ours, fd = control
    ours.shutdown(socket.SHUT_WR)
    main([str(fd), str(os.getppid()), listener_fds(listen_unix(str(tmp_path / "a.sock"))), "", "0"])
    assert list(tmp_path.iterdir()) == []


def test_it_ends_quietly_when_its_owner_ended_while_it_started(control, tmp_path):
    ours, fd = control
    ours.close()
    main([str(fd), str(os.getppid()), listener_fds(listen_unix(str(tmp_path / "a.sock"))), "", "0"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("has_pidfd", [True, False])
def test_it_ends_when_its_owner_is_gone_already(control, monkeypatch, has_pidfd):
    ours, fd = control
    if not has_pidfd:
        monkeypatch.delattr(child.os, "pidfd_open", raising=False)
    main([str(fd), str(os.getpid()), listener_fds(*listen("127.0.0.1", 0)), "", "0"])  # we are not our own parent
    assert ours.recv(100) == READY


def test_without_pidfd_it_asks_for_its_parent_now_and_then(control, monkeypatch):
    _, fd = control
    asked = []

    def parent():
        asked.append(7 if len(asked) < 2 else 1)
        return asked[-1]

    monkeypatch.delattr(child.os, "pidfd_open", raising=False)
    monkeypatch.setattr(child, "ORPHAN_CHECK_S", 0.01)
    monkeypatch.setattr(child.os, "getppid", parent)
    main([str(fd), "7", listener_fds(*listen("127.0.0.1", 0)), "", "0"])
    assert asked[:3] == [7, 7, 1]  # it may ask once more before it has ended


def test_a_failure_to_start_is_told(control):
    ours, fd = control
    with pytest.raises(ValueError, match="connections_max"):
        main([str(fd), str(os.getppid()), "", '{"connections_max": 0}', "0"])
    said = ours.recv(1000)
    assert said.startswith(FAILED)
    assert b"connections_max is 0" in said


def test_limits_travel_as_json():
    assert child._read_limits("") is DEFAULT_LIMITS
    assert child._read_limits('{"connections_max": 5}') == Limits(connections_max=5)


def test_log_lines_name_the_process(capfd):
    log_to_stderr("refused 1 connection")
    assert capfd.readouterr().err == f"rallypoint server {os.getpid()}: refused 1 connection\n"


def test_an_error_output_that_nobody_reads_does_not_stop_the_server(monkeypatch):
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb"), os.fdopen(writer, "wb") as file:
        os.set_blocking(writer, False)
        with pytest.raises(BlockingIOError):
            fill(writer)
        os.set_blocking(writer, True)
        monkeypatch.setattr(sys, "__stderr__", file)
        log_to_stderr("lost")


def fill(fd):
    while True:
        os.write(fd, bytes(65536))


def test_a_closed_error_output_is_no_harm(monkeypatch, capfd):
    monkeypatch.setattr(sys, "__stderr__", None)
    log_to_stderr("to descriptor 2")
    assert "to descriptor 2" in capfd.readouterr().err
    with Path(os.devnull).open() as closed:
        pass
    monkeypatch.setattr(sys, "__stderr__", closed)
    log_to_stderr("to nobody")


def test_full_collections_come_seldom_and_young_ones_as_ever():
    before = gc.get_threshold()
    try:
        collect_seldom()
        assert gc.get_threshold() == (*before[:2], FULL_COLLECTION_EVERY)
    finally:
        gc.set_threshold(*before)


FAULTS = """
import resource, sys
from rallypoint.server.child import keep_memory

if sys.argv[1] == "kept":
    keep_memory()
for turn in range(11):
    values = [b"x" * (1 << 20) for _ in range(20)]
    values.clear()
    if turn == 0:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    native() is None or platform.libc_ver()[0] != "glibc" or IS_WATCHED, reason="only glibc has such a setting"
)
def test_memory_that_was_freed_is_at_hand():
    def faults(how):
        command = [sys.executable, "-c", FAULTS, how]
        env = {**os.environ, "RALLYPOINT_PURE": ""}
        return int(subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout)

    assert faults("kept") < faults("as usual") / 4


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one(monkeypatch):
    asked = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: asked.append(limits))
    raise_descriptor_limit()
    assert asked == [(4096, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4096, 4096))
    raise_descriptor_limit()
    assert len(asked) == 1
