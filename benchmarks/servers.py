"""What does a server answer? Load from the generator, on servers of every make, beside the floor.

One client that asks and waits, 64 that do, 64 with 32 requests in flight; an exchange of 512 members; a barrier of
4,096 connections; a storm of 4,000 clients. The server has one core, the generator another, except in the rows that say
"same core", where a change of cores is not what is measured.

The generator is no bottleneck where the same load runs faster against the floor, or where the server is busy all the
time while the generator is not; both are in the report. The server's own processor time per request does not depend on
the generator at all.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers import (
    FLOOR_PEER,
    LEGACY,
    NATIVE,
    PURE,
    REDIS,
    TORCH,
    Contender,
    Fleet,
    MeasureError,
    measure,
    present,
)
from benchmarks.progress import Effort, note
from benchmarks.report import Figures

__all__ = ["BUSY", "CPU", "GENERATOR_CPU", "QUESTION", "WORKLOADS", "Workload", "figure_of", "is_starved", "run"]

QUESTION = "servers"
BUSY = "busy shares"
CPU = "server time"
GENERATOR_CPU = "generator time"

ATTEMPTS = 3
STARVED = 0.7

STORE_PEERS = (TORCH, LEGACY, NATIVE, PURE, FLOOR_PEER)
EVERYBODY = (*STORE_PEERS, REDIS)


@dataclass(frozen=True)
class Workload:
    """One row of the comparison.

    Attributes:
        name: as the report calls it.
        unit: of the figure; us and ms are better when lower, /s when higher.
        figure: its name in the generator's line; a list is given as its median.
        peers: who can do it over TCP.
        local: who is measured over a unix socket too.
        same_core: server and client share a core.
        options: for the generator.
    """

    name: str
    unit: str
    figure: str
    peers: Sequence[str]
    local: Sequence[str] = ()
    same_core: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def contenders(self) -> Iterator[Contender]:
        for via, peers in (("tcp", self.peers), ("unix", self.local)):
            for peer in present(peers):
                yield Contender(peer, via)


def _latency(op: str, local: Sequence[str] = ()) -> Workload:
    name = f"one client, same core, {op}"
    return Workload(name, "us", "us_p50", EVERYBODY, local, same_core=True, options={"workload": "pingpong", "op": op})


def _rate(op: str, depth: int, local: Sequence[str] = ()) -> Workload:
    options = {"workload": "flight", "op": op, "connections": 64, "depth": depth}
    return Workload(f"64 connections, {depth} in flight, {op}", "/s", "per_s", EVERYBODY, local, options=options)


def _exchange(members: int, how: str = "", **more: Any) -> Workload:
    options = {"workload": "exchange", "connections": members, "value": 1024, **more}
    peers = [peer for peer in STORE_PEERS if not more or peer != FLOOR_PEER]
    return Workload(f"exchange of {members} x 1 KiB{how}", "ms", "ms", peers, options=options)


LOCAL = (NATIVE, PURE, FLOOR_PEER)
WORKLOADS = (
    _latency("get", LOCAL),
    _latency("set"),
    _latency("add"),
    _latency("check"),
    _rate("get", 1, (*LOCAL, REDIS)),
    _rate("set", 1),
    _rate("add", 1),
    _rate("get", 32, (*LOCAL, REDIS)),
    _rate("set", 32),
    _rate("add", 32),
    _exchange(512),
    _exchange(512, ", each in an order of its own", rotate=1),
    _exchange(256),
    Workload(
        "barrier of 4,096, ADD + WAIT", "ms", "ms", STORE_PEERS, options={"workload": "barrier", "connections": 4096}
    ),
    Workload(
        "barrier of 4,096, one verb",
        "ms",
        "ms",
        STORE_PEERS,
        LOCAL,
        options={"workload": "barrier", "connections": 4096, "verb": 1},
    ),
    Workload(
        "storm of 4,000 clients",
        "ms",
        "ms",
        EVERYBODY,
        (*LOCAL, REDIS),
        options={"workload": "storm", "connections": 4000},
    ),
)


def figure_of(line: dict[str, Any], figure: str) -> float:
    """Take one figure out of the generator's line; the median of a list."""
    value = line[figure]
    return statistics.median(value) if isinstance(value, list) else float(value)


def is_starved(line: dict[str, Any]) -> bool:
    """Tell whether the machine was elsewhere: under an endless load one of the two sides is always busy."""
    return "server_us" in line and max(line["server_busy"], line["generator_busy"]) < STARVED


def run(figures: Figures, effort: Effort, rng: random.Random) -> None:
    """Measure every workload once a round on every contender, in an order that changes."""
    slow: set[tuple[str, str]] = set()  # who could not do what
    with Fleet() as fleet:
        for turn in range(effort.rounds):
            for workload in WORKLOADS:
                contenders = [who for who in workload.contenders() if not effort.is_quick or who.peer != LEGACY]
                for contender in rng.sample(contenders, len(contenders)):
                    if (workload.name, str(contender)) not in slow:
                        try:
                            _measure_one(fleet, workload, contender, figures, effort, turn)
                        except MeasureError as error:
                            note(f"{contender} cannot do {workload.name!r}: {error}")
                            slow.add((workload.name, str(contender)))


def _measure_one(
    fleet: Fleet, workload: Workload, contender: Contender, figures: Figures, effort: Effort, turn: int
) -> None:
    for _ in range(ATTEMPTS):
        line = measure(
            fleet,
            contender,
            same_core=workload.same_core,
            seconds=effort.seconds,
            repeat=effort.repeat,
            **workload.options,
        )
        if not is_starved(line):
            break
    name = str(contender)
    figures.add(QUESTION, workload.name, name, workload.unit, turn, figure_of(line, workload.figure))
    if not workload.same_core:
        figures.add(BUSY, workload.name, f"{name}: server", "%", turn, 100 * line["server_busy"])
        figures.add(BUSY, workload.name, f"{name}: generator", "%", turn, 100 * line["generator_busy"])
    if "server_us" in line:
        figures.add(CPU, workload.name, name, "us", turn, line["server_us"])
        figures.add(GENERATOR_CPU, workload.name, name, "us", turn, line["generator_us"])
