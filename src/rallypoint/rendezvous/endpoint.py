"""What people write about a rendezvous, read: endpoints, option strings, and "does this host name mean me?".

An endpoint has one of the forms of RFC 3986, ``host``, ``host:port``, ``[IPv6]`` or ``[IPv6]:port``, or is
``unix:PATH``. An IPv6 address without brackets is an error, because its last group cannot be told from a port.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import socket
from collections.abc import Collection
from typing import TYPE_CHECKING

from rallypoint.net.url import refuse_user, without_secrets
from rallypoint.types import Endpoint

if TYPE_CHECKING:
    from rallypoint.rendezvous.handler import RendezvousParameters

__all__ = [
    "matches_machine_hostname",
    "parse_rendezvous_config",
    "parse_rendezvous_endpoint",
    "refuse_unknown_options",
    "try_parse_port",
]

_PORT_MAX = 65535
_HOST_NAME = re.compile(r"[\w.-]+")
_UNIX_PREFIX = "unix:"


def try_parse_port(text: str | None) -> int | None:
    """Give the number that one to five digits make, or ``None`` for anything else; its size is not looked at."""
    return int(text) if text is not None and re.fullmatch(r"[0-9]{1,5}", text) else None


def parse_rendezvous_endpoint(endpoint: str | None, default_port: int) -> Endpoint:
    """Read where a rendezvous backend is reached.

    Args:
        endpoint: as above; blanks around it do not count. ``None`` or a blank one means ``localhost``.
        default_port: the port where none is written.

    Returns:
        Host, without brackets, and port; also an ordinary tuple of two. For ``unix:PATH`` the host is the whole
        text and the port 0.

    Raises:
        ValueError: in one sentence, naming the endpoint.

    Source: the two sentences, and what they are said about, as observed in torch 2.13.0.
    """
    text = endpoint.strip() if endpoint else ""
    if not text:
        return Endpoint("localhost", default_port)
    if text.startswith(_UNIX_PREFIX) and len(text) > len(_UNIX_PREFIX):
        return Endpoint(text, 0)
    refuse_user(text)
    if text.startswith("["):
        literal, bracket, rest = text[1:].partition("]")
        host = _ipv6_address(literal)
        if host is None or not bracket or (rest and not rest.startswith(":")):
            raise _bad_host(text)
        port_text = rest[1:] if rest else None
    elif _ipv6_address(text) is not None or text.count(":") > 1:
        raise _bad_host(text, f" An IPv6 address is written in brackets, as in [::1]:{default_port}.")
    else:
        host, colon, rest = text.partition(":")
        port_text = rest if colon else None
        if not _HOST_NAME.fullmatch(host):
            raise _bad_host(text)
    if port_text is None:
        return Endpoint(host, default_port)
    port = try_parse_port(port_text)
    if port is None or port > _PORT_MAX:
        raise ValueError(
            f"The port number of the rendezvous endpoint '{without_secrets(text)}' must be an integer between 0 and "
            f"{_PORT_MAX + 1}."
        )
    return Endpoint(host, port)


def _ipv6_address(text: str) -> str | None:
    address = text.replace("%25", "%")  # how a zone is written inside brackets (RFC 6874)
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return None
    return address


def _bad_host(endpoint: str, hint: str = "") -> ValueError:
    return ValueError(
        f"The hostname of the rendezvous endpoint '{without_secrets(endpoint)}' must be a dot-separated list of "
        f"labels, an IPv4 address, or an IPv6 address.{hint}"
    )


def parse_rendezvous_config(text: str) -> dict[str, str]:
    """Read the options of a backend, ``key1=value1,key2=value2``.

    Blanks around keys and values do not count; a value may hold ``=`` but no comma; of two equal keys the last
    counts, so that scripts can append what they want to change. A blank text has no options.

    Raises:
        ValueError: if a key or a value is missing.

    Source: the two sentences, and what they are said about, as observed in torch 2.13.0.
    """
    options: dict[str, str] = {}
    if not text.strip():
        return options
    for pair in text.split(","):
        key, _, value = (part.strip() for part in pair.partition("="))
        if not key:
            raise ValueError(
                "The rendezvous configuration string must be in format <key1>=<value1>,...,<keyN>=<valueN>."
            )
        if not value:
            raise ValueError(f"The rendezvous configuration option '{key}' must have a value specified.")
        options[key] = value
    return options


def matches_machine_hostname(host: str) -> bool:
    """Tell whether a host name or address means this machine.

    It does if it is ``localhost``, a loopback address in any spelling, this machine's name or full name, an address
    of one of its interfaces, or a name with such an address. Wildcards (``0.0.0.0``, ``::``) mean nobody.

    Args:
        host: a name or an address; IPv6 without brackets.

    Cost: none for addresses and own names; else one look-up of ``host`` and one of this machine's own name.
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    address = _parse_address(host)
    if address is not None and address.is_loopback:
        return True
    own_name = socket.gethostname()
    if host.lower() in (own_name.lower(), socket.getfqdn().lower()):
        return True
    if address is not None and _is_bindable(address):
        return True
    theirs = _addresses_of(host)
    if any(one.is_loopback or _is_bindable(one) for one in theirs):
        return True
    return bool(theirs and theirs & _addresses_of(own_name))


_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def _parse_address(text: object) -> _Address | None:
    try:
        return ipaddress.ip_address(str(text))
    except ValueError:
        return None


def _addresses_of(host: str) -> set[_Address]:
    """Give the addresses of a name; none if it cannot be resolved, as may happen even to the machine's own."""
    try:
        found = socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP, flags=socket.AI_CANONNAME)
    except (OSError, UnicodeError):
        return set()
    addresses = (_parse_address(sockaddr[0]) for *_, sockaddr in found)
    return {address for address in addresses if address is not None}


def _is_bindable(address: _Address) -> bool:
    """Ask the kernel whether an address is one of this machine's; only then can a socket be bound to it."""
    if address.is_unspecified or address.is_multicast:
        return False
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def refuse_unknown_options(params: RendezvousParameters, known: Collection[str]) -> None:
    """Refuse options that a backend would ignore.

    Raises:
        ValueError: naming the option, the nearest known one if there is one, and all known ones.
    """
    for option in params.config:
        if option not in known:
            near = difflib.get_close_matches(option, known, 1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise ValueError(
                f"The rendezvous configuration option '{option}' is unknown to the backend '{params.backend}': "
                f"{hint}known are {', '.join(sorted(known))}."
            )
