from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner
from tests.support.serving_command import record_serving

from rallypoint.cli import relay as module
from rallypoint.cli.commands import group


@pytest.fixture
def relayed(monkeypatch):
    return record_serving(module, monkeypatch)


def run(*arguments):
    return CliRunner().invoke(group, ["relay", *arguments])


def test_only_loopback_is_listened_on_unless_told(relayed):
    assert run("head:29500", "--port", "0").exit_code == 0
    assert [address[0] for address in relayed["addresses"]] == ["127.0.0.1"]


def test_the_ready_line_for_people_names_both_sides(relayed):
    result = run("head:29500", "other:29501", "--port", "0")
    port = relayed["addresses"][0][1]
    assert result.output == (
        f"rallypoint relays 127.0.0.1:{port} to head:29500 and other:29501 (pid {os.getpid()}); Ctrl-C ends it\n"
    )


def test_the_ready_line_is_json(relayed, tmp_path):
    result = run("head:29500", "--bind", f"unix:{tmp_path}/a", "--ready-json")
    assert json.loads(result.output) == {"path": f"{tmp_path}/a", "pid": os.getpid()}


def test_limits_are_as_told(relayed):
    run("head:29500", "--port", "0", "--patience-s", "7.5", "--connections-max", "3", "--spin-us", "50")
    assert (relayed["relay_limits"].patience_s, relayed["limits"].connections_max) == (7.5, 3)
    assert relayed["spin_us"] == 50


def test_the_servers_keys_are_shown_as_they_are_unless_told(relayed):
    run("head:29500", "--port", "0")
    assert relayed["space"] is None
    run("head:29500", "--port", "0", "--key-space", "job-7")
    assert relayed["space"].name == "job-7/"


def test_the_exit_code_is_the_relays(relayed):
    relayed["exit_code"] = 130
    assert run("head:29500", "--port", "0").exit_code == 130


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "HOST:PORT"),
        (["head"], "has no port: write head:29500"),
        (["head:x"], "a number from 0 to 65535"),
        (["head:29500", "--port", "x"], "--port"),
        (["head:29500", "--patience-s", "0"], "--patience-s"),
        (["head:29500", "--patience-s", "nan"], "no number of seconds"),
    ],
)
def test_wrong_usage_exits_with_2(relayed, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output


def test_an_address_that_cannot_be_listened_on_is_an_error_of_one_sentence(relayed):
    result = run("head:29500", "--bind", "unix:/no/such/folder/a")
    assert result.exit_code == 1
    assert "/no/such/folder/a" in result.output


def test_a_token_that_is_none_is_an_error(relayed, monkeypatch):
    monkeypatch.setenv("RALLYPOINT_TOKEN", "short")
    result = run("head:29500", "--port", "0")
    assert result.exit_code == 1
    assert "token" in result.output
