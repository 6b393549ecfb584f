"""How an etcd store is told where its cluster is, and who it is there: arguments, a URL, the environment.

``etcd://[user[:password]@]host[:port][,host[:port]...][/prefix]``, ``etcds://`` for TLS; the query may have
``tls_ca``, ``tls_cert``, ``tls_key`` and ``tls_name`` (files, and the name in the members' certificates),
``password_file`` and ``session_ttl`` (seconds).

What a command line should not show may come from the environment instead: ``RALLYPOINT_ETCD_USER``,
``RALLYPOINT_ETCD_PASSWORD`` or ``RALLYPOINT_ETCD_PASSWORD_FILE``; for TLS ``RALLYPOINT_ETCD_TLS_CA``, ``_CERT``,
``_KEY`` and ``_NAME``. An argument goes before the URL, the URL before the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import parse_qsl, unquote

from rallypoint.types import Endpoint

if TYPE_CHECKING:
    from rallypoint.net.tls import Tls

__all__ = ["DEFAULT_PORT", "DEFAULT_PREFIX", "Place", "parse_url"]

DEFAULT_PORT: Final = 2379
DEFAULT_PREFIX: Final = "rallypoint"

_TLS: Final = {  # in Tls's order, and the variables that stand in for what a URL does not say
    "tls_ca": "RALLYPOINT_ETCD_TLS_CA",
    "tls_cert": "RALLYPOINT_ETCD_TLS_CERT",
    "tls_key": "RALLYPOINT_ETCD_TLS_KEY",
    "tls_name": "RALLYPOINT_ETCD_TLS_NAME",
}
_KNOWN: Final = frozenset({*_TLS, "password_file", "session_ttl", "rank", "world_size"})


class Place(NamedTuple):
    """Where a cluster is, and who we are there.

    Attributes:
        endpoints: of the members.
        prefix: what the store's keys begin with in etcd, without the slash behind it.
        user: who we are; empty for nobody.
        password: the user's.
        tls: our files; ``None`` for no TLS.
        query: what else the URL says.
    """

    endpoints: tuple[Endpoint, ...]
    prefix: str
    user: str
    password: str
    tls: Tls | None
    query: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Place({','.join(map(str, self.endpoints))}/{self.prefix})"  # never the password


def parse_url(url: str) -> Place:
    """Read the URL of a cluster; the environment fills in what it does not say.

    Args:
        url: as above; ``host:port,host:port`` alone does, too.

    Raises:
        ValueError: it is no such URL, or a file that it names is not what it should be; the sentence shows no
            password.
    """
    if "://" not in url:
        url = f"etcd://{url}"
    scheme, _, rest = url.partition("://")
    if scheme not in ("etcd", "etcds"):
        raise ValueError(f"the URL of an etcd cluster begins with etcd:// or etcds://, not {scheme}://")
    rest, _, asked = rest.partition("?")  # by hand: several addresses in brackets are no URL to Python
    netloc, _, path = rest.partition("/")
    who, _, hosts = netloc.rpartition("@")
    query = dict(parse_qsl(asked, keep_blank_values=True))
    unknown = sorted(set(query) - _KNOWN)
    if "@" in path + asked and (who or unknown or not _is_endpoint(netloc)):
        raise ValueError(
            "a / or ? in the user's name or password is written %2F or %3F in the URL of an etcd cluster, and "
            "a @ behind the hosts %40"
        )
    endpoints = tuple(_endpoint(part) for part in hosts.split(","))
    if unknown:
        known = ", ".join(sorted(_KNOWN))
        raise ValueError(f"an etcd URL has no option {unknown[0]!r}; there are {known}")
    user, has_password, password = who.partition(":")
    return Place(
        endpoints,
        unquote(path.strip("/")) or DEFAULT_PREFIX,
        unquote(user) or os.environ.get("RALLYPOINT_ETCD_USER", ""),
        unquote(password) if has_password else _password(query.get("password_file")),
        _tls(scheme == "etcds", query),
        query,
    )


def _is_endpoint(text: str) -> bool:
    try:
        return bool(_endpoint(text))
    except ValueError:
        return False


def _endpoint(text: str) -> Endpoint:
    """Read ``host``, ``host:port`` or ``[address]:port``."""
    if text.startswith("["):
        host, bracket, tail = text[1:].partition("]")
        is_whole = bool(bracket) and (not tail or tail.startswith(":"))
        port = tail[1:]
    else:
        host, _, port = text.partition(":")
        is_whole = True
    if not is_whole or not host or (port and not (port.isdigit() and 0 < int(port) < 65536)):
        is_word = bool(is_whole and host and not port.isdigit())  # it may be a password, and the host be forgotten
        shown = f"{host}:..." if is_word else text
        raise ValueError(f"a member of an etcd cluster is host:port, got {shown!r}")
    return Endpoint(host, int(port) if port else DEFAULT_PORT)


def _password(file: str | None) -> str:
    file = file or os.environ.get("RALLYPOINT_ETCD_PASSWORD_FILE")
    if file:
        from rallypoint.net.secret import read_secret

        return read_secret(file).rstrip("\r\n")
    return os.environ.get("RALLYPOINT_ETCD_PASSWORD", "")


def _tls(is_wanted: bool, query: Mapping[str, str]) -> Tls | None:
    values = [query.get(name) or os.environ.get(variable) or None for name, variable in _TLS.items()]
    if not is_wanted and not any(values):
        return None
    from rallypoint.net.tls import Tls

    return Tls(*values)
