from __future__ import annotations

import json
import os
import socket
from dataclasses import replace

import pytest
from click.testing import CliRunner
from tests.support.serving_command import record_serving

from rallypoint.cli import serve as module
from rallypoint.cli.commands import group
from rallypoint.server.data_dir import DataDir
from rallypoint.server.limits import DEFAULT_LIMITS


@pytest.fixture
def served(monkeypatch):
    return record_serving(module, monkeypatch)


def run(*arguments):
    return CliRunner().invoke(group, ["serve", *arguments])


def test_only_loopback_is_listened_on_unless_told(served):
    result = run("--port", "0")
    assert result.exit_code == 0
    assert [address[0] for address in served["addresses"]] == ["127.0.0.1"]


def test_the_ready_line_is_json_with_host_port_and_pid(served):
    result = run("--bind", "127.0.0.2", "--port", "0", "--ready-json")
    assert result.output.count("\n") == 1
    port = served["addresses"][0][1]
    assert json.loads(result.output) == {"host": "127.0.0.2", "port": port, "pid": os.getpid()}


def test_the_ready_line_for_people_names_every_address(served, tmp_path):
    path = tmp_path / "a.sock"
    result = run("--bind", f"unix:{path}", "--bind", "127.0.0.1", "--port", "0")
    port = served["addresses"][0][1]
    assert (
        result.output == f"rallypoint serves on 127.0.0.1:{port} and unix:{path} (pid {os.getpid()}); Ctrl-C ends it\n"
    )


def test_the_ready_json_of_a_socket_file_has_its_path(served, tmp_path):
    path = tmp_path / "a.sock"
    result = run("--bind", f"unix:{path}", "--ready-json")
    assert json.loads(result.output) == {"path": str(path), "pid": os.getpid()}


def test_limits_and_the_exit_code_are_passed_on(served):
    served["exit_code"] = 143
    arguments = ["--connections-max", "5", "--drain-s", "0.5", "--spin-us", "50", "--data-dir", "data"]
    result = run("--port", "0", *arguments)
    assert result.exit_code == 143
    assert served["limits"].connections_max == 5
    assert served["drain_s"] == 0.5
    assert served["spin_us"] == 50
    assert served["data_dir"] == "data"


def test_every_limit_can_be_set_by_its_name(served):
    result = run("--port", "0", "--limit", "keys_max=5", "--limit", "stored_size_max=2G", "--connections-max", "3")
    assert result.exit_code == 0
    assert served["limits"] == replace(DEFAULT_LIMITS, keys_max=5, stored_size_max=2 << 30, connections_max=3)


def test_a_limit_that_cannot_be_is_a_usage_error(served):
    result = run("--port", "0", "--limit", "keys=5")
    assert result.exit_code == 2
    assert "Invalid value for --limit: there is no limit 'keys', the limits are:" in result.output
    result = run("--port", "0", "--connections-max", "3", "--limit", "connections_max=4")
    assert (result.exit_code, "connections_max is set twice" in result.output) == (2, True)
    assert not served


def test_a_data_directory_that_cannot_be_used_exits_with_1_and_says_why(tmp_path):
    directory = DataDir(tmp_path)
    result = run("--port", "0", "--data-dir", str(tmp_path))
    directory.close()
    assert result.exit_code == 1
    assert result.output.startswith(f"Error: {tmp_path} is in use by process {os.getpid()}")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--port", "65536"], "65536"),
        (["--port", "-1"], "-1"),
        (["--port", "http"], "http"),
        (["--connections-max", "0"], "connections-max"),
        (["--drain-s", "-1"], "drain-s"),
        (["--spin-us", "1001"], "spin-us"),
        (["--bind", ""], "names no address"),
        (["--data-dir", ""], "names no directory"),
        (["--drain-s", "nan"], "no number of seconds"),
        (["--bind", "unix:"], "unix:PATH"),
        (["--bind", "127.0.0.1:3000"], "give the port with --port"),
        (["--bind", "[::1]:3000"], "give the port with --port"),
        (["--no-such-option"], "--no-such-option"),
        (["extra"], "extra"),
    ],
)
def test_wrong_usage_exits_with_2_and_a_sentence(served, arguments, hint):
    result = run(*arguments)
    assert result.exit_code == 2
    assert hint in result.output
    assert served == {}


def test_a_port_in_use_exits_with_1_and_names_it(served):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = run("--port", str(port))
    assert result.exit_code == 1
    assert f"port: {port}" in result.output
    assert "EADDRINUSE" in result.output
