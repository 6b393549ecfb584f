from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rallypoint.agent.redirect import get_std_cm, redirect, redirect_stderr, redirect_stdout


@pytest.mark.parametrize(("std", "number"), [("stdout", 1), ("stderr", 2)])
def test_a_stream_goes_to_a_file_and_back(
    std: str, number: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "kept"
    path.write_text("old\n")

    os.write(number, b"before\n")
    with {"stdout": redirect_stdout, "stderr": redirect_stderr}[std](str(path)):
        print("python", file=getattr(sys, std))
        os.write(number, b"descriptor\n")
        subprocess.run(["/bin/sh", "-c", f"echo child >&{number}"], check=True)
    os.write(number, b"after\n")

    # Under pytest, Python's own stream need not be the descriptor's.
    assert [line for line in path.read_text().split() if line != "python"] == ["descriptor", "child"]
    assert [line for line in getattr(capfd.readouterr(), std[3:]).split() if line != "python"] == ["before", "after"]


def test_everything_of_a_program_is_caught(tmp_path: Path) -> None:
    script = (
        "import ctypes, os, sys\n"
        "from rallypoint.agent.redirect import redirect_stdout\n"
        "print('before')\n"
        f"with redirect_stdout({str(tmp_path / 'kept')!r}):\n"
        "    print('python')\n"
        "    ctypes.CDLL(None).puts(b'c')\n"
        "    for number in range(50000): print(number)\n"
        "print('after')\n"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    kept = (tmp_path / "kept").read_text().split()
    assert sorted(kept) == sorted(["python", "c", *map(str, range(50000))])
    assert done.stdout.split() == ["before", "after"]


def test_an_exception_passes_and_the_stream_is_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), redirect_stdout(str(tmp_path / "kept")):
        raise KeyError("x")
    os.write(1, b"back\n")

    assert capfd.readouterr().out == "back\n"


def test_an_unknown_stream_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown standard stream <stdin>"), redirect("stdin", str(tmp_path / "kept")):
        raise AssertionError("entered")
    with pytest.raises(FileNotFoundError), redirect("stdout", str(tmp_path / "no" / "folder")):
        raise AssertionError("entered")


def test_no_file_is_no_redirect(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with get_std_cm("", redirect_stdout):
        os.write(1, b"shown\n")
    with get_std_cm(str(tmp_path / "kept"), redirect_stdout):
        os.write(1, b"kept\n")

    assert capfd.readouterr().out == "shown\n"
    assert (tmp_path / "kept").read_text() == "kept\n"
