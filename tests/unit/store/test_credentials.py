from __future__ import annotations

import os
import subprocess
import sys

import pytest

from rallypoint.net.tls import Tls
from rallypoint.protocol.session.auth import Token
from rallypoint.server.security import Security
from rallypoint.store.credentials import (
    NO_CREDENTIALS,
    Credentials,
    credentials_to_use,
    has_token,
    security_of_environment,
)

TOKEN = "the-token-of-the-job"


@pytest.fixture(autouse=True)
def environ(monkeypatch):
    for name in list(os.environ):
        if name.startswith("RALLYPOINT_T") or name == "RALLYPOINT_ALLOW_PLAIN":
            monkeypatch.delenv(name)

    def say(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(f"RALLYPOINT_{name}", value)

    return say


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(f"{TOKEN}\n")
    return path


def test_nothing_said_is_nothing_to_prove():
    assert not has_token()
    assert credentials_to_use() == NO_CREDENTIALS
    assert security_of_environment() is None


def test_a_token_stands_alone_or_behind_the_name_of_its_identity(environ, token_file):
    environ(TOKEN=TOKEN)
    assert has_token()
    assert credentials_to_use() == Credentials(b"", Token(TOKEN))
    environ(TOKEN=f"trainer {TOKEN}")
    assert credentials_to_use() == Credentials(b"trainer", Token(TOKEN))
    assert security_of_environment() == Security({"trainer": Token(TOKEN)})


def test_a_token_comes_from_a_file(environ, token_file):
    environ(TOKEN_FILE=str(token_file))
    assert has_token()
    assert credentials_to_use() == Credentials(b"", Token(TOKEN))
    token_file.chmod(0o604)
    with pytest.raises(ValueError, match=f"the file {token_file} holds a secret and has mode 0604"):
        credentials_to_use()


def test_a_client_has_one_token_and_a_server_any_number(environ, token_file):
    token_file.write_text(f"{TOKEN}\ntrainer the-token-of-trainers\n")
    environ(TOKEN_FILE=str(token_file), ALLOW_PLAIN="127.0.0.1")
    with pytest.raises(ValueError, match="the token file has 2 tokens: a client must have one line, its own"):
        credentials_to_use()
    both = {"": Token(TOKEN), "trainer": Token("the-token-of-trainers")}
    assert security_of_environment() == Security(both, None, ("127.0.0.1",))


def test_files_of_tls_come_from_the_environment_unless_others_are_given(environ):
    assert credentials_to_use(tls=True) == Credentials(tls=Tls())
    environ(TLS_CA="ca", TLS_NAME="the-store")
    assert credentials_to_use() == credentials_to_use(tls=True) == Credentials(tls=Tls("ca", name="the-store"))
    assert credentials_to_use(tls=False) == NO_CREDENTIALS
    assert credentials_to_use(Tls("other")) == Credentials(tls=Tls("other"))


def test_a_server_may_be_reached_by_another_address_than_its_name():
    assert NO_CREDENTIALS.named("node-1") == NO_CREDENTIALS
    assert Credentials(tls=Tls("ca")).named("node-1").tls == Tls("ca", name="node-1")
    assert Credentials(tls=Tls("ca", name="the-store")).named("node-1").tls == Tls("ca", name="the-store")


def test_a_server_serves_tls_if_it_has_a_certificate(environ):
    environ(TLS_CA="ca")
    assert security_of_environment() is None
    environ(TLS_CERT="cert", TLS_KEY="key")
    assert security_of_environment() == Security(tls=Tls("ca", "cert", "key"))
    assert security_of_environment(tls=False) is None
    environ(TOKEN=TOKEN)
    assert security_of_environment(Tls("ca")) == Security({"": Token(TOKEN)})


def test_who_has_nothing_to_prove_loads_no_tls():
    script = "import sys, rallypoint.store.tcp as m; m.credentials_to_use(); sys.exit('ssl' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], timeout=60, check=True)


def test_tls_that_is_none_is_refused():
    with pytest.raises(TypeError, match="tls must be a Tls, a bool or None, not str"):
        credentials_to_use("ca.pem")


def test_the_networks_are_checked_where_they_mean_nothing_too(environ):
    environ(ALLOW_PLAIN="nowhere")
    with pytest.raises(ValueError, match=r"RALLYPOINT_ALLOW_PLAIN: .*nowhere"):
        security_of_environment()
    environ(ALLOW_PLAIN="127.0.0.1")
    assert security_of_environment() is None
