from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec

import click
import pytest
from click.testing import CliRunner

import rallypoint
from rallypoint.cli.commands import COMMANDS, group


def run(*arguments):
    return CliRunner().invoke(group, arguments)


def test_help_lists_every_command():
    result = run("--help")
    assert result.exit_code == 0
    for name, entry in COMMANDS.items():
        assert name in result.output
        assert entry.summary in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_where_the_table_says_and_has_the_tables_summary(name):
    command = group.get_command(click.Context(group), name)
    assert command.name == name
    assert (command.help or "").startswith(COMMANDS[name].summary)
    assert find_spec(COMMANDS[name].module)


def test_help_imports_no_command():
    script = (
        "import sys\n"
        "from rallypoint.cli.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "sys.exit(any(name in sys.modules for name in ('rallypoint.cli.run', 'rallypoint.cli.serve')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_the_version_is_the_packages():
    assert run("--version").output.strip() == f"rallypoint, version {rallypoint.__version__}"


@pytest.mark.parametrize("arguments", [["no-such-command"], ["--no-such-option"]])
def test_wrong_usage_exits_with_2_and_a_sentence(arguments):
    result = run(*arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.output
