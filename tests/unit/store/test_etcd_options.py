"""Where a cluster is, and who we are there: URL, environment, and that no password is shown."""

from __future__ import annotations

import pytest

from rallypoint.net.tls import Tls
from rallypoint.store.etcd_options import DEFAULT_PORT, DEFAULT_PREFIX, parse_url
from rallypoint.types import Endpoint


def test_a_whole_url():
    place = parse_url("etcd://me:p%40ss@a:1,b,[::1]:3/jobs/7?session_ttl=5")
    assert place.endpoints == (Endpoint("a", 1), Endpoint("b", DEFAULT_PORT), Endpoint("::1", 3))
    assert (place.user, place.password, place.prefix, place.tls) == ("me", "p@ss", "jobs/7", None)
    assert place.query == {"session_ttl": "5"}
    assert "p@ss" not in repr(place)


def test_a_host_alone():
    place = parse_url("host:1234")
    assert place.endpoints == (Endpoint("host", 1234),)
    assert (place.prefix, place.user, place.tls) == (DEFAULT_PREFIX, "", None)


def test_tls_by_its_scheme_and_by_its_files():
    assert parse_url("etcds://host").tls == Tls()
    place = parse_url("etcd://host?tls_ca=ca.pem&tls_cert=c.pem&tls_key=k.pem&tls_name=n")
    assert place.tls == Tls("ca.pem", "c.pem", "k.pem", "n")


def test_secrets_come_from_the_environment_or_a_file(monkeypatch, tmp_path):
    monkeypatch.setenv("RALLYPOINT_ETCD_USER", "me")
    monkeypatch.setenv("RALLYPOINT_ETCD_PASSWORD", "from the environment")
    monkeypatch.setenv("RALLYPOINT_ETCD_TLS_CA", "ca.pem")
    place = parse_url("host")
    assert (place.user, place.password, place.tls) == ("me", "from the environment", Tls("ca.pem"))
    file = tmp_path / "password"
    file.touch(mode=0o600)
    file.write_text("from a file\n")
    assert parse_url(f"etcd://host?password_file={file}").password == "from a file"
    monkeypatch.setenv("RALLYPOINT_ETCD_PASSWORD_FILE", str(file))
    assert parse_url("host").password == "from a file"
    file.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        parse_url("host")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://host", "begins with etcd://"),
        ("etcd://", "host:port, got ''"),
        ("etcd://host:port", r"host:port, got 'host:\.\.\.'"),
        ("etcd://host:0", "host:port, got 'host:0'"),
        ("etcd://[::1", "host:port, got"),
        ("etcd://host?tls=1", "no option 'tls'"),
        ("etcd://me:pass/word@host", "%2F or %3F in the URL of an etcd cluster, and"),
        ("etcd://me:pass?word@host", "%2F or %3F in the URL of an etcd cluster, and"),
        ("etcd://me?pass@host:1", "%2F or %3F in the URL of an etcd cluster, and"),
    ],
)
def test_what_is_no_url_is_refused(url, why):
    with pytest.raises(ValueError, match=why):
        parse_url(url)
