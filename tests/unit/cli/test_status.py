from __future__ import annotations

import json
import socket

import pytest
from click.testing import CliRunner
from tests.support.raw_server import running_loop

from rallypoint.cli import status as module
from rallypoint.cli.commands import group
from rallypoint.errors import ConnectTimeoutError
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.store.tcp import TCPStore


@pytest.fixture
def server():
    with running_loop() as running:
        yield running


@pytest.fixture
def store(server):
    host, port = server.address
    with TCPStore(host, port, wait_for_workers=False, dialect="session", timeout=30) as store:
        yield store


def run(server, *arguments):
    host, port = server.address
    return CliRunner().invoke(group, ["status", f"{host}:{port}", *arguments])


def test_an_overview_is_shown_to_people(server):
    result = run(server)
    assert result.exit_code == 0, result.output
    assert result.output.startswith("rallypoint ")
    assert "no limit is near" in result.output


@pytest.mark.parametrize("section", ["peers", "sessions", "barriers", "leases", "watches", "refusals", "keys", "keys/"])
def test_every_section_is_shown(server, section):
    result = run(server, section)
    assert result.exit_code == 0, result.output
    assert result.output


def test_a_server_that_is_not_there_is_told_at_once():
    result = CliRunner().invoke(group, ["status", "127.0.0.1:1"])
    assert result.exit_code == 1
    assert result.output.startswith(
        "Error: no connection to 127.0.0.1:1: connection refused; with --timeout-s a server"
    )


def test_a_server_is_waited_for_if_that_is_wanted():
    result = CliRunner().invoke(group, ["status", "127.0.0.1:1", "--timeout-s", "0.5"])
    assert result.exit_code == 1
    assert "timed out after 500ms" in result.output
    assert "connection refused" in result.output


def test_a_server_that_is_slow_is_asked_with_more_patience(server, monkeypatch):
    timeouts = []

    def opening(endpoint, timeout_s):
        timeouts.append(timeout_s)
        if timeout_s == 0:
            raise ConnectTimeoutError("as if", endpoint=endpoint, waited_s=1.0, attempts=1) from TimeoutError("silent")
        return TCPStore(*endpoint, timeout=timeout_s, wait_for_workers=False, dialect="auto")

    monkeypatch.setattr(module, "_open", opening)
    assert run(server).exit_code == 0
    assert timeouts == [0.0, module.TIMEOUT_S]


def test_keys_are_asked_for_by_prefix_and_values_when_wanted(server, store):
    store.multi_set(["job/a", "job/b", "other"], ["1", "2", "3"])
    assert [line.split()[0] for line in run(server, "keys/job/").output.splitlines()] == ["KEY", "job/a", "job/b"]
    assert run(server, "values/other").output.endswith("'3'\n")


def test_json_is_the_servers_document_in_one_line(server, store):
    store.set("k", "v")
    result = run(server, "keys/k", "--json")
    assert result.output.count("\n") == 1
    assert json.loads(result.output)["keys"] == [{"key": "k", "size": 1, "revision": 1}]
    assert json.loads(result.output) == store.status("keys/k")


def test_watching_asks_again_until_it_is_interrupted(server, monkeypatch):
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "pause", pause)
    result = run(server, "--watch", "2", "--json")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) == 3
    assert pauses == [2.0] * 3


def test_a_server_that_speaks_c10d_only_shows_its_keys(server, store, monkeypatch):
    store.set("k", "v")
    host, port = server.address
    monkeypatch.setattr(
        module, "_open", lambda *_: TCPStore(host, port, wait_for_workers=False, dialect="c10d", timeout=30)
    )
    result = run(server)
    assert result.exit_code == 3
    assert "speaks c10d only" in result.output
    assert result.output.endswith("1 keys\n  k\n")
    document = json.loads(run(server, "--json").output)
    why = f"{host}:{port} speaks c10d only, as torch's servers do"
    assert document == {"version": 0, "section": "plain", "why": why, "keys": 1, "names": ["k"]}


def test_a_server_of_ours_that_has_no_status_shows_its_keys(server, store):
    store.set("k", "v")
    del server.loop.machine.parts.verbs.handlers[SessionVerb.STATUS]
    result = run(server)
    assert result.exit_code == 3, result.output
    assert "has no status: it tells no more than its keys" in result.output
    assert result.output.endswith("1 keys\n  k\n")


def test_a_server_that_is_not_there_is_an_error_of_one_line():
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]
        result = CliRunner().invoke(group, ["status", f"127.0.0.1:{port}", "--timeout-s", "0.2"])
    assert result.exit_code == 1
    assert "connection refused" in result.output
    assert result.output.count("\n") == 1


@pytest.mark.parametrize("arguments", [["1.2.3.4:x"], ["a:b:c"], ["127.0.0.1:1", "everything"]])
def test_wrong_usage_exits_with_2(arguments):
    assert CliRunner().invoke(group, ["status", *arguments]).exit_code == 2
