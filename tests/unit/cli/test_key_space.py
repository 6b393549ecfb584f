from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from rallypoint.cli.key_space import key_space_option


@click.command()
@key_space_option
def shown(space):
    click.echo(repr(space))


@pytest.mark.parametrize(
    ("arguments", "output"),
    [([], "None\n"), (["--key-space", "job"], "KeySpace('job/')\n"), (["--key-space", "a/b/"], "KeySpace('a/b/')\n")],
)
def test_the_key_space_is_what_was_named(arguments, output):
    assert CliRunner().invoke(shown, arguments).output == output


@pytest.mark.parametrize("name", ["", "/", "x" * 2000])
def test_a_name_that_is_none_is_wrong_usage(name):
    result = CliRunner().invoke(shown, ["--key-space", name])
    assert result.exit_code == 2
    assert "key space" in result.output
