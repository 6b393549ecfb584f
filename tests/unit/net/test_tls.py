from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tests.support.certificates import Authority

from rallypoint.net.tls import CHECK_S, Channel, ServerTls, Tls, TlsError, client_context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
def foreign(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "theirs")


def meet(client: Channel, server: Channel) -> tuple[list[str], bytes]:
    """Carry bytes both ways until nothing moves; give the failures, client's first, and what the server heard."""
    failures = []
    heard = b""
    try:
        client.open()
    except TlsError as error:
        failures.append(f"client: {error}")
    while True:
        to_server, to_client = client.take_output(), b""
        try:
            if to_server:
                heard += server.feed(to_server)
        except TlsError as error:
            failures.append(f"server: {error}")
        to_client = server.take_output()
        try:
            if to_client:
                client.feed(to_client)
        except TlsError as error:
            failures.append(f"client: {error}")
        if not (to_server or to_client):
            return failures, heard


def channels(
    server: Tls, client: Tls, name: str = "localhost", log: list[str] | None = None
) -> tuple[Channel, Channel]:
    lines = [] if log is None else log
    return Channel(client_context(client), name=name), ServerTls(server, lines.append).channel(0.0)


def test_two_who_trust_each_other_s_authority_talk(authority: Authority) -> None:
    client, server = channels(authority.issue("localhost")._replace(ca=None), Tls(authority.file))
    assert meet(client, server) == ([], b"")
    assert client.is_open
    assert server.is_open
    large = os.urandom(300_000)
    assert server.feed(client.seal(large)) == large
    assert client.feed(server.seal(large)) == large
    assert server.identity() == b""
    assert server.feed(client.close()) == b""
    assert server.has_ended


def test_bytes_may_come_one_by_one(authority: Authority) -> None:
    client, server = channels(authority.issue("localhost")._replace(ca=None), Tls(authority.file))
    meet(client, server)
    sealed = client.seal(b"hello")
    parts = [server.feed(sealed[at : at + 1]) for at in range(len(sealed))]
    assert parts == [b""] * (len(sealed) - 1) + [b"hello"]


@pytest.mark.parametrize(
    ("hosts", "common_name", "identity"),
    [(("node-1",), "trainer", b"trainer"), (("node-1", "node-2"), None, b"node-1")],
)
def test_a_client_s_certificate_names_it(
    authority: Authority, hosts: tuple[str, ...], common_name: str | None, identity: bytes
) -> None:
    client, server = channels(authority.issue("localhost"), authority.issue(*hosts, common_name=common_name))
    assert meet(client, server) == ([], b"")
    assert server.identity() == identity


def test_a_name_may_be_too_long(authority: Authority) -> None:
    host = "x" * 300 + "@node-1"
    client, server = channels(authority.issue("localhost"), authority.issue(host))
    meet(client, server)
    with pytest.raises(TlsError, match="the name in its certificate is 307 bytes long, the limit is 256"):
        server.identity()


def test_a_foreign_server_is_refused(authority: Authority, foreign: Authority) -> None:
    client, server = channels(foreign.issue("localhost")._replace(ca=None), Tls(authority.file))
    (ours, theirs), _ = meet(client, server)
    assert re.fullmatch(r"client: its certificate does not come from a trusted authority \(.*\)", ours)
    assert theirs == "server: it refuses our certificate: unknown ca"


def test_an_expired_server_is_refused(authority: Authority) -> None:
    server_files = authority.issue("localhost", is_expired=True)._replace(ca=None)
    client, server = channels(server_files, Tls(authority.file))
    failures, _ = meet(client, server)
    assert failures == [
        "client: its certificate has expired",
        "server: it refuses our certificate: certificate expired",
    ]


@pytest.mark.parametrize("name", ["node-1", "127.0.0.1"])
def test_a_server_of_another_name_is_refused(authority: Authority, name: str) -> None:
    client, server = channels(authority.issue("localhost")._replace(ca=None), Tls(authority.file), name)
    failures, _ = meet(client, server)
    assert re.fullmatch(f"client: its certificate is for another name: .*mismatch.*'{name}'", failures[0])


def test_an_address_is_a_name_too(authority: Authority) -> None:
    client, server = channels(authority.issue("127.0.0.1")._replace(ca=None), Tls(authority.file), "127.0.0.1")
    assert meet(client, server) == ([], b"")


def test_a_client_without_a_certificate_is_refused_where_one_is_wanted(authority: Authority) -> None:
    client, server = channels(authority.issue("localhost"), Tls(authority.file))
    failures, heard = meet(client, server)
    assert failures == [
        "server: it brought no certificate",
        "client: it refuses our certificate: certificate required",
    ]
    assert heard == b""


def test_foreign_and_expired_clients_are_refused(authority: Authority, foreign: Authority) -> None:
    stranger = foreign.issue("node-1")._replace(ca=authority.file)
    failures, _ = meet(*channels(authority.issue("localhost"), stranger))
    assert failures[0].startswith("server: its certificate does not come from a trusted authority (")
    assert failures[1] == "client: it refuses our certificate: unknown ca"
    failures, _ = meet(*channels(authority.issue("localhost"), authority.issue("node-1", is_expired=True)))
    assert failures[0] == "server: its certificate has expired"


def test_bytes_that_are_no_tls_are_refused(authority: Authority) -> None:
    server = ServerTls(authority.issue("localhost"), [].append).channel(0.0)
    with pytest.raises(TlsError, match="it does not speak TLS"):
        server.feed(b"\x16GET / HTTP/1.1\r\n\r\n")


def test_a_changed_byte_ends_it(authority: Authority) -> None:
    client, server = channels(authority.issue("localhost")._replace(ca=None), Tls(authority.file))
    meet(client, server)
    sealed = bytearray(client.seal(b"hello"))
    sealed[-1] ^= 1
    with pytest.raises(TlsError, match="TLS has failed: decryption failed or bad record mac"):
        server.feed(bytes(sealed))


def test_new_files_are_taken_when_somebody_comes(authority: Authority, foreign: Authority, tmp_path: Path) -> None:
    stem = tmp_path / "server"
    authority.write(stem, "localhost")
    files = Tls(cert=f"{stem}.pem", key=f"{stem}.key")
    lines: list[str] = []
    server = ServerTls(files, lines.append)
    ours, theirs = client_context(Tls(authority.file)), client_context(Tls(foreign.file))
    assert meet(Channel(ours, name="localhost"), server.channel(0.0))[0] == []

    foreign.write(stem, "localhost")
    assert meet(Channel(ours, name="localhost"), server.channel(CHECK_S / 2))[0] == []
    assert lines == []
    assert meet(Channel(theirs, name="localhost"), server.channel(CHECK_S))[0] == []
    assert lines == [f"has taken a new certificate from {stem}.pem"]


def test_new_files_that_are_no_good_leave_the_old_ones_in_force(authority: Authority, tmp_path: Path) -> None:
    stem = tmp_path / "server"
    authority.write(stem, "localhost")
    files = Tls(cert=f"{stem}.pem", key=f"{stem}.key")
    lines: list[str] = []
    server = ServerTls(files, lines.append)
    context = client_context(Tls(authority.file))

    Path(f"{stem}.pem").write_text("torn")
    for now in (CHECK_S, 2 * CHECK_S, 3 * CHECK_S):
        assert meet(Channel(context, name="localhost"), server.channel(now))[0] == []
    assert len(lines) == 1
    assert lines[0].startswith(f"goes on with the old certificate: the certificate {stem}.pem and the key {stem}.key ")

    Path(f"{stem}.pem").unlink()
    assert meet(Channel(context, name="localhost"), server.channel(4 * CHECK_S))[0] == []
    authority.write(stem, "localhost")
    assert meet(Channel(context, name="localhost"), server.channel(5 * CHECK_S))[0] == []
    assert [line.partition(" ")[0] for line in lines] == ["goes", "goes", "has"]


def test_files_that_are_no_good_are_named(authority: Authority, tmp_path: Path) -> None:
    files, other = authority.issue("localhost"), authority.issue("localhost")
    torn = tmp_path / "torn.pem"
    torn.write_text("torn")
    torn.chmod(0o600)
    for wrong, complaint in [
        (Tls(), "a server with TLS needs a certificate"),
        (files._replace(ca=str(torn)), f"the authorities' certificates {torn} cannot be used: "),
        (files._replace(cert=str(torn)), f"the certificate {torn} and the key {files.key} cannot be used: "),
        (files._replace(key=other.key), f"the certificate {files.cert} and the key {other.key} cannot be used: "),
        (files._replace(key=f"{tmp_path}/no"), f"the file {tmp_path}/no cannot be used: No such file"),
    ]:
        with pytest.raises(ValueError, match=re.escape(complaint)):
            ServerTls(wrong, [].append)
    with pytest.raises(ValueError, match=re.escape(f"the authorities' certificates {tmp_path}/no cannot be used: ")):
        client_context(Tls(f"{tmp_path}/no"))


def test_a_key_that_others_can_read_is_refused(authority: Authority) -> None:
    files = authority.issue("localhost")
    assert files.key is not None
    Path(files.key).chmod(0o644)
    with pytest.raises(ValueError, match=f"the file {files.key} holds a secret and has mode 0644"):
        ServerTls(files, [].append)


def test_an_encrypted_key_is_refused_and_nobody_is_asked(authority: Authority) -> None:
    from cryptography.hazmat.primitives import serialization

    files = authority.issue("localhost")
    assert files.key is not None
    key = serialization.load_pem_private_key(Path(files.key).read_bytes(), None)
    lock = serialization.BestAvailableEncryption(b"password")
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)
    Path(files.key).write_bytes(key.private_bytes(*form))
    with pytest.raises(ValueError, match="the key is encrypted, and there is nobody to ask for its password"):
        ServerTls(files, [].append)
