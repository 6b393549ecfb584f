"""``init_process_group(init_method="rallypoint://host:port/run")``: where a group meets, as one line.

::

    rallypoint://head:29500/run-7                        a server that runs (rallypoint serve)
    rallypoint://a:29500,b:29500/run-7                   one of several places where it is to be found
    rallypoint+tls://head:29500/run-7                    the same by TLS
    rallypoint+etcd://a:2379,b:2379/run-7                an etcd cluster; rallypoint+etcds by TLS
    rallypoint+file:///shared/run-7.store?run=run-7      a file that all processes see
    ...?rank=3&world_size=8                              else RANK and WORLD_SIZE of the environment
    ...?serve=1                                          rank 0 runs the server

What follows ``rallypoint+`` is the kind of store. Each run has its keys to itself, and so has each life of a run: the
members first exchange a word that rank 0 made up for this life, so nobody reads the addresses of the life before, and
who does not come is named. The keys of the life before are deleted where the store can do that.

torch's own query parser is not used: it does not unquote, and loses what follows a second ``=``.
"""

from __future__ import annotations

import difflib
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from rallypoint.clock import Deadline
from rallypoint.errors import DistStoreError
from rallypoint.gateway.opening import open_store
from rallypoint.integrations.torch_store import as_torch_store, torchs_errors
from rallypoint.net.address import parse_endpoint
from rallypoint.net.url import refuse_user, split_url, without_secrets
from rallypoint.primitives.exchange import exchange
from rallypoint.primitives.kind import has_sessions
from rallypoint.store.base import DEFAULT_TIMEOUT, as_timeout_s
from rallypoint.store.prefix import PrefixStore

if TYPE_CHECKING:
    from rallypoint.store.base import Store
    from rallypoint.types import Timeout

__all__ = ["SCHEMES", "Place", "meet", "parse_place"]

SCHEMES = ("rallypoint", "rallypoint+tls", "rallypoint+etcd", "rallypoint+etcds", "rallypoint+file")
"""What may stand before ``://``."""

LIFE_SIZE = 8
"""Bytes of the word that names one life of a run, before they become hexadecimal digits."""

_OPTIONS = ("rank", "world_size", "run", "serve")
_SERVED = ("rallypoint", "rallypoint+tls")
_BOOLEANS = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True)
class Place:
    """What a URL says.

    Attributes:
        kind: ``"tcp"``, ``"tls"``, ``"etcd"``, ``"etcds"`` or ``"file"``.
        address: hosts and ports with commas between them, or a path.
        run: the run's name.
        rank: the caller's, 0 to ``world_size - 1``.
        world_size: how many members.
        serves: whether rank 0 runs the server.
    """

    kind: str
    address: str
    run: str
    rank: int
    world_size: int
    serves: bool


def parse_place(url: str, environ: Mapping[str, str]) -> Place:
    """Read a URL.

    Args:
        url: as above, percent signs as in any URL.
        environ: has ``RANK``, ``WORLD_SIZE`` and ``TORCHELASTIC_RUN_ID`` (the run) where the URL does not.

    Raises:
        ValueError: something is missing or makes no sense, in one sentence.
    """
    parts = split_url(url)
    if parts.scheme != "rallypoint+file":
        refuse_user(url)  # a @ in the name of a run is %40
    url = without_secrets(url)
    options = _options(url, parts.query)
    _, _, kind = parts.scheme.partition("+")
    kind = kind or "tcp"
    path = unquote(parts.path)
    if kind == "file":
        if parts.netloc or not path:
            raise ValueError(f"{url!r} names no file: write rallypoint+file:///path/of/file?run=NAME")
        address, run = path, options.get("run", "")
    else:
        _check_hosts(url, parts.netloc)
        address, run = parts.netloc, options.get("run") or path.strip("/")
    run = run or environ.get("TORCHELASTIC_RUN_ID", "")
    if not run:
        raise ValueError(f"{url!r} names no run: jobs that share a server are told apart by it, write .../NAME")
    rank, world_size = _number(url, options, environ, "rank"), _number(url, options, environ, "world_size")
    if not 0 <= rank < world_size:
        raise ValueError(f"rank {rank} of {url!r} must be 0 to {world_size - 1} for world_size={world_size}")
    return Place(kind, address, run, rank, world_size, _serves(url, options))


def meet(url: str, timeout: Timeout = DEFAULT_TIMEOUT, **_: Any) -> Iterator[tuple[Any, int, int]]:
    """Give store, rank and world size to torch, once; torch then ends the generator while it uses the store.

    Args:
        url: see above.
        timeout: the group's; for connecting, for the others to come, and then for each wait.

    Raises:
        ValueError: as :func:`parse_place`.
        torch.distributed.DistNetworkError: nobody serves there in time.
        torch.distributed.DistStoreError: some members did not come in time; it names them.
    """
    place = parse_place(url, os.environ)
    deadline = Deadline(as_timeout_s(timeout))
    with torchs_errors():
        store = _open(place, deadline.timeout_s)
        try:
            adapter = as_torch_store(PrefixStore(_begin_life(PrefixStore(place.run, store), place, deadline), store))
        except BaseException:
            store.close()
            raise
    adapter.own()
    yield adapter, place.rank, place.world_size


def _begin_life(run: PrefixStore, place: Place, deadline: Deadline) -> str:
    """Meet all members, and give the prefix of this life's keys."""
    word = secrets.token_hex(LIFE_SIZE) if place.rank == 0 else ""
    label = f"{socket.gethostname()} pid {os.getpid()}"
    words = exchange(
        run, "members", place.rank, place.world_size, word, label=label, timeout=max(0.0, deadline.remaining_s())
    )
    if place.rank == 0 and has_sessions(run):
        with suppress(DistStoreError):  # whoever may not delete keys leaves some behind
            before = run.read("life")
            if before is not None:
                run.delete_prefix(before.value.decode() + "/")
            run.set("life", word)
    return f"{place.run}/{words[0].decode()}"


def _open(place: Place, timeout_s: float) -> Store:
    if place.kind == "file":
        from rallypoint.store.file import FileStore

        store: Store = FileStore(place.address)
        store.set_timeout(timeout_s)
        return store
    if place.serves and place.rank == 0:
        from rallypoint.store.bootstrap import open_endpoint

        tls = True if place.kind == "tls" else None
        return open_endpoint(parse_endpoint(place.address), True, timeout=timeout_s, tls=tls)
    return open_store(f"{place.kind}://{place.address}", timeout_s)


def _options(url: str, query: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise ValueError(f"{url!r} has an option without a value: write name=value, with & between them") from error
    for name, _ in pairs:
        if name not in _OPTIONS:
            near = difflib.get_close_matches(name, _OPTIONS, 1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"{url!r} has the unknown option {name!r}: {hint}known are {', '.join(_OPTIONS)}")
    return dict(pairs)


def _check_hosts(url: str, hosts: str) -> None:
    for host in hosts.split(","):
        try:
            port = parse_endpoint(host).port
        except ValueError as error:
            raise ValueError(f"{url!r} names no server: {error}") from error
        if port == 0:
            raise ValueError(f"{url!r} has port 0, where nobody finds the others: name a port")


def _number(url: str, options: Mapping[str, str], environ: Mapping[str, str], name: str) -> int:
    text = options.get(name, environ.get(name.upper()))
    if text is None:
        raise ValueError(
            f"{name} is missing: give it to init_process_group, as ?{name}= in {url!r}, or as {name.upper()} in the "
            "environment"
        )
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"{name} of {url!r} is {text!r}; it must be a whole number, at least 0")
    return int(text)


def _serves(url: str, options: Mapping[str, str]) -> bool:
    text = options.get("serve", "0").lower()
    if text not in _BOOLEANS:
        raise ValueError(f"serve of {url!r} is {text!r}; it must be 1 (rank 0 runs the server) or 0")
    if _BOOLEANS[text] and split_url(url).scheme not in _SERVED:
        raise ValueError(f"{url!r} has serve=1, which is for servers of ours: {', '.join(_SERVED)}")
    if _BOOLEANS[text] and "," in split_url(url).netloc:
        raise ValueError(f"{url!r} names several servers, of which rank 0 can run one: write one host, or no serve=1")
    return _BOOLEANS[text]
