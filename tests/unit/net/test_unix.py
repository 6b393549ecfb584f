from __future__ import annotations

import errno
import os
import socket
import stat
import sys

import pytest

from rallypoint.net import unix
from rallypoint.net.unix import (
    ROOT,
    bind_socket_file,
    has_local_names,
    is_guarded,
    listen_locally,
    local_name,
    peer_user,
    remove_stale_file,
)


def leave_stale_file(path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    assert path.exists()


def test_a_stale_file_is_replaced(tmp_path):
    path = tmp_path / "a.sock"
    leave_stale_file(path)
    with bind_socket_file(str(path), 1), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))


def test_the_file_of_a_living_server_is_in_use(tmp_path):
    path = str(tmp_path / "a.sock")
    with bind_socket_file(path, 1), pytest.raises(OSError) as caught:
        bind_socket_file(path, 1)
    assert caught.value.errno == errno.EADDRINUSE


def test_a_file_of_another_kind_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(OSError):
        bind_socket_file(str(path), 1)
    remove_stale_file(str(path))
    assert path.read_text() == "mine"


def test_the_file_is_its_owners_only(tmp_path):
    path = tmp_path / "a.sock"
    with bind_socket_file(str(path), 1):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == 0o600 or sys.platform != "linux"  # elsewhere the umask decides


def test_only_stale_files_are_removed(tmp_path):
    path = tmp_path / "a.sock"
    listener = bind_socket_file(str(path), 1)
    remove_stale_file(str(path))
    assert path.exists()
    listener.close()
    remove_stale_file(str(path))
    assert not path.exists()


def test_removing_is_harmless_where_there_is_nothing(tmp_path):
    remove_stale_file(str(tmp_path / "a.sock"))
    remove_stale_file(str(tmp_path / "no folder" / "a.sock"))


def test_nothing_else_is_left_in_the_folder(tmp_path):
    with bind_socket_file(str(tmp_path / "a.sock"), 1):
        assert [entry.name for entry in tmp_path.iterdir()] == ["a.sock"]


def test_a_port_has_one_local_name():
    assert local_name(29500) == b"\0rallypoint/29500"


def test_a_server_listens_on_its_local_name_once(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("RALLYPOINT_UNIX", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with listen_locally(port, 1) as listener:
            assert listener.getsockname() == local_name(port)
            assert listen_locally(port, 1) is None


def test_without_descriptors_there_is_no_local_name_and_no_error(monkeypatch):
    def none_left(*args):
        raise OSError(errno.EMFILE, "none left")

    monkeypatch.delenv("RALLYPOINT_UNIX", raising=False)
    monkeypatch.setattr(socket, "socket", none_left)
    assert listen_locally(1, 1) is None


@pytest.mark.parametrize(
    ("platform", "word", "has_them"),
    [("linux", "", True), ("linux", "1", True), ("linux", "0", False), ("darwin", "", False)],
)
def test_local_names_are_linuxs_and_can_be_turned_off(monkeypatch, platform, word, has_them):
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("RALLYPOINT_UNIX", word)
    assert has_local_names() is has_them
    if not has_them:
        assert listen_locally(1, 1) is None


def accepted(listener):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(listener.getsockname())
        return listener.accept()[0]


def test_a_file_guards_its_connections_by_itself(tmp_path, monkeypatch):
    with bind_socket_file(str(tmp_path / "a.sock"), 1) as listener, accepted(listener) as sock:
        monkeypatch.setattr(unix, "peer_user", lambda _: pytest.fail("the file system was asked already"))
        assert is_guarded(sock)


@pytest.mark.parametrize(("user", "is_let"), [(os.geteuid(), True), (ROOT, True), (54321, False)])
def test_a_local_name_is_guarded_by_asking_who_it_is(monkeypatch, user, is_let):
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with listener:
        listener.bind(b"\0rallypoint/test/%d" % os.getpid())
        listener.listen(1)
        with accepted(listener) as sock:
            assert peer_user(sock) == os.geteuid()
            monkeypatch.setattr(unix, "peer_user", lambda _: user)
            assert is_guarded(sock) is is_let


def test_a_connection_whose_other_end_cannot_be_told_is_not_guarded(monkeypatch):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.close()
        assert not is_guarded(sock)
