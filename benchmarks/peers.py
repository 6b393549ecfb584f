"""Who is measured: servers of every make, each in a process of its own, and one measurement of one of them.

A server lives for the whole question; it is put on its core for each measurement and left alone until it is quiet. The
floor server is told what to expect and so is started anew for each. Everything is on loopback and ended by its id.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from benchmarks.build import FLOOR, LOAD, NAMES
from benchmarks.machine import CLIENT_CORE, SERVER_CORE, pin, settle

__all__ = [
    "ALL",
    "FLOOR_PEER",
    "HOST",
    "LEGACY",
    "NATIVE",
    "PURE",
    "REDIS",
    "START_S",
    "TORCH",
    "Contender",
    "Fleet",
    "MeasureError",
    "Server",
    "can_spin",
    "environment",
    "free_port",
    "has_native",
    "measure",
    "present",
    "ready",
    "run_load",
    "spawn",
    "start_server",
    "tie_to_parent",
]

TORCH = "torch"
LEGACY = "torch legacy"
NATIVE = "native twin"
PURE = "Python twin"
REDIS = "Redis"
FLOOR_PEER = "floor"
ALL = (TORCH, LEGACY, NATIVE, PURE, REDIS, FLOOR_PEER)

HOST = "127.0.0.1"
START_S = 60
END_S = 10
MEASURE_S = 40

TORCH_SERVER = """
import sys, warnings
from datetime import timedelta
warnings.simplefilter("ignore")
import torch.distributed as dist
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, use_libuv=sys.argv[1] == "uv")
print('{"port": %d}' % store.port, flush=True)
sys.stdin.read()
"""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class MeasureError(Exception):
    """A measurement did not come to its end; the message is the generator's."""


def tie_to_parent() -> None:
    """End with the process that started this one, whatever happens to it; for ``preexec_fn``."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def environment(peer: str, **more: str) -> dict[str, str]:
    """Give the environment of a process of this make."""
    unwanted = ("RALLYPOINT_", "TORCH")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(unwanted)}
    pure = {"RALLYPOINT_PURE": "1"} if peer == PURE else {}
    return {
        **inherited,
        "LD_PRELOAD": str(NAMES),
        "OMP_NUM_THREADS": "1",
        "TORCH_CPP_LOG_LEVEL": "FATAL",
        **pure,
        **more,
    }


@lru_cache(maxsize=1)
def _native_parts() -> frozenset[str]:
    """Ask a process of its own which parts the native twin has, and whether ours can spin."""
    code = (
        "import json; from rallypoint import twin; from rallypoint.cli.serve import serve;"
        "print(json.dumps([*dir(twin.native()), *(p.name for p in serve.params)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment(NATIVE), capture_output=True, text=True, check=True
    )
    return frozenset(json.loads(done.stdout))


def has_native(part: str = "Reactor") -> bool:
    """Tell whether the native twin was built, as far as this part."""
    return part in _native_parts()


def can_spin() -> bool:
    """Tell whether our server knows ``--spin-us``."""
    return "spin_us" in _native_parts()


def present(peers: Iterable[str]) -> list[str]:
    """Give those peers that can run here."""
    missing = set()
    if not has_native():
        missing.add(NATIVE)
    if shutil.which("redis-server") is None:
        missing.add(REDIS)
    return [peer for peer in peers if peer not in missing]


@dataclass
class Server:
    """A server that runs.

    Attributes:
        peer: its make.
        process: the process that it is.
        port: its TCP port on 127.0.0.1.
        path: its socket file, if it has one.
    """

    peer: str
    process: subprocess.Popen[str]
    port: int
    path: str | None = None

    @property
    def pid(self) -> int:
        return self.process.pid

    def target(self, via: str) -> str:
        """Give the address as the generator takes it."""
        if via == "unix":
            if self.path is None:
                raise MeasureError(f"{self.peer} has no socket file")
            return f"unix:{self.path}"
        return str(self.port)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        if self.peer not in (TORCH, LEGACY, FLOOR_PEER):  # those end with their standard input
            self.process.terminate()
        try:
            self.process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


def spawn(command: list[str], peer: str) -> subprocess.Popen[str]:
    """Start a server's process, to be ended with ours."""
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # torch complains about every connection that a workload closes
        text=True,
        env=environment(peer),
        preexec_fn=tie_to_parent,  # noqa: PLW1509 - the bench has one thread
    )


def ready(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Read the line of JSON with which a server says that it serves."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise MeasureError(f"a server did not start: {process.args!r}")
    ready: dict[str, Any] = json.loads(line)
    return ready


def start_server(peer: str, folder: Path, *, spin_us: int = 0, more: Iterable[str] = ()) -> Server:
    """Start a server of any make but the floor's; ``more`` are words for ours."""
    if peer in (TORCH, LEGACY):
        process = spawn([sys.executable, "-c", TORCH_SERVER, "uv" if peer == TORCH else "legacy"], peer)
        return Server(peer, process, ready(process)["port"])
    path = str(folder / f"{peer.replace(' ', '-')}-{spin_us}.sock")
    if peer == REDIS:
        return _start_redis(path)
    spin = ["--spin-us", str(spin_us)] if spin_us else []
    where = ["--bind", HOST, "--bind", f"unix:{path}", "--port", "0"]
    process = spawn([sys.executable, "-m", "rallypoint", "serve", *where, "--ready-json", *spin, *more], peer)
    return Server(peer, process, ready(process)["port"], path)


def free_port() -> int:
    """Give a port that nobody has at the moment."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def _start_redis(path: str) -> Server:
    """Redis tells nobody which port the kernel chose, so one is looked for before."""
    port = free_port()
    options = {"port": port, "bind": HOST, "unixsocket": path, "save": "", "appendonly": "no", "maxclients": 19000}
    options |= {"tcp-backlog": 65535, "dir": str(Path(path).parent)}
    command = ["redis-server", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]
    server = Server(REDIS, spawn(command, REDIS), port, path)
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection((HOST, port)):
            return server
        time.sleep(0.02)
    server.close()
    raise MeasureError("redis-server did not start")


@contextlib.contextmanager
def floor_server(
    steps: str, *, members: int = 1, via: str = "tcp", blocking: bool = False, spin_us: int = 0, core: int = SERVER_CORE
) -> Iterator[Server]:
    """Run a floor server for one measurement."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/floor.sock"
        command = [str(FLOOR), "--steps", steps, "--members", str(members), "--core", str(core)]
        command += ["--spin-us", str(spin_us), "--blocking", str(int(blocking))]
        process = spawn([*command, "--unix", path] if via == "unix" else command, FLOOR_PEER)
        server = Server(FLOOR_PEER, process, ready(process)["port"], path)
        try:
            yield server
        finally:
            server.close()


class Fleet:
    """The servers of one question, started when first asked for."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str, int], Server] = {}
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.close()
        self._folder.cleanup()

    def get(self, peer: str, *, spin_us: int = 0) -> Server:
        known = (peer, spin_us)
        if known not in self._servers:
            self._servers[known] = start_server(peer, Path(self._folder.name), spin_us=spin_us)
        return self._servers[known]


@dataclass(frozen=True)
class Contender:
    """One column of a comparison: a server of some make, by some way."""

    peer: str
    via: str = "tcp"
    spin_us: int = 0

    def __str__(self) -> str:
        way = ", unix socket" if self.via == "unix" else ""
        return f"{self.peer}{way}{f', {self.spin_us} us spin' if self.spin_us else ''}"


def run_load(target: str, **options: object) -> dict[str, Any]:
    """Run the load generator once; give its figures."""
    words = [word for name, value in options.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [str(LOAD), "--target", target, "--limit-s", str(MEASURE_S), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = done.stderr.strip() or f"ended by {done.returncode}"
        raise MeasureError(f"{said}: {' '.join(command[1:])}")
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures


def measure(
    fleet: Fleet,
    contender: Contender,
    *,
    same_core: bool = False,
    blocking: bool = False,
    **options: object,
) -> dict[str, Any]:
    """Measure one workload on one contender, once."""
    core = SERVER_CORE if same_core else CLIENT_CORE
    spin = {"spin_us": contender.spin_us} if contender.spin_us else {}
    if contender.peer == FLOOR_PEER:
        steps = run_load("0", print_steps=1, **options)["steps"]
        members = int(str(options.get("connections", 1)))
        with floor_server(
            steps, members=members, via=contender.via, blocking=blocking, spin_us=contender.spin_us
        ) as server:
            return run_load(server.target(contender.via), core=core, pid=server.pid, floor=1, **spin, **options)
    server = fleet.get(contender.peer, spin_us=contender.spin_us)
    pin(server.pid, SERVER_CORE)
    settle(server.pid)
    wire = {"wire": "resp"} if contender.peer == REDIS else {}
    return run_load(server.target(contender.via), core=core, pid=server.pid, **wire, **spin, **options)
