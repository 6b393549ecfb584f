from __future__ import annotations

import os
from pathlib import Path

import pytest

from rallypoint.cli.preflight import PreflightError, check_log_dir, check_program, check_script


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "tool").touch(0o755)
    (tmp_path / "bin" / "plain").touch(0o644)
    (tmp_path / "here").touch(0o755)
    return tmp_path


@pytest.mark.parametrize("program", ["tool", "./here", "bin/tool"])
def test_a_program_that_can_be_run_is_no_complaint(folder: Path, program: str) -> None:
    check_program(program)


@pytest.mark.parametrize(
    ("program", "exit_code"),
    [
        ("nothing", 127),
        ("./nothing", 127),
        ("here", 127),
        ("", 127),
        ("plain", 126),
        ("bin/plain", 126),
        ("./bin", 126),
    ],
)
def test_a_program_that_cannot_be_run_has_the_exit_code_of_a_shell(folder: Path, program: str, exit_code: int) -> None:
    with pytest.raises(PreflightError, match=repr(program)) as info:
        check_program(program)

    assert info.value.exit_code == exit_code


@pytest.mark.parametrize("script", ["here", "bin", "-"])
def test_what_python_can_read_is_no_complaint(folder: Path, script: str) -> None:
    check_script(script)


def test_a_missing_script_is_named_with_where_it_was_looked_for(folder: Path) -> None:
    with pytest.raises(PreflightError, match=f"'missing.py' does not exist, seen from {folder}") as info:
        check_script("missing.py")

    assert info.value.exit_code == 2


def test_a_script_that_may_not_be_read_is_a_complaint(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may read everything

    with pytest.raises(PreflightError, match="may not be read"):
        check_script("here")


def test_a_log_folder_is_made_and_left_empty(folder: Path) -> None:
    check_log_dir(folder / "a" / "b")

    assert list((folder / "a" / "b").iterdir()) == []


@pytest.mark.parametrize("path", [None, Path("/dev/null")])
def test_no_log_folder_is_no_complaint(path: Path | None) -> None:
    check_log_dir(path)


@pytest.mark.parametrize("path", ["/proc/x", "here", "here/logs", "/proc"])
def test_a_log_folder_that_cannot_be_had_is_one_sentence(folder: Path, path: str) -> None:
    with pytest.raises(PreflightError, match=f"--log-dir {path} ") as info:
        check_log_dir(Path(path))

    assert info.value.exit_code == 2
    assert "Errno" not in info.value.message
