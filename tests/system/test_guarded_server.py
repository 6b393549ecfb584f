"""``rallypoint serve`` with a token, with TLS, with access rules: who gets in, who does not, and what both are told."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.support.certificates import Authority
from tests.support.raw_server import LOOP_TWINS, PATIENCE_S, RawClient, use_twin
from tests.support.relayed import started
from tests.support.served import served
from tests.support.torch_peers import torch_client, torch_server

from rallypoint.errors import AccessDeniedError, AuthenticationError
from rallypoint.net.tls import CHECK_S, Tls
from rallypoint.protocol.session.auth import Hello, Token
from rallypoint.protocol.session.codec import encode_request
from rallypoint.protocol.session.spec import OPENING, SessionVerb, Status
from rallypoint.protocol.spec import CloseReason
from rallypoint.store.tcp import TCPStore

TOKEN = "the-token-of-the-job"
HELLO = Hello(b"", b"", b"recorded", b"c" * 16, 10_000)


@pytest.fixture(params=LOOP_TWINS, autouse=True)
def twin(request, monkeypatch):
    return use_twin(request.param, monkeypatch)


@pytest.fixture(autouse=True)
def token(monkeypatch):
    monkeypatch.setenv("RALLYPOINT_TOKEN", TOKEN)


def store_at(ready, **options):
    return TCPStore(ready["host"], ready["port"], timeout=PATIENCE_S, wait_for_workers=False, **options)


def opening(hello=HELLO):
    return OPENING + encode_request(SessionVerb.HELLO, 0, 0, hello.version, *hello[:-1])


def prove(nonce, token=TOKEN, hello=HELLO):
    return encode_request(SessionVerb.PROVE, 0, 0, Token(token).client_proof(hello, nonce))


def read_frame(client):
    (size,) = struct.unpack("<I", client.read(4))
    frame = client.read(size)
    return Status(frame[0]), frame[9:]


def challenge(client, hello=HELLO):
    """Say HELLO, and give the server's nonce."""
    client.send(opening(hello))
    status, fields = read_frame(client)
    assert status is Status.CHALLENGE
    return fields[8:]


def assert_refused(client, reason=CloseReason.AUTHENTICATION_FAILED):
    status, fields = read_frame(client)
    assert status is Status.CLOSING
    assert reason.value.encode() in fields
    assert client.read_end() == b""
    client.close()


@pytest.fixture
def guarded():
    with served("--port", "0") as (process, ready):
        yield process, ready


def raw(ready):
    return RawClient((ready["host"], ready["port"]), validates=False)


def test_who_has_the_token_gets_in(guarded):
    _, ready = guarded
    with_file = store_at(ready)
    with_file.set("k", b"v")
    assert with_file.get("k") == b"v"
    with_file.close()


@pytest.mark.parametrize("where", ["shortest", "tcp"])
def test_who_has_another_token_or_none_is_told_at_once(guarded, monkeypatch, where):
    if where == "tcp":
        monkeypatch.setenv("RALLYPOINT_UNIX", "0")
    process, ready = guarded
    monkeypatch.setenv("RALLYPOINT_TOKEN", "another-token-of-a-job")
    with pytest.raises(AuthenticationError, match="the proof of the job's token is wrong") as caught:
        store_at(ready)
    assert "another-token" not in str(caught.value)
    monkeypatch.setenv("RALLYPOINT_TOKEN", "trainer another-token-of-a-job")
    with pytest.raises(AuthenticationError, match="the proof of the identity 'trainer' is wrong"):
        store_at(ready)
    monkeypatch.delenv("RALLYPOINT_TOKEN")
    with pytest.raises(AuthenticationError, match="the server wants to see a token: set RALLYPOINT_TOKEN"):
        store_at(ready, dialect="auto")
    process.terminate()
    said = process.stderr.read()
    assert "the proof of the job's token is wrong" in said
    assert TOKEN not in said
    assert "another-token" not in said


def test_a_server_that_does_not_ask_for_the_token_is_refused(monkeypatch):
    monkeypatch.delenv("RALLYPOINT_TOKEN")
    with served("--port", "0") as (_, ready):
        monkeypatch.setenv("RALLYPOINT_TOKEN", TOKEN)
        with pytest.raises(AuthenticationError, match="the server has no token"):
            store_at(ready)


def test_a_recorded_handshake_opens_nothing(guarded):
    _, ready = guarded
    client = raw(ready)
    recorded = prove(challenge(client))
    client.send(recorded)
    assert read_frame(client)[0] is Status.OK
    client.close()

    client = raw(ready)
    client.send(opening() + recorded)
    assert read_frame(client)[0] is Status.CHALLENGE
    assert_refused(client)


def test_a_server_s_own_answer_is_no_proof(guarded):
    _, ready = guarded
    client, other = raw(ready), raw(ready)
    nonce = challenge(client)
    challenge(other)
    other.send(prove(nonce))  # the right token, for another connection's nonce
    assert_refused(other)
    client.send(prove(nonce, hello=HELLO._replace(label=b"other")))  # the right nonce, another HELLO
    assert_refused(client)


def test_a_handshake_that_is_cut_anywhere_opens_nothing(guarded):
    _, ready = guarded
    proof = prove(b"n" * 16)
    for size in range(len(opening()) + len(proof)):
        client = raw(ready)
        client.send((opening() + proof)[:size])
        client.sock.shutdown(socket.SHUT_WR)
        client.read_end()
        client.close()
    store = store_at(ready)
    assert store.num_keys() == 0
    store.close()


@pytest.mark.parametrize(
    "first",
    [
        encode_request(SessionVerb.SET, 1, 0, b"/k", b"v"),
        encode_request(SessionVerb.PROVE, 0, 0, bytes(32)),
        opening()[4:] + encode_request(SessionVerb.SET, 1, 0, b"/k", b"v"),
    ],
    ids=["a request", "a proof of nothing", "a request in place of the proof"],
)
def test_nothing_is_done_before_the_proof(guarded, first):
    _, ready = guarded
    client = raw(ready)
    client.send(OPENING + first)
    client.read_end()
    client.close()
    store = store_at(ready)
    assert not store.check(["k"])
    store.close()


def test_torch_is_refused_and_the_log_says_how_to_let_it_in(guarded):
    process, ready = guarded
    client = RawClient((ready["host"], ready["port"]))
    assert client.read_end() == b""
    client.close()
    process.terminate()
    assert process.stderr.read().count("--allow-plain 127.0.0.1/32 ") == 1


def test_torch_gets_in_from_a_network_that_was_named():
    with served("--port", "0", "--allow-plain", "127.0.0.0/8") as (_, ready):
        store = store_at(ready)
        store.set("ours", b"1")
        torchs = torch_client(ready["port"])
        assert torchs.get("ours") == b"1"
        torchs.set("theirs", b"2")
        assert store.get("theirs") == b"2"
        assert torchs.add("n", 5) == 5
        assert store.add("n", 1) == 6
        store.close()


def test_a_server_that_speaks_c10d_only_is_refused_at_once_by_whoever_has_a_token():
    server = torch_server(use_libuv=False)
    with pytest.raises(AuthenticationError, match="speaks c10d only, and cannot prove"):
        store_at({"host": "127.0.0.1", "port": server.port})


def test_torch_gets_in_through_a_relay_that_has_token_and_certificates(authority, monkeypatch):
    with served("--port", "0", *tls_options(authority.issue("127.0.0.1"))) as (_, ready):
        files = authority.issue("relay-1")
        for name, path in zip(("CA", "CERT", "KEY"), files, strict=False):
            monkeypatch.setenv(f"RALLYPOINT_TLS_{name}", path)
        with started("relay", f"127.0.0.1:{ready['port']}") as (_, port):
            torchs = torch_client(port)
            torchs.set("theirs", bytes(3_000_000))
            assert torchs.add("n", 5) == 5
            store = store_at(ready)
            assert store.get("theirs") == bytes(3_000_000)
            assert store.add("n", 1) == 6
            store.close()


def test_a_socket_file_is_guarded_by_its_permissions(tmp_path):
    path = str(tmp_path / "socket")
    with served("--bind", f"unix:{path}"):
        client = RawClient(path)
        assert client.ping()
        client.close()


def test_the_token_shows_in_no_list_of_processes(tmp_path, monkeypatch):
    monkeypatch.delenv("RALLYPOINT_TOKEN")
    path = tmp_path / "token"
    path.touch(mode=0o600)
    path.write_text(TOKEN)
    with served("--port", "0", "--token-file", str(path)) as (process, ready):
        for name in ("cmdline", "environ"):
            assert TOKEN.encode() not in Path(f"/proc/{process.pid}/{name}").read_bytes()
        monkeypatch.setenv("RALLYPOINT_TOKEN_FILE", str(path))
        store_at(ready).close()


def test_a_worker_s_error_shows_no_token(guarded):
    _, ready = guarded
    script = f"import rallypoint; rallypoint.TCPStore('127.0.0.1', {ready['port']}, timeout=20)"
    wrong = "a-token-that-is-wrong"
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "RALLYPOINT_TOKEN": wrong},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "AuthenticationError" in ended.stderr
    assert wrong not in ended.stderr


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "ours")


def tls_options(files):
    return ["--tls-cert", files.cert, "--tls-key", files.key, *(["--tls-ca", files.ca] if files.ca else [])]


def test_token_and_tls_go_together(authority, tmp_path):
    files = authority.issue("127.0.0.1")._replace(ca=None)
    with served("--port", "0", *tls_options(files)) as (process, ready):
        store = store_at(ready, tls=Tls(authority.file))
        store.set("k", b"v")
        assert store.get("k") == b"v"
        store.close()
        foreign = Authority(tmp_path / "theirs")
        with pytest.raises(AuthenticationError, match="its certificate does not come from a trusted authority"):
            store_at(ready, tls=Tls(foreign.file))
        for dialect in ("session", "auto", "c10d"):
            with pytest.raises(
                AuthenticationError, match="came without TLS, which this server wants: give the client tls="
            ):
                store_at(ready, dialect=dialect)
        process.terminate()
        assert "it came without TLS, which this server wants" in process.stderr.read()


def test_certificates_name_identities_and_rules_bind_them(authority, tmp_path, monkeypatch):
    monkeypatch.delenv("RALLYPOINT_TOKEN")
    rules = tmp_path / "rules.json"
    rules.write_text('{"trainer": {"read": [""], "write": ["train/"]}, "*": {"read": ["shared/"]}}')
    arguments = [*tls_options(authority.issue("127.0.0.1")), "--access-rules", str(rules)]
    with served("--port", "0", *arguments) as (_, ready):
        trainer = store_at(ready, dialect="session", tls=authority.issue("node-1", common_name="trainer"))
        viewer = store_at(ready, dialect="session", tls=authority.issue("viewer"))
        trainer.set("train/step", b"1")
        for refused in (
            lambda: trainer.set("shared/x", b"1"),
            lambda: viewer.set("shared/x", b"1"),
            lambda: viewer.get("train/step"),
        ):
            with pytest.raises(AccessDeniedError, match="may not"):
                refused()
        assert trainer.get("train/step") == b"1"
        trainer.close()
        viewer.close()


def test_a_new_certificate_is_taken_without_a_restart(authority, tmp_path):
    stem = tmp_path / "server"
    authority.write(stem, "127.0.0.1")
    with served("--port", "0", *tls_options(Tls(None, f"{stem}.pem", f"{stem}.key"))) as (_, ready):
        before = store_at(ready, tls=Tls(authority.file))
        new = Authority(tmp_path / "new")
        new.write(stem, "127.0.0.1")
        until = CHECK_S * 20
        while True:
            try:
                after = store_at(ready, tls=Tls(new.file))
                break
            except AuthenticationError:
                until -= CHECK_S / 5
                assert until > 0
                time.sleep(CHECK_S / 5)
        before.set("k", b"v")
        assert after.get("k") == b"v"
        before.close()
        after.close()
