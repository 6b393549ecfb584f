"""What does a server hold in memory? At its start, for a key, for an idle connection, at the peak of an exchange.

Each contender gets a server of its own for each round. Memory is what the process alone holds, its private pages; the
kernel's buffers of sockets are not part of it, they are alike for everybody. The peak is of resident pages, shared ones
included, over the life of the exchange.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.build import LOAD
from benchmarks.machine import memory_of, reset_peak, settle
from benchmarks.peers import (
    ALL,
    FLOOR_PEER,
    REDIS,
    MeasureError,
    Server,
    present,
    run_load,
    start_server,
)
from benchmarks.progress import Effort, note
from benchmarks.report import Figures

__all__ = ["CONNECTION", "KEY", "PEAK", "QUESTION", "START", "run"]

QUESTION = "memory"
START = "start"
KEY = "one key of 16 bytes with a value of 16"
CONNECTION = "one idle connection"
PEAK = "exchange of 512 x 1 KiB, peak"
KEYS, KEYS_QUICK = 200_000, 50_000
CONNECTIONS, CONNECTIONS_QUICK = 8_000, 2_000
ROUNDS_MAX, ROUNDS_MAX_QUICK = 2, 1  # memory hardly varies


def run(figures: Figures, effort: Effort, rng: random.Random) -> None:
    """Measure every make once a round."""
    peers = [peer for peer in present(ALL) if peer != FLOOR_PEER]
    for turn in range(min(effort.rounds, ROUNDS_MAX_QUICK if effort.is_quick else ROUNDS_MAX)):
        for peer in rng.sample(peers, len(peers)):
            with tempfile.TemporaryDirectory() as folder:
                _measure(peer, Path(folder), figures, effort, turn)


def _measure(peer: str, folder: Path, figures: Figures, effort: Effort, turn: int) -> None:
    """Measure one make once, a server after the other."""
    try:
        _measure_connections(peer, folder, figures, effort, turn)
        _measure_keys(peer, folder, figures, effort, turn)
    except MeasureError as error:
        note(f"memory of {peer}: {error}")


def _measure_connections(peer: str, folder: Path, figures: Figures, effort: Effort, turn: int) -> None:
    server = start_server(peer, folder)
    wire = {"wire": "resp"} if peer == REDIS else {}
    try:
        run_load(server.target("tcp"), workload="hold", connections=1, **wire)  # whatever is made at the first
        settle(server.pid)
        start = memory_of(server.pid)["user"]
        figures.add(QUESTION, START, peer, "B", turn, start)
        count = CONNECTIONS_QUICK if effort.is_quick else CONNECTIONS
        with _held(server, count, wire):
            each = (memory_of(server.pid)["user"] - start) / count
            figures.add(QUESTION, CONNECTION, peer, "B", turn, each)
        settle(server.pid)
        if peer != REDIS:
            reset_peak(server.pid)
            run_load(server.target("tcp"), workload="exchange", connections=512, value=1024, repeat=1)
            figures.add(QUESTION, PEAK, peer, "B", turn, memory_of(server.pid)["peak"])
    finally:
        server.close()


def _measure_keys(peer: str, folder: Path, figures: Figures, effort: Effort, turn: int) -> None:
    """A fresh server: memory that was freed before would hide the keys."""
    server = start_server(peer, folder)
    wire = {"wire": "resp"} if peer == REDIS else {}
    try:
        count = KEYS_QUICK if effort.is_quick else KEYS
        run_load(server.target("tcp"), workload="fill", keys=1, value=16, **wire)
        settle(server.pid)
        before = memory_of(server.pid)["user"]
        run_load(server.target("tcp"), workload="fill", keys=count, value=16, **wire)
        settle(server.pid)
        figures.add(QUESTION, KEY, peer, "B", turn, (memory_of(server.pid)["user"] - before) / count)
    finally:
        server.close()


@contextlib.contextmanager
def _held(server: Server, count: int, wire: dict[str, str]) -> Iterator[None]:
    """Hold idle connections."""
    words = [word for name, value in wire.items() for word in (f"--{name}", value)]
    command = [str(LOAD), "--workload", "hold", "--target", server.target("tcp"), "--connections", str(count), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line or json.loads(line)["connections"] != count:
            raise MeasureError(f"{count} connections could not be held")
        settle(server.pid)
        yield
        process.communicate()
