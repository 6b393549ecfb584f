from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE_S = 60


def rallypoint(*arguments: str, redirection: str = "") -> subprocess.CompletedProcess[str]:
    command = ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-m", "rallypoint", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_the_imports_ends_the_process_with_its_code_and_no_words(
    tmp_path: Path, number: int, exit_code: int
) -> None:
    (tmp_path / "click.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    script = f"import signal; signal.signal({int(number)}, signal.default_int_handler)\n"
    script += "from rallypoint.cli.main import main\nmain(['run', 'x.py'])"

    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert (done.returncode, done.stdout, done.stderr) == (exit_code, "", "")


def test_a_signal_that_was_ignored_stays_ignored() -> None:
    script = (
        "import os, signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "from rallypoint.cli.main import main\n"
        "try:\n    main(['--version'])\nexcept SystemExit:\n    pass\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nprint('alive')"
    )

    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )

    assert done.stdout.endswith("alive\n"), done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["serve", "--port", "0"]], ids=str)
def test_a_full_standard_output_is_one_line_and_code_1(
    arguments: list[str], unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    done = rallypoint(*arguments, redirection=">/dev/full")

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "standard output" in done.stderr
    assert "No space left" in done.stderr


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_ready_line_that_nobody_can_read_ends_the_server(unbuffered: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    for redirection in (">/dev/full", ">&-"):
        done = rallypoint("serve", "--port", "0", "--ready-json", redirection=redirection)

        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        assert "ready line" in done.stderr


def test_workers_of_a_launcher_without_streams_have_the_null_device(tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(f"import os\nopen({str(tmp_path / 'seen')!r}, 'w').write(os.readlink('/proc/self/fd/1'))\n")

    done = rallypoint("run", str(script), redirection="<&- >&-")

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seen").read_text() == "/dev/null"
