"""Write RESULTS.md: the machine, the bars, every figure, the generator's headroom, the plots."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import attacks, busy, calls, collectives, durable, growth, memory, rendezvous, servers
from benchmarks.calls import Pair
from benchmarks.machine import describe
from benchmarks.peers import FLOOR_PEER, TORCH
from benchmarks.progress import Effort
from benchmarks.report import Figures, Spread, Verdict, format_figure, table

__all__ = ["bars_table", "write"]

INTRODUCTION = """\
# Results

Written by `make bench`; [README.md](README.md) tells how it measures. Medians over the rounds of one run, all peers
taking turns in each round, everything on loopback. A ratio is taken round by round, and its median counts. Times are
better when lower, rates when higher."""

QUESTIONS = (
    (servers.QUESTION, "What a server answers", TORCH, FLOOR_PEER),
    (servers.CPU, "Processor time of the server for one request", TORCH, FLOOR_PEER),
    (calls.QUESTION, "What a Python caller sees", str(Pair(TORCH, TORCH)), ""),
    (busy.QUESTION, "A server inside a busy program", str(busy.Host(TORCH, busy.BUSY)), ""),
    (memory.QUESTION, "Memory of the server's process", TORCH, ""),
    (durable.QUESTION, "Durable writes", durable.ETCD, ""),
    (rendezvous.RECOVERY, "A death among nodes", TORCH, ""),
    (collectives.QUESTION, "Barriers and exchanges in the session dialect", TORCH, ""),
)


def write(path: Path, figures: Figures, verdicts: Sequence[Verdict], ours: str, effort: Effort, took_s: float) -> None:
    """Write the report."""
    lines = [INTRODUCTION, ""]
    lines += [f"{effort.rounds} rounds, {took_s / 60:.0f} minutes. Judged is the {ours}.", "", "## The machine", ""]
    lines += table(("", ""), describe())
    lines += ["", "## Bars", "", *_bars(verdicts)]
    if figures.workloads(servers.BUSY):
        lines += ["", "## Headroom of the load generator", "", *_headroom(figures, ours)]
    for question, title, base, floor in QUESTIONS:
        if figures.workloads(question):
            lines += ["", f"## {title}", "", *_section(figures, question, base, floor)]
    if figures.workloads(growth.QUESTION):
        lines += ["", "## Growth", "", *_growth(figures, path.parent)]
    if figures.workloads(rendezvous.QUESTION):
        lines += ["", "## How long it takes to meet", "", *rendezvous.section(figures, path.parent)]
    if figures.workloads(attacks.QUESTION):
        lines += ["", "## Honest clients beside attackers", "", *attacks.section(figures)]
    path.write_text("\n".join(lines) + "\n")


def bars_table(verdicts: Sequence[Verdict]) -> list[str]:
    """Give the bars and how they came out, as a table."""
    rows = []
    for verdict in verdicts:
        bar, spread = verdict.bar, verdict.spread
        limit = f"{'>=' if bar.is_floor else '<='} {bar.limit:.4g}"
        ends = f"{spread.lowest:.3g} .. {spread.highest:.3g}" if spread else ""
        rows.append((bar.text, limit, f"{spread.median:.3g}" if spread else "", ends, verdict.word))
    return table(("bar", "limit", "measured", "lowest .. highest", "verdict"), rows)


def _bars(verdicts: Sequence[Verdict]) -> Iterator[str]:
    yield from bars_table(verdicts)
    yield ""
    yield (
        "Too close to call: the middle half of the rounds lies on both sides of the limit. "
        "Wide: that middle half spans more than 30 % of the median."
    )


def _section(figures: Figures, question: str, base: str, floor: str) -> Iterator[str]:
    heads = ["what", "who", "median", "lowest .. highest", f"ratio to {base}"]
    if floor:
        heads.append(f"ratio to the {floor}")
    rows = []
    for workload in figures.workloads(question):
        unit = figures.unit(question, workload)
        for i, contender in enumerate(sorted(figures.contenders(question, workload))):
            spread = Spread.of(figures.values(question, workload, contender))
            ends = f"{format_figure(spread.lowest, unit)} .. {format_figure(spread.highest, unit)}"
            row = [workload if i == 0 else "", contender, format_figure(spread.median, unit), ends]
            for other in (base, floor):
                if other:
                    ratios = figures.ratios(question, workload, contender, other)
                    row.append(f"{Spread.of(ratios).median:.2f}" if ratios else "")
            rows.append(row)
    yield from table(heads, rows)


def _headroom(figures: Figures, ours: str) -> Iterator[str]:
    yield (
        "How much faster the same load runs against the floor, a server that does no work, and how busy the two sides "
        "were. Where the server is busy all the time and the generator is not, the server is what was measured; where "
        "neither is, the machine had other things to do. Processor time of one request does not depend on that. A "
        "storm of connections costs the connecting side more of the kernel's time than the accepting one, whoever "
        "connects."
    )
    yield ""
    rows = []
    for workload in figures.workloads(servers.BUSY):
        ratios = figures.ratios(servers.QUESTION, workload, FLOOR_PEER, ours)
        if not ratios:
            continue
        times = Spread.of(ratios).median
        is_rate = figures.unit(servers.QUESTION, workload) == "/s"
        row = [workload, f"{times if is_rate else 1 / times:.2f}x"]
        for side in (f"{ours}: server", f"{ours}: generator", f"{FLOOR_PEER}: server", f"{FLOOR_PEER}: generator"):
            values = figures.values(servers.BUSY, workload, side)
            row.append(f"{Spread.of(values).median:.0f} %" if values else "")
        for question, side in ((servers.CPU, ours), (servers.GENERATOR_CPU, ours), (servers.CPU, FLOOR_PEER)):
            values = figures.values(question, workload, side)
            row.append(format_figure(Spread.of(values).median, "us") if values else "")
        rows.append(row)
    heads = (
        "load",
        "floor beside ours",
        "server busy",
        "generator busy",
        "floor busy",
        "generator busy at the floor",
        "server, one request",
        "generator, one request",
        "floor, one request",
    )
    yield from table(heads, rows)


def _growth(figures: Figures, folder: Path) -> Iterator[str]:
    for curve, path in growth.draw(figures, folder / "plots"):
        yield f"![{curve.title}]({os.path.relpath(path, folder)})"
        yield ""
        points = [point for point in curve.points if curve.workload(point) in figures.workloads(growth.QUESTION)]
        rows = []
        for peer in curve.peers:
            found = [figures.values(growth.QUESTION, curve.workload(point), peer) for point in points]
            if any(found):
                rows.append([peer, *(format_figure(Spread.of(v).median, curve.unit) if v else "" for v in found)])
        yield from table([curve.axis, *(f"{point:,}" for point in points)], rows)
        yield ""
