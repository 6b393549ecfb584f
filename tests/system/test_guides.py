"""What the guides show runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"
TIME_MAX_S = 60


def test_the_programs_of_the_guide_to_the_coordinator_run() -> None:
    text = (GUIDES / "coordinator.md").read_text()
    *others, block = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert others
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", "\n".join([*others, block])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIME_MAX_S)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [*re.findall(r"  # (.*)$", block, re.MULTILINE)[0].split(), "succeeded"]


def test_the_blocks_of_the_guide_to_the_primitives_run_one_after_the_other() -> None:
    text = (GUIDES / "primitives.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 7
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", "\n".join(blocks)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIME_MAX_S)
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    for said in re.findall(r"# \.\.\. (.*)$", text, re.MULTILINE):
        assert said in printed, said
    for said in re.findall(r"print\(.*\)  # (\w+\(.*\))$", text, re.MULTILINE):
        assert said in printed, said
