from __future__ import annotations

import sys
from pathlib import Path

import pytest

from rallypoint.launch.script import run_script_path


def test_a_script_runs_as_python_would_run_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_the_script.py").write_text("word = 'found'")
    script = tmp_path / "work.py"
    script.write_text("import sys, beside_the_script\nprint(__name__, sys.argv[1:], beside_the_script.word)")

    run_script_path(str(script), "a", "--b")

    assert capsys.readouterr().out == "__main__ ['a', '--b'] found\n"
    assert sys.argv == [str(script), "a", "--b"]
