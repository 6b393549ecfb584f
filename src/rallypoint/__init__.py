"""Processes of a distributed job find each other, agree who takes part, share small values and wait for each other.

The public names below are loaded on first use (PEP 562), so that ``import rallypoint`` costs next to nothing
and pulls in no third-party module.
"""

from __future__ import annotations

import importlib

__version__ = "0.1.0"

_HOMES = {
    "rallypoint.errors": (
        "AccessDeniedError",
        "AgentError",
        "AuthenticationError",
        "BarrierBrokenError",
        "BarrierTimeoutError",
        "BindError",
        "ConnectTimeoutError",
        "ConnectionLostError",
        "CorruptStoreError",
        "DistBackendError",
        "DistError",
        "DistNetworkError",
        "DistStoreError",
        "DuplicateMemberError",
        "ForkedStoreError",
        "LeaseLostError",
        "LocalProtocolError",
        "LockTimeoutError",
        "NotANumberError",
        "QueueEmptyError",
        "RefusedError",
        "RemoteProtocolError",
        "RendezvousClosedError",
        "RendezvousConnectionError",
        "RendezvousError",
        "RendezvousGracefulExitError",
        "RendezvousStateError",
        "RendezvousTimeoutError",
        "ReplyTimeoutError",
        "SessionLostError",
        "SignalException",
        "StoreTimeoutError",
        "UnreachableError",
        "WorkerStartError",
        "WorkersMissingError",
    ),
    "rallypoint.net.tls": ("Tls",),
    "rallypoint.store.base": ("Store",),
    "rallypoint.store.bootstrap": ("create_c10d_store", "get_free_port", "get_socket_with_port", "store_timeout"),
    "rallypoint.store.etcd": ("EtcdStore",),
    "rallypoint.store.file": ("FileStore",),
    "rallypoint.store.hash": ("HashStore",),
    "rallypoint.store.prefix": ("PrefixStore",),
    "rallypoint.store.tcp": ("TCPStore",),
    "rallypoint.store.url": ("register_rendezvous_handler",),
    "rallypoint.launch.env": ("is_torchelastic_launched",),
    "rallypoint.primitives.barrier": ("Barrier", "barrier"),
    "rallypoint.primitives.counter": ("Counter",),
    "rallypoint.primitives.election": ("Election",),
    "rallypoint.primitives.exchange": ("Exchange", "exchange", "get_all", "synchronize"),
    "rallypoint.primitives.lease": ("Lease",),
    "rallypoint.primitives.lock": ("Lock",),
    "rallypoint.primitives.queue": ("Queue",),
}

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]  # noqa: PLE0604 - the names are the table's keys


# Reached as attributes too, as in ``import rallypoint as dist; dist.rendezvous("env://")``.
_PACKAGES = ("elastic", "launcher", "rendezvous", "testing")


def __getattr__(name: str) -> object:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
