from __future__ import annotations

import socket
from typing import Any

import pytest

from rallypoint.rendezvous import endpoint as module
from rallypoint.rendezvous.endpoint import (
    matches_machine_hostname,
    parse_rendezvous_config,
    parse_rendezvous_endpoint,
    try_parse_port,
)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        (None, "localhost", 123),
        ("", "localhost", 123),
        ("  ", "localhost", 123),
        ("node-1", "node-1", 123),
        ("dns.example.org:7", "dns.example.org", 7),
        (" host:1 ", "host", 1),
        ("a_b:3", "a_b", 3),
        ("192.0.2.7", "192.0.2.7", 123),
        ("192.0.2.7:0", "192.0.2.7", 0),
        ("[2001:db8::1]", "2001:db8::1", 123),
        ("[2001:db8::1]:65535", "2001:db8::1", 65535),
        ("[fe80::1%25eth0]:3", "fe80::1%eth0", 3),
        ("unix:/run/rally.sock", "unix:/run/rally.sock", 0),
    ],
)
def test_an_endpoint_is_host_and_port(text: str | None, host: str, port: int) -> None:
    assert parse_rendezvous_endpoint(text, 123) == (host, port)


@pytest.mark.parametrize("text", ["~", "dns~:3", "a b", "[::1", "[::1]x", "[node]:3", "[]:3", ":3"])
def test_a_bad_host_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="hostname of the rendezvous endpoint") as caught:
        parse_rendezvous_endpoint(text, 123)
    assert f"'{text}'" in str(caught.value)
    assert str(caught.value).endswith("an IPv4 address, or an IPv6 address.")


@pytest.mark.parametrize("text", ["::1", "fe80::1", "::1:29400", "2001:db8::1", "a:b:3"])
def test_an_ipv6_address_without_brackets_is_an_error_with_a_hint(text: str) -> None:
    with pytest.raises(ValueError, match=r"written in brackets, as in \[::1\]:29400\.$"):
        parse_rendezvous_endpoint(text, 29400)


@pytest.mark.parametrize("text", ["h:", "h:x", "h:-1", "h:65536", "[::1]:", "h:1.5", "h:٣"])
def test_a_bad_port_is_named_with_its_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match="port number of the rendezvous endpoint") as caught:
        parse_rendezvous_endpoint(text, 123)
    assert f"'{text}'" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "port"),
    [("0", 0), ("29400", 29400), ("65536", 65536), ("", None), (" 1", None), ("-1", None), ("٣", None), (None, None)],
)
def test_a_port_is_digits_and_nothing_else(text: str | None, port: int | None) -> None:
    assert try_parse_port(text) == port


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", {}),
        ("  ", {}),
        ("a=1,b=2=3", {"a": "1", "b": "2=3"}),
        (" a = 1 , b= x y ", {"a": "1", "b": "x y"}),
        ("a=1,a=2", {"a": "2"}),
    ],
)
def test_options_are_pairs_between_commas(text: str, options: dict[str, str]) -> None:
    assert parse_rendezvous_config(text) == options


@pytest.mark.parametrize("text", ["=1", "a=1,", "a=1,,b=2", ","])
def test_a_missing_key_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"^The rendezvous configuration string must be in format "):
        parse_rendezvous_config(text)


@pytest.mark.parametrize("text", ["b", "b=", "a=1,b", "b= "])
def test_a_missing_value_is_an_error_naming_the_key(text: str) -> None:
    with pytest.raises(ValueError, match=r"^The rendezvous configuration option 'b' must have a value specified\.$"):
        parse_rendezvous_config(text)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.1", "::1", "0:0:0:0:0:0:0:1", socket.gethostname()]
)
def test_this_machine_is_known_by_its_own_names(host: str) -> None:
    assert matches_machine_hostname(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "::2", "192.0.2.1", "224.0.0.1"])
def test_other_addresses_and_wildcards_do_not_mean_this_machine(host: str) -> None:
    assert not matches_machine_hostname(host)


def resolver(monkeypatch: pytest.MonkeyPatch, table: dict[str, str]) -> list[str]:
    asked: list[str] = []

    def look_up(host: str, *arguments: Any, **options: Any) -> list[Any]:
        asked.append(host)
        if host not in table:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (table[host], 0))]

    monkeypatch.setattr(module.socket, "getaddrinfo", look_up)
    monkeypatch.setattr(module.socket, "gethostname", lambda: "me")
    monkeypatch.setattr(module.socket, "getfqdn", lambda: "me.example.org")
    return asked


def test_a_name_that_shares_an_address_with_this_machine_means_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolver(monkeypatch, {"alias": "192.0.2.9", "me": "192.0.2.9"})
    assert matches_machine_hostname("alias")
    assert asked == ["alias", "me"]


def test_a_name_that_leads_to_loopback_means_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver(monkeypatch, {"alias": "127.0.1.1"})
    assert matches_machine_hostname("alias")


def test_the_full_name_means_this_machine_without_a_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = resolver(monkeypatch, {})
    assert matches_machine_hostname("ME.example.org")
    assert asked == []


def test_a_machine_whose_own_name_does_not_resolve_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver(monkeypatch, {"other": "192.0.2.9"})
    assert not matches_machine_hostname("other")
    assert not matches_machine_hostname("nobody")
