"""Opening a store by URL, for whoever is no member of a job: without rank and world size."""

from __future__ import annotations

from rallypoint.net.address import parse_endpoint
from rallypoint.net.url import refuse_user, split_url, without_secrets
from rallypoint.store.base import Store
from rallypoint.store.url import rendezvous
from rallypoint.types import Endpoint, Timeout

__all__ = ["first_place", "open_store"]


def first_place(url: str) -> Endpoint | None:
    """Give the first of the places that a store's URL leads to over the network; ``None`` if it leads to none."""
    parts = split_url(url)
    if parts.scheme in {"tcp", "tls"}:
        refuse_user(url)
        return parse_endpoint(parts.netloc.split(",")[0])
    if parts.scheme in {"etcd", "etcds"}:
        from rallypoint.store.etcd_options import parse_url

        return parse_url(url).endpoints[0]
    return None


def open_store(url: str, timeout: Timeout) -> Store:
    """Open a store.

    Args:
        url: ``etcd://host:port/prefix`` or ``etcds://...``, ``tcp://host:port`` or ``tls://host:port`` (of each
            several: ``host:port,host:port``), ``file:///path``, ``hash://`` for an empty one of this process, or a
            scheme that ``register_rendezvous_handler`` was told.
        timeout: the store's, seconds or a ``timedelta``.

    Raises:
        ValueError: the URL lacks something.
        RuntimeError: nobody knows its scheme.
        DistError: the store cannot be reached.
    """
    shown = without_secrets(url)
    if "://" not in url:
        place = shown or "host:port"
        raise ValueError(f"{shown!r} is no URL: write etcd://{place}, tcp://{place} or file:///path")
    parts = split_url(url)
    if parts.scheme in {"tcp", "tls"}:
        refuse_user(url)
        from rallypoint.store.bootstrap import open_endpoint

        first = parse_endpoint(parts.netloc.split(",")[0])
        endpoint = Endpoint(parts.netloc, first.port) if "," in parts.netloc else first
        return open_endpoint(endpoint, timeout=timeout, tls=True if parts.scheme == "tls" else None)
    if parts.scheme == "file":
        if not parts.path:
            raise ValueError(f"{shown!r} has no path: write file:///path")
        from rallypoint.store.file import FileStore

        store: Store = FileStore(parts.path)
        store.set_timeout(timeout)
        return store
    if parts.scheme in {"etcd", "etcds"}:
        from rallypoint.store.etcd import EtcdStore

        return EtcdStore(url, timeout=timeout)
    if parts.scheme == "hash":
        from rallypoint.store.hash import HashStore

        return HashStore()
    store, _, _ = next(rendezvous(url, timeout=timeout))
    return store
