"""How does it grow? With connections, keys, the size of a value, and the members of an exchange; with plots.

A line that is level in requests a second, or straight in bytes or members, is what one hopes for. Up to 16,000
connections come from several loopback addresses.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers import FLOOR_PEER, NATIVE, PURE, TORCH, Contender, Fleet, MeasureError, measure, present
from benchmarks.progress import Effort, note
from benchmarks.report import Figures, Spread
from benchmarks.servers import figure_of

__all__ = ["CURVES", "QUESTION", "Curve", "draw", "run"]

QUESTION = "growth"
COLOURS = {TORCH: "tab:orange", NATIVE: "tab:blue", PURE: "tab:green", FLOOR_PEER: "tab:gray"}

CONNECTIONS = (64, 256, 1024, 4096, 16_000)
KEYS = (1, 1_000, 10_000, 100_000, 1_000_000)
VALUES = (16, 256, 4096, 65_536, 1 << 20, 8 << 20)
MEMBERS = (32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Curve:
    """One plot: a figure over a number that grows.

    Attributes:
        name: what is drawn; also the stem of the plot's file.
        title: the same for people.
        along: what grows, as an option of the generator.
        axis: the same for people.
        points: its values.
        unit: of the figure.
        figure: its name in the generator's line.
        peers: who is drawn.
        options: for the generator.
    """

    name: str
    title: str
    along: str
    axis: str
    points: Sequence[int]
    unit: str
    figure: str
    options: dict[str, Any]
    peers: Sequence[str] = field(default=(TORCH, NATIVE, PURE, FLOOR_PEER))

    def workload(self, point: int) -> str:
        return f"{self.name} {point}"


_STORES = (TORCH, NATIVE, PURE)
CURVES = (
    Curve(
        "connections-get", "get, one in flight on each connection", "connections", "connections", CONNECTIONS,
        "/s", "per_s", {"workload": "flight", "op": "get"},
    ),
    Curve(
        "connections-barrier", "barrier of all connections, ADD + WAIT", "connections", "connections", CONNECTIONS,
        "ms", "ms", {"workload": "barrier"},
    ),
    Curve(
        "connections-storm", "all connect and greet", "connections", "connections", CONNECTIONS,
        "ms", "ms", {"workload": "storm"},
    ),
    Curve(
        "keys-get", "get of random keys, 64 connections, 32 in flight", "keys", "keys in the store", KEYS,
        "/s", "per_s", {"workload": "flight", "op": "get", "connections": 64, "depth": 32}, _STORES,
    ),
    Curve(
        "keys-set", "writing all keys, pipelined", "keys", "keys written", KEYS[1:],
        "/s", "per_s", {"workload": "fill"}, _STORES,
    ),
    Curve(
        "value-get", "get, 8 connections", "value", "bytes of a value", VALUES,
        "B/s", "bytes_per_s", {"workload": "flight", "op": "get", "connections": 8},
    ),
    Curve(
        "value-set", "set, 8 connections", "value", "bytes of a value", VALUES,
        "B/s", "bytes_per_s", {"workload": "flight", "op": "set", "connections": 8},
    ),
    Curve(
        "members-exchange", "exchange of 1 KiB each, WAIT + MULTI_GET", "connections", "members", MEMBERS,
        "ms", "ms", {"workload": "exchange", "value": 1024},
    ),
)  # fmt: skip


def _points(curve: Curve, effort: Effort) -> Sequence[int]:
    return curve.points[::2] if effort.is_quick else curve.points


def run(figures: Figures, effort: Effort, rng: random.Random) -> None:
    """Measure every point of every curve once a round on every contender, in an order that changes."""
    failed: set[tuple[str, str]] = set()
    with Fleet() as fleet:
        for turn in range(effort.growth_rounds):
            for curve in CURVES:
                for point in _points(curve, effort):
                    for peer in rng.sample(present(curve.peers), len(present(curve.peers))):
                        if (curve.name, peer) not in failed:
                            try:
                                _measure_one(fleet, curve, point, peer, figures, effort, turn)
                            except MeasureError as error:
                                note(f"{peer} ends at {curve.title!r}, {point}: {error}")
                                failed.add((curve.name, peer))


def _measure_one(
    fleet: Fleet, curve: Curve, point: int, peer: str, figures: Figures, effort: Effort, turn: int
) -> None:
    options = {**curve.options, curve.along: point}
    line = measure(fleet, Contender(peer), seconds=effort.seconds / 2, repeat=1, **options)
    figures.add(QUESTION, curve.workload(point), peer, curve.unit, turn, figure_of(line, curve.figure))


def _short(number: int) -> str:
    for scale, name in ((1 << 20, "Mi"), (1 << 10, "Ki"), (1_000_000, "M"), (1_000, "k")):
        if number >= scale and number % scale == 0:
            return f"{number // scale}{name}"
    return str(number)


def draw(figures: Figures, folder: Path) -> list[tuple[Curve, Path]]:
    """Draw every curve that was measured into a folder; give the files."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    for curve in CURVES:
        plot, axes = plt.subplots(figsize=(6, 3.6), dpi=100)
        for peer in curve.peers:
            points = [point for point in curve.points if figures.values(QUESTION, curve.workload(point), peer)]
            spreads = [Spread.of(figures.values(QUESTION, curve.workload(point), peer)) for point in points]
            if points:
                colour = COLOURS[peer]
                axes.plot(points, [spread.median for spread in spreads], "o-", label=peer, color=colour)
                lowest, highest = [s.lowest for s in spreads], [s.highest for s in spreads]
                axes.fill_between(points, lowest, highest, alpha=0.15, color=colour)
        if axes.lines:
            axes.set(xscale="log", yscale="log", xlabel=curve.axis, ylabel=curve.unit, title=curve.title)
            axes.set_xticks(curve.points, [_short(point) for point in curve.points])
            axes.minorticks_off()
            axes.grid(visible=True, alpha=0.3)
            axes.legend()
            path = folder / f"{curve.name}.png"
            plot.savefig(path, bbox_inches="tight", metadata={"Software": None})
            drawn.append((curve, path))
        plt.close(plot)
    return drawn
