"""What the guides show runs."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import click
from tests.support.launcher import until

from rallypoint.cli.commands import group
from rallypoint.store.bootstrap import get_free_port

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


def test_the_commands_of_the_guide_to_begin_with_are_understood() -> None:
    commands = _commands((GUIDES / "start.md").read_text())
    assert {command[0] for command in commands} == {"run", "serve", "status", "doctor"}
    for name, *arguments in commands:
        entry = group.get_command(click.Context(group), name)
        assert entry is not None
        entry.make_context(name, list(arguments))


def _commands(text: str) -> list[list[str]]:
    """Give the arguments of every ``rallypoint`` that stands alone on a line of a block."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    blocks = "".join(block for language, block in found if not language).replace("\\\n", " ")
    lines = re.findall(r"^(?:\w+=\w+ )?rallypoint (.*)$", blocks, re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines]


def test_two_nodes_run_the_program_of_the_guide_to_begin_with_and_survive_a_killed_worker(tmp_path: Path) -> None:
    text = (GUIDES / "start.md").read_text()
    (program,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "train.py").write_text(program)
    command = next(command for command in _commands(text) if "first" in command)
    command[command.index("--rdzv-endpoint") + 1] = f"127.0.0.1:{get_free_port()}"
    logs = [tmp_path / "a", tmp_path / "b"]
    with contextlib.ExitStack() as opened:
        nodes = [
            opened.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "rallypoint", *command],
                    cwd=tmp_path,
                    stdout=opened.enter_context(log.open("wb")),
                    stderr=subprocess.STDOUT,
                )
            )
            for log in logs
        ]
        for node in nodes:
            opened.callback(node.kill)

        def said() -> str:
            return "".join(log.read_text() for log in logs)

        until("an epoch is done", (tmp_path / "checkpoint.json").exists)
        (pid,) = re.findall(r"rank 3 of 4 \(pid (\d+)\)", said())
        os.kill(int(pid), signal.SIGKILL)
        assert [node.wait(TIME_MAX_S) for node in nodes] == [0, 0], said()
    assert "was killed by SIGKILL" in said()
    assert len(re.findall(r"rank 3 of 4 .* begins with epoch [1-9]", said())) == 1
    assert len(re.findall(r"rank \d: the weight is 2.50", said())) == 4
