from __future__ import annotations

import json
import os

import pytest
from click.testing import CliRunner
from tests.support.serving_command import record_serving

from rallypoint.cli import gateway as module
from rallypoint.cli.commands import group


@pytest.fixture
def served(monkeypatch):
    return record_serving(module, monkeypatch)


def run(*arguments):
    return CliRunner().invoke(group, ["gateway", *arguments])


def test_only_loopback_is_listened_on_unless_told(served):
    assert run("--store", "hash://", "--port", "0").exit_code == 0
    assert [address[0] for address in served["addresses"]] == ["127.0.0.1"]


def test_the_ready_line_for_people_names_both_sides(served):
    result = run("--store", "hash://", "--port", "0")
    port = served["addresses"][0][1]
    assert result.output == f"rallypoint serves hash:// on 127.0.0.1:{port} (pid {os.getpid()}); Ctrl-C ends it\n"


def test_the_ready_line_shows_no_password(served):
    result = run("--store", "hash://ann:secret@head", "--port", "0")
    assert "rallypoint serves hash://head on " in result.output
    assert "secret" not in result.output


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:1", "etcd://ann:secret@127.0.0.1:1/p"])
def test_who_waits_for_a_store_is_told_why(monkeypatch, url):
    monkeypatch.setattr("rallypoint.rendezvous.patience.SLOW_S", 0.01)
    result = run("--store", url, "--port", "0", "--patience-s", "3")
    assert result.exit_code == 1
    first, last = result.stderr.splitlines()
    assert first == "no store at 127.0.0.1:1 yet: connection refused; trying for 3 s"
    assert last.startswith("Error: ")
    assert "connection refused" in last
    assert "secret" not in result.output


def test_the_ready_line_is_json(served, tmp_path):
    result = run("--store", "hash://", "--bind", f"unix:{tmp_path}/a", "--ready-json")
    assert json.loads(result.output) == {"path": f"{tmp_path}/a", "pid": os.getpid()}


def test_limits_and_key_space_are_as_told(served):
    run("--store", "hash://", "--port", "0", "--patience-s", "7.5", "--limit", "connections_max=3", "--key-space", "a")
    assert (served["relay_limits"].patience_s, served["limits"].connections_max) == (7.5, 3)
    assert served["space"].name == "a/"


def test_the_exit_code_is_the_gateways(served):
    served["exit_code"] = 130
    assert run("--store", "hash://", "--port", "0").exit_code == 130


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--store"),
        (["--store", "file://"], "has no path"),
        (["--store", "hash://", "--port", "x"], "--port"),
        (["--store", "hash://", "--patience-s", "0"], "--patience-s"),
        (["--store", "hash://", "--limit", "nothing=1"], "there is no limit"),
        (["--store", "hash://", "--key-space", ""], "empty"),
    ],
)
def test_wrong_usage_exits_with_2(served, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert words in result.output


@pytest.mark.parametrize("store", ["gopher://head", "file:///no/such/folder/store"])
def test_a_store_that_cannot_be_opened_is_an_error_of_one_sentence(served, store):
    result = run("--store", store, "--port", "0")
    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1


def test_an_address_that_cannot_be_listened_on_is_an_error(served):
    result = run("--store", "hash://", "--bind", "unix:/no/such/folder/a")
    assert result.exit_code == 1
    assert "/no/such/folder/a" in result.output
