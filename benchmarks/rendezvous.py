"""How long does it take N agents to meet, and what does it cost, beside torch's rendezvous on torch's server?

Ours is the handler of the backend ``rallypoint``, with a coordinator, on our server; torch's is its dynamic handler
with ``C10dRendezvousBackend`` on its own. Handlers are made, and connected, before the clock starts, on both sides
alike. It stops when the last agent has its rank. Both sides' agents are spread over the same few processes
(``rendezvous_agents.py``) and go over TCP; the store for the workers that rank 0 starts is part of it on both sides.

Besides, what a death costs (``recovery.py``): from the SIGKILL of an agent until all others say that the round is over,
and until all workers of the next round run.
"""

from __future__ import annotations

import json
import math
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from secrets import token_hex
from typing import Any

from benchmarks.machine import cpu_ns, settle
from benchmarks.peers import (
    NATIVE,
    PURE,
    TORCH,
    Fleet,
    MeasureError,
    environment,
    present,
    tie_to_parent,
)
from benchmarks.progress import Effort, note
from benchmarks.recovery import agents as running_agents
from benchmarks.recovery import kill_agents
from benchmarks.rendezvous_agents import OURS, THEIRS
from benchmarks.report import Figures, Spread, format_figure, table

__all__ = [
    "EXPONENT",
    "FIT_FROM",
    "LARGEST",
    "QUESTION",
    "RECOVERY",
    "SIZES",
    "THEIR_LARGEST",
    "again_of",
    "draw",
    "name_of",
    "run",
    "section",
]

QUESTION = "rendezvous"
RECOVERY = "recovery"
SIZES = (4, 16, 64, 128, 256, 512, 1024)
THEIR_LARGEST = 128
LARGEST = SIZES[-1]
HOSTS = 8
"""The agents are spread over so many processes at most: more share two cores badly, fewer an interpreter."""

PARTS = {
    "ms": "time",
    "messages": "messages an agent",
    "bytes": "bytes an agent",
    "agents": "processor time of agents",
    "server": "processor time of the server",
}
UNITS = {"ms": "ms", "messages": "", "bytes": "B", "agents": "ms", "server": "ms"}
EXPONENT = "exponent of the growth from 64 agents on"
FIT_FROM = 64
DEATHS, DEATHS_AT_ONCE = 10, 5
"""As many are killed in one run; hosts that come and go are kept out by default, not here."""


def name_of(part: str, size: int) -> str:
    """Give the name of a row."""
    return f"{PARTS[part]}, {size:,} agents"


def informed_of(nodes: int) -> str:
    """Give the name of the row for the time until everybody knows of a death."""
    return f"{nodes} nodes, an agent killed: all others informed"


def again_of(nodes: int) -> str:
    """Give the name of the row for the time until all work again."""
    return f"{nodes} nodes, an agent killed: all workers again"


class _Agents:
    """The process that forks one side's agents."""

    def __init__(self, kind: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.rendezvous_agents", kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # both sides tell their story there
            text=True,
            env=environment(NATIVE, RALLYPOINT_UNIX="0"),
            preexec_fn=tie_to_parent,  # noqa: PLW1509 - the bench has one thread
        )
        self._ask(None)

    def _ask(self, what: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if what is not None:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        told: dict[str, Any] = json.loads(line) if line else {"error": "the agents' process ended"}
        if "error" in told:
            raise MeasureError(told["error"])
        return told

    def meet(self, port: int, size: int) -> dict[str, Any]:
        """Have so many agents meet at a server."""
        return self._ask({"port": port, "nodes": size, "hosts": HOSTS, "run": token_hex(8)})

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@contextmanager
def _agents(kinds: Sequence[str]) -> Iterator[dict[str, _Agents]]:
    started = {kind: _Agents(kind) for kind in kinds}
    try:
        yield started
    finally:
        for agents in started.values():
            agents.close()


def run(figures: Figures, effort: Effort, rng: random.Random) -> None:
    """Measure every size once a round on both sides, in an order that changes; then the deaths."""
    ours = present((NATIVE, PURE))[0]
    sizes = (4, 64, 256) if effort.is_quick else SIZES
    failed: set[tuple[str, int]] = set()
    with Fleet() as fleet, _agents((OURS, THEIRS)) as agents:
        for turn in range(effort.rounds):
            asked = [(ours, OURS, size) for size in sizes]
            asked += [(TORCH, THEIRS, size) for size in sizes if size <= THEIR_LARGEST]
            for peer, kind, size in rng.sample(asked, len(asked)):
                if (peer, size) in failed:
                    continue
                server = fleet.get(peer)
                settle(server.pid)
                before_ns = cpu_ns(server.pid)
                try:
                    told = agents[kind].meet(server.port, size)
                except MeasureError as error:
                    note(f"{size} agents of {peer} do not meet: {error}")
                    failed.add((peer, size))
                    continue
                _add(figures, size, peer, turn, told, cpu_ns(server.pid) - before_ns)
            _fit(figures, ours, turn)
    _kill(figures, ours, effort)


def _add(figures: Figures, size: int, peer: str, turn: int, told: dict[str, Any], server_ns: int) -> None:
    found = {
        "ms": told["ms"],
        "messages": told["messages"] / size,
        "bytes": told["bytes"] / size,
        "agents": told["cpu_s"] * 1000,
        "server": server_ns / 1e6,
    }
    for part, value in found.items():
        figures.add(QUESTION, name_of(part, size), peer, UNITS[part], turn, value)


def _fit(figures: Figures, peer: str, turn: int) -> None:
    """Note the exponent of a power of N that goes through the medians so far, for the report; 1 is linear growth."""
    points = []
    for size in SIZES:
        values = figures.values(QUESTION, name_of("ms", size), peer)
        if size >= FIT_FROM and values:
            points.append((math.log(size), math.log(statistics.median(values))))
    if len(points) > 1:
        figures.add(QUESTION, EXPONENT, peer, "", turn, statistics.linear_regression(*zip(*points, strict=True)).slope)


def _kill(figures: Figures, ours: str, effort: Effort) -> None:
    """Kill agents; a few at a time, so that one failure costs not all."""
    for nodes in (2,) if effort.is_quick else (2, 8):
        for first in range(0, DEATHS, DEATHS_AT_ONCE):
            try:
                with running_agents("rallypoint", "flap_limit=1000", nodes) as (running, arguments):
                    found = kill_agents(running, arguments, DEATHS_AT_ONCE)
            except (OSError, RuntimeError, ValueError, Empty) as error:
                note(f"{DEATHS_AT_ONCE} deaths among {nodes} nodes could not be measured: {error!r}")
                continue
            for name, values in ((informed_of(nodes), found["informed"]), (again_of(nodes), found["again"])):
                for turn, value in enumerate(values, first):
                    figures.add(RECOVERY, name, ours, "ms", turn, value * 1000)


def draw(figures: Figures, folder: Path) -> Path | None:
    """Draw the time over the number of agents into a folder; give the file."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    plot, axes = plt.subplots(figsize=(6, 3.6), dpi=100)
    for peer, colour in ((TORCH, "tab:orange"), (NATIVE, "tab:blue"), (PURE, "tab:green")):
        points = [size for size in SIZES if figures.values(QUESTION, name_of("ms", size), peer)]
        spreads = [Spread.of(figures.values(QUESTION, name_of("ms", size), peer)) for size in points]
        if points:
            axes.plot(points, [spread.median for spread in spreads], "o-", label=peer, color=colour)
            axes.fill_between(
                points, [s.lowest for s in spreads], [s.highest for s in spreads], alpha=0.15, color=colour
            )
    path = None
    if axes.lines:
        axes.set(
            xscale="log", yscale="log", xlabel="agents", ylabel="ms", title="all agents told to go until the last is in"
        )
        axes.set_xticks(SIZES, [str(size) for size in SIZES])
        axes.minorticks_off()
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
        path = folder / "rendezvous.png"
        plot.savefig(path, bbox_inches="tight", metadata={"Software": None})
    plt.close(plot)
    return path


def section(figures: Figures, folder: Path) -> Iterator[str]:
    """Give the report's lines: the plot, and one table for each thing measured."""
    yield (
        "Handlers are made and connected before the clock starts, on both sides alike; it stops when the last agent "
        f"has its rank. The agents are threads of at most {HOSTS} processes on the same cores as the server, so "
        "what these cores can do bounds the large rounds. A message is a segment with data in either direction, as "
        "the kernel counts them on the sockets of agents. Of torch's time up to 0.3 s is a pause that each node makes "
        "before its first round. Connections of nodes that would coordinate if the first does not come after the round."
    )
    yield ""
    path = draw(figures, folder / "plots")
    if path is not None:
        yield f"![time of a round]({os.path.relpath(path, folder)})"
        yield ""
    for part, title in PARTS.items():
        sizes = [size for size in SIZES if name_of(part, size) in figures.workloads(QUESTION)]
        rows = []
        for peer in (TORCH, NATIVE, PURE):
            found = [figures.values(QUESTION, name_of(part, size), peer) for size in sizes]
            if any(found):
                rows.append([peer, *(format_figure(Spread.of(v).median, UNITS[part]) if v else "" for v in found)])
        yield from table([f"{title}, by agents", *(f"{size:,}" for size in sizes)], rows)
        yield ""
    for peer in figures.contenders(QUESTION, EXPONENT):
        exponent = figures.values(QUESTION, EXPONENT, peer)[-1]
        yield f"{peer}: time grows as N to the power of {exponent:.2f} from {FIT_FROM} agents on."
