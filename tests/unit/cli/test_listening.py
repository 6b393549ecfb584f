from __future__ import annotations

import socket

import click
import pytest
from click.testing import CliRunner

from rallypoint.cli.listening import DEFAULT_PORT, bind_option, listen_on, port_option


@click.command()
@bind_option("Where from.")
@port_option
def show(hosts, port):
    click.echo(f"{list(hosts)} {port}")


def test_without_options_only_loopback_hears_and_on_the_usual_port():
    assert CliRunner().invoke(show).output == f"['127.0.0.1'] {DEFAULT_PORT}\n"


def test_addresses_are_taken_in_their_order():
    result = CliRunner().invoke(show, ["--bind", "::", "--bind", "unix:/a", "--port", "0"])
    assert result.output == "['::', 'unix:/a'] 0\n"


def test_who_may_come_is_said_beside_the_option():
    assert "Where from." in CliRunner().invoke(show, ["--help"]).output


def test_all_or_nothing_is_listened_on(tmp_path):
    with pytest.raises(click.ClickException, match="/no/such/folder/a"):
        listen_on([f"unix:{tmp_path}/a", "unix:/no/such/folder/a"], 0)
    with socket.socket(socket.AF_UNIX) as client, pytest.raises((FileNotFoundError, ConnectionRefusedError)):
        client.connect(f"{tmp_path}/a")
