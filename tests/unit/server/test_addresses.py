from __future__ import annotations

import pytest

from rallypoint.server.addresses import Addresses, place_of


@pytest.mark.parametrize(
    ("host", "place"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("", ""),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::1", "::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("no:address", "no:address"),
    ],
)
def test_ipv6_addresses_of_one_network_are_one_place(host: str, place: str) -> None:
    assert place_of(host) == place


def test_one_peer_too_many_of_an_address_is_refused_with_the_numbers() -> None:
    addresses = Addresses(2)
    for _ in range(2):
        assert addresses.refusal("10.0.0.1") is None
        addresses.add("10.0.0.1")
    assert addresses.refusal("10.0.0.1") == "2 peers from 10.0.0.1 are connected, the limit for one address is 2"
    assert addresses.refusal("10.0.0.2") is None
    addresses.remove("10.0.0.1")
    assert addresses.refusal("10.0.0.1") is None


def test_peers_without_an_address_do_not_count() -> None:
    addresses = Addresses(1)
    for _ in range(3):
        assert addresses.refusal("") is None
        addresses.add("")
    addresses.remove("")
    assert addresses.most() == 0


def test_the_most_peers_of_one_address_are_known_and_an_empty_one_leaves_nothing() -> None:
    addresses = Addresses(9)
    for host in ("a", "b", "b"):
        addresses.add(host)
    assert addresses.most() == 2
    for host in ("a", "b", "b"):
        addresses.remove(host)
    assert addresses.most() == 0
    assert not addresses._counts
