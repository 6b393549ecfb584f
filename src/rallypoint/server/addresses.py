"""How many peers each address has: one that has too many is refused one more.

Rules:

- A peer counts from the first byte that it sends on, so that one who says nothing keeps nobody of its address out, and
  one who is refused can be told in its own dialect.
- An address that has no peer leaves nothing behind.
- An IPv6 address counts as the network of 64 bits around it: who has one of those has all.

Theory of operation. A table of counts; a peer without an address, on a Unix domain socket, is in none of them::

    10.0.0.7            ->  8 peers
    2001:db8:1:2::/64   ->  1 peer

What this file does not know: networks of IPv4. Every address of a subnet is one of its own.
"""

from __future__ import annotations

from ipaddress import IPv6Address

__all__ = ["Addresses", "place_of"]


def place_of(host: str) -> str:
    """Give what a peer counts under: its address, or the network of 64 bits around an IPv6 address, which is one place.

    Args:
        host: an address as the system writes it; what is none stands for itself.
    """
    if ":" not in host:
        return host
    try:
        address = IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


class Addresses:
    """The places that peers have come from, as ``place_of`` gives them.

    Args:
        limit: peers of one address.

    Cost: O(1) for each peer.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._counts: dict[str, int] = {}

    def refusal(self, host: str) -> str | None:
        """Say why one more peer of an address is too many, ``None`` if it is not."""
        count = self._counts.get(host, 0)
        if count < self._limit:
            return None
        return f"{count} peers from {host} are connected, the limit for one address is {self._limit}"

    def add(self, host: str) -> None:
        """Count one more; an empty address is nobody's."""
        if host:
            self._counts[host] = self._counts.get(host, 0) + 1

    def remove(self, host: str) -> None:
        """Count one less."""
        if not host:
            return
        if self._counts[host] == 1:
            del self._counts[host]
        else:
            self._counts[host] -= 1

    def most(self) -> int:
        """Give the number of peers of the address that has the most. Cost: the number of addresses."""
        return max(self._counts.values(), default=0)
