from __future__ import annotations

from pathlib import Path

import pytest

from rallypoint.net.secret import check_is_private, read_secret


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("the-secret\n")
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o440, 0o640])
def test_a_file_of_its_owner_and_group_is_read(path: Path, mode: int) -> None:
    path.chmod(mode)
    assert read_secret(str(path)) == "the-secret\n"
    check_is_private(str(path))


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o602, 0o660, 0o601])
def test_a_file_that_others_can_use_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    for refuse in (read_secret, check_is_private):
        with pytest.raises(ValueError, match=f"the file {path} holds a secret and has mode {mode:04o}, .*: chmod 600"):
            refuse(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    for refuse in (read_secret, check_is_private):
        with pytest.raises(ValueError, match=f"the file {tmp_path}/no cannot be used: No such file or directory"):
            refuse(str(tmp_path / "no"))


def test_what_is_no_text_is_not_shown(path: Path) -> None:
    path.write_bytes(b"\xff\xfesecret")
    path.chmod(0o600)
    with pytest.raises(ValueError, match=f"^the file {path} is no text in UTF-8$"):
        read_secret(str(path))


def test_a_huge_file_is_refused(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate((1 << 20) + 1)
    path.chmod(0o600)
    with pytest.raises(ValueError, match="is larger than 1048576 bytes: it is no file of secrets"):
        read_secret(str(path))


def test_a_pipe_that_a_shell_made_is_read(tmp_path: Path) -> None:
    import os
    import threading

    path = tmp_path / "pipe"
    os.mkfifo(path)
    path.chmod(0o644)  # who may open it is not who may read what is in it: it is read once
    writer = threading.Thread(target=path.write_text, args=("the-secret",))
    writer.start()
    assert read_secret(str(path)) == "the-secret"
    writer.join()
