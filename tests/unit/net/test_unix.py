from __future__ import annotations

import errno
import socket
import stat
import sys

import pytest

from rallypoint.net.unix import bind_socket_file, remove_stale_file


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
