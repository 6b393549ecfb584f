"""Programs that were started without standard input, output or error, as services sometimes are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.raw_server import PATIENCE_S

CLOSINGS = ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"]


def run_with(closing: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = f'exec "$@" {closing}'
    return subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.parametrize("closing", CLOSINGS)
@pytest.mark.parametrize("mode", ["process", "thread"])
def test_an_embedded_server_serves(closing, mode):
    code = (
        "import rallypoint, sys\n"
        f"store = rallypoint.TCPStore('localhost', 0, is_master=True, server={mode!r})\n"
        "store.set('key', 'value')\n"
        "sys.exit(store.get('key') != b'value')\n"
    )
    done = run_with(closing, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("closing", CLOSINGS)
@pytest.mark.parametrize("more", [[], ["--tee", "3"]])
def test_a_run_runs_and_writes_to_nobody_else(closing, more, tmp_path: Path):
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, sys\n"
        f"open({str(tmp_path)!r} + '/ran', 'w').close()\n"
        "for fd in (1, 2):\n"
        "    os.write(fd, b'said on %d\\n' % fd)\n"
    )
    done = run_with(closing, "-m", "rallypoint", "run", *more, "--log-dir", str(tmp_path / "logs"), str(worker))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "ran").exists()
    assert ("said on 1" in done.stdout) is (">&-" not in closing.replace("2>&-", ""))
    assert ("said on 2" in done.stderr) is ("2>&-" not in closing)
