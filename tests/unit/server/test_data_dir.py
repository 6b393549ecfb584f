from __future__ import annotations

import os
import stat

import pytest

from rallypoint.server.data_dir import LOCK_NAME, DataDir, DataDirError


@pytest.fixture(autouse=True)
def permissive_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def mode_of(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_made_for_its_owner_only(tmp_path):
    directory = DataDir(tmp_path / "a" / "b")
    path = directory.create_store()
    assert mode_of(tmp_path / "a" / "b") == 0o700
    assert mode_of(tmp_path / "a" / "b" / LOCK_NAME) == mode_of(path) == 0o600
    directory.adopt_store(path)
    assert directory.store.exists()
    assert not path.exists()
    directory.close()


def test_two_cannot_use_it_and_the_second_is_told_who_does(tmp_path):
    first = DataDir(tmp_path)
    with pytest.raises(DataDirError, match=rf"{tmp_path} is in use by process {os.getpid()}: "):
        DataDir(tmp_path)
    first.close()
    first.close()
    DataDir(tmp_path).close()


def test_it_remembers_how_many_commits_were_acknowledged(tmp_path):
    first = DataDir(tmp_path)
    assert first.acknowledged == 0
    first.acknowledge(12)
    first.close()
    second = DataDir(tmp_path)
    assert second.acknowledged == 12
    second.close()


@pytest.mark.parametrize(
    "text", [b"x", b"pid 1 commits 2\n", bytes(40), b"pid 0000000001 commits 00000000000000000002"]
)
def test_a_foreign_lock_is_refused_and_left_alone(tmp_path, text):
    lock = tmp_path / LOCK_NAME
    lock.write_bytes(text)
    with pytest.raises(DataDirError, match="is not a lock of a rallypoint server") as refusal:
        DataDir(tmp_path)
    assert refusal.value.path == str(lock)
    assert lock.read_bytes() == text


def test_a_file_is_no_directory(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataDirError, match="cannot be a data directory"):
        DataDir(tmp_path / "file")


def test_what_a_crash_left_of_a_new_store_is_replaced(tmp_path):
    directory = DataDir(tmp_path)
    first = directory.create_store()
    first.write_bytes(b"half")
    (tmp_path / f"{first.name}-journal").write_bytes(b"half")
    second = directory.create_store()
    assert second.read_bytes() == b""
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK_NAME, second.name]
    directory.close()


def test_a_store_that_cannot_be_made_is_named(tmp_path):
    directory = DataDir(tmp_path)
    (tmp_path / "store.new" / "full").mkdir(parents=True)
    with pytest.raises(DataDirError, match=r"store\.new cannot be made"):
        directory.create_store()
    with pytest.raises(DataDirError, match="cannot become"):
        directory.adopt_store(tmp_path / "none")
    directory.close()


def test_a_directory_of_somebody_else_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "thesis.tex").write_text("text")
    (tmp_path / "zebra").mkdir()
    with pytest.raises(
        DataDirError, match=r"there is no store.db in it, but 'thesis.tex' and 1 more; give a new or an"
    ):
        DataDir(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lost+found", "thesis.tex", "zebra"]


def test_a_file_systems_root_and_other_files_beside_a_store_are_fine(tmp_path):
    (tmp_path / "lost+found").mkdir()
    DataDir(tmp_path).close()
    (tmp_path / "store.db.copy").write_text("")
    (tmp_path / "notes").write_text("")
    DataDir(tmp_path).close()
