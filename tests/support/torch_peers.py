"""torch's stores as peers of ours: the only file that imports torch for the store tests.

torch writes warnings of its own to stderr and, on import, through :mod:`warnings`; neither is ours to judge.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from rallypoint.store.tcp import TCPStore

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
# torch asks the name service about each new peer, in its server's loop: a lost packet then costs 1 s, not 5.
os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.distributed as torch_dist

__all__ = [
    "MEETINGS",
    "OUR_CLIENT",
    "OUR_SERVER",
    "TORCHS_CLIENT",
    "TORCH_LEGACY",
    "TORCH_UV",
    "Meeting",
    "meet",
    "name_of",
    "torch_client",
    "torch_dist",
    "torch_server",
]

HOST = "127.0.0.1"
TORCH_UV = "torch's libuv server"
TORCH_LEGACY = "torch's legacy server"
OUR_SERVER = "our server"
OUR_CLIENT = "our client"
TORCHS_CLIENT = "torch's client"


@dataclass(frozen=True)
class Meeting:
    """A server that runs, and a way to make clients of it.

    Attributes:
        server: which server it is.
        client: whose clients ``connect`` makes.
        port: where it listens.
        has_queues: whether server and clients know queues.
        keep: remembers our clients, to be closed at the end.
    """

    server: str
    client: str
    port: int
    has_queues: bool
    keep: Callable[[TCPStore], TCPStore]

    def connect(self, timeout_s: float = 30.0) -> Any:
        """Make one more client of the side that the test is about."""
        return self._make(self.client, timeout_s)

    def connect_other(self, timeout_s: float = 30.0) -> Any:
        """Make a client of the other side."""
        return self._make(TORCHS_CLIENT if self.client == OUR_CLIENT else OUR_CLIENT, timeout_s)

    def _make(self, client: str, timeout_s: float) -> Any:
        if client == TORCHS_CLIENT:
            return torch_client(self.port, timeout_s, use_libuv=self.has_queues)
        return self.keep(
            TCPStore(HOST, self.port, timeout=timeout_s, wait_for_workers=False, use_libuv=self.has_queues)
        )


def torch_server(*, use_libuv: bool = True, **arguments: Any) -> Any:
    """Give a torch store that hosts a server on a free loopback port."""
    return torch_dist.TCPStore(HOST, 0, is_master=True, wait_for_workers=False, use_libuv=use_libuv, **arguments)


def torch_client(port: int, timeout_s: float = 30.0, *, use_libuv: bool = True) -> Any:
    """Give a torch store that is a plain client."""
    return torch_dist.TCPStore(
        HOST, port, timeout=timedelta(seconds=timeout_s), wait_for_workers=False, use_libuv=use_libuv
    )


MEETINGS = [
    (OUR_CLIENT, TORCH_UV),
    (OUR_CLIENT, TORCH_LEGACY),
    (OUR_CLIENT, OUR_SERVER),
    (TORCHS_CLIENT, OUR_SERVER),
    (TORCHS_CLIENT, TORCH_UV),  # the reference: a test that fails here says something untrue of torch
    (TORCHS_CLIENT, TORCH_LEGACY),
]


def name_of(meeting: tuple[str, str]) -> str:
    """Give a meeting's name in test reports."""
    return " on ".join(meeting).replace("'", "").replace(" ", "-")


@contextmanager
def meet(client: str, server: str) -> Iterator[Meeting]:
    """Run a server, hand out clients of it, and end them all."""
    use_libuv = server != TORCH_LEGACY
    with ExitStack() as ours:
        host: Any
        if server == OUR_SERVER:
            host = ours.enter_context(TCPStore(HOST, 0, is_master=True, wait_for_workers=False))
        else:
            host = torch_server(use_libuv=use_libuv)
        yield Meeting(server, client, host.port, use_libuv, ours.enter_context)
        del host
