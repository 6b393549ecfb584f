from __future__ import annotations

import pytest
from click.testing import CliRunner
from tests.support.certificates import Authority

from rallypoint.cli import serve as module
from rallypoint.cli.commands import group
from rallypoint.net.tls import Tls
from rallypoint.protocol.session.auth import Token
from rallypoint.server.access import Rule
from rallypoint.server.security import Security

TOKEN = "the-token-of-the-job"


@pytest.fixture
def wanted(monkeypatch):
    """Give what a server would have wanted of those who connect: one entry for each run."""
    seen = []

    def record(listeners, *, security, on_ready, **_):
        seen.append(security)
        for listener in listeners:
            listener.close()
        return 0

    monkeypatch.setattr(module, "serve_forever", record)
    return seen


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "tokens"
    path.touch(mode=0o600)
    path.write_text(f"trainer {TOKEN}\n")
    return str(path)


def run(*arguments, **environ):
    return CliRunner().invoke(group, ["serve", "--port", "0", *arguments], env=environ)


def test_nothing_is_wanted_unless_told(wanted):
    assert run().exit_code == 0
    assert run("--allow-plain", "10.0.0.0/8").exit_code == 0
    assert wanted == [None, None]


def test_a_token_comes_from_a_file_or_the_environment(wanted, token_file):
    run("--token-file", token_file)
    run(RALLYPOINT_TOKEN_FILE=token_file)
    run(RALLYPOINT_TOKEN=f"trainer {TOKEN}")
    assert wanted == [Security({"trainer": Token(TOKEN)})] * 3


def test_networks_are_named_one_by_one_or_together(wanted):
    token = {"RALLYPOINT_TOKEN": TOKEN}
    run("--allow-plain", "10.0.0.0/8", "--allow-plain", "::1", **token)
    run(RALLYPOINT_ALLOW_PLAIN="10.0.0.0/8,::1", **token)
    assert [security.plain_networks for security in wanted] == [("10.0.0.0/8", "::1")] * 2


def test_rules_and_certificates_are_passed_on(wanted, token_file, tmp_path):
    rules = tmp_path / "rules.json"
    rules.write_text('{"trainer": {"read": ["train/"]}}')
    tls = Authority(tmp_path / "ours").issue("localhost")
    result = run(
        "--token-file", token_file, "--access-rules", str(rules), "--tls-cert", tls.cert, "--tls-key", tls.key,
        "--tls-ca", tls.ca,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (security,) = wanted
    assert security.rules == {"trainer": Rule(read=("train/",))}
    assert security.tls == Tls(tls.ca, tls.cert, tls.key)


def test_what_makes_no_sense_is_said_in_one_line(token_file, tmp_path):
    rules = tmp_path / "rules.json"
    rules.write_text("{}")
    for arguments, complaint in [
        (["--tls-ca", "ca.pem"], "--tls-key and --tls-ca mean nothing without --tls-cert"),
        (["--token-file", "no"], "the file no cannot be used: No such file or directory"),
        (["--token-file", token_file, "--allow-plain", "host"], "'host' is no network"),
        (["--access-rules", str(rules)], "access rules are by identity, and nothing proves one"),
        (["--tls-cert", str(rules)], f"the file {rules} holds a secret and has mode 0644"),
    ]:
        result = run(*arguments)
        assert result.exit_code in (1, 2)
        assert complaint in result.output, result.output


def test_a_token_is_never_shown(wanted):
    result = run(RALLYPOINT_TOKEN="too-short")
    assert result.exit_code == 1
    assert "RALLYPOINT_TOKEN: line 1: the token is 9 bytes long" in result.output
    assert "too-short" not in result.output
