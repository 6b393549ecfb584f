"""The same small program, once with torch.distributed and once with rallypoint in its imports, gives the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support import launched

PATIENCE_S = 280.0  # a dozen processes that import torch, perhaps beside other tests

pytestmark = pytest.mark.timeout(PATIENCE_S + 20)


def start(namespace: str, what: str, folder: Path) -> subprocess.Popen[str]:
    folder.mkdir()
    hidden = ("TORCH", "PET_", "RALLYPOINT_")
    environ = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return subprocess.Popen(
        [sys.executable, launched.__file__, namespace, what],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=folder,
        env=environ | {"TMPDIR": str(folder)},
    )


@pytest.fixture
def folder() -> Iterator[Path]:
    """Give a folder with a short name: a fork server's socket is in it, whose path must not be long."""
    with tempfile.TemporaryDirectory(prefix="rp") as made:
        yield Path(made)


def run_both(what: str, folder: Path) -> tuple[Any, Any]:
    """Run the program with both libraries at the same time; give torch's answer and ours."""
    programs = [start(name, what, folder / name) for name in ("torch.distributed", "rallypoint")]
    try:
        return tuple(json.loads(program.communicate(timeout=PATIENCE_S)[0].splitlines()[-1]) for program in programs)  # type: ignore[return-value]
    finally:
        for program in programs:
            program.kill()
            program.communicate()


@pytest.mark.parametrize("what", ["functions", "contexts", "records"])
def test_both_give_the_same(what: str, folder: Path) -> None:
    theirs, ours = run_both(what, folder)

    assert ours == theirs
