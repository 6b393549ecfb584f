from __future__ import annotations

import http.client
import json
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rallypoint.agent.failure import ChildFailedError, ProcessFailure
from rallypoint.agent.worker_server import SOCKET_ENV, worker_main


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rp") as folder:  # a socket's path must be short
        monkeypatch.setenv(SOCKET_ENV, f"{folder}/s")
        yield Path(folder) / "s"


class Connection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("worker", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))


def ask(path: Path, method: str, target: str) -> tuple[int, str]:
    connection = Connection(path)
    try:
        connection.request(method, target)
        reply = connection.getresponse()
        return reply.status, reply.read().decode()
    finally:
        connection.close()


def test_a_worker_can_be_asked_what_it_does(path: Path) -> None:
    @worker_main()
    def main() -> int:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ask(path, "POST", "/handler/ping") == (200, "pong")
        status, names = ask(path, "GET", "/handler/")
        assert (status, json.loads(names)) == (200, ["dump_traceback", "ping"])
        status, stacks = ask(path, "POST", "/handler/dump_traceback")
        assert (status, "in main" in stacks) == (200, True)
        assert ask(path, "GET", "/")[0] == 200
        return 5

    assert main() == 5
    assert not path.exists()


@pytest.mark.parametrize(
    ("method", "target"), [("POST", "/handler/bogus"), ("POST", "/ping"), ("POST", "ping"), ("GET", "/handler/ping")]
)
def test_anything_else_is_not_found(path: Path, method: str, target: str) -> None:
    with worker_main():
        assert ask(path, method, target)[0] == 404


def test_a_socket_that_was_left_behind_is_replaced_and_a_used_one_is_not(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with worker_main():
        assert ask(path, "POST", "/handler/ping") == (200, "pong")
        with pytest.raises(OSError, match="in use"), worker_main():
            raise AssertionError("entered")
        assert ask(path, "POST", "/handler/ping") == (200, "pong")


def test_nobody_asked_for_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOCKET_ENV, raising=False)

    with worker_main():
        pass


def test_the_exception_that_ends_it_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOCKET_ENV, raising=False)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))

    with pytest.raises(ValueError, match="boom"), worker_main():
        raise ValueError("boom")

    assert json.loads((tmp_path / "error.json").read_text())["message"]["message"] == "ValueError: boom"


@pytest.mark.parametrize("has_file", [True, False])
def test_the_failure_of_a_child_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_file: bool) -> None:
    monkeypatch.delenv(SOCKET_ENV, raising=False)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "mine.json"))
    if has_file:
        (tmp_path / "child.json").write_text(json.dumps({"message": {"message": "boom"}}))
    error = ChildFailedError("child", {0: ProcessFailure(0, 7, 3, str(tmp_path / "child.json"))})

    with pytest.raises(ChildFailedError), worker_main():
        raise error

    assert (tmp_path / "mine.json").exists() is has_file
