"""What do barriers and exchanges cost in the session dialect, beside torch's ways on torch's server?

torch: a barrier is ADD and WAIT, an exchange SET, WAIT and MULTI_GET, one connection a member. Ours: MEET and EXCHANGE,
one request a member; one connection a member, or eight members on one. And torch's ways again, word for word, through
relay processes of eight local ranks each to our server. Besides, what one client pays for the dialect, and a barrier of
100,000 members.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.peers import NATIVE, PURE, TORCH, Contender, Fleet, MeasureError, measure, present
from benchmarks.progress import Effort, note
from benchmarks.relays import Relays
from benchmarks.report import Figures
from benchmarks.servers import figure_of

__all__ = ["LATENCIES", "PER_RELAY", "QUESTION", "barrier_of", "exchange_of", "relayed", "relays", "run", "session"]

QUESTION = "collectives"
PER_RELAY = 8
BARRIERS = (64, 512, 4096, 16_384)
EXCHANGES = (64, 256, 512, 1024)
LARGEST = 100_000
RELAYED_MAX = 512
LATENCIES = ("get", "set", "add")


@dataclass(frozen=True)
class Entry:
    """One contender of one workload, and what the generator is told; through so many relays, if any."""

    name: str
    contender: Contender
    options: dict[str, Any]
    same_core: bool = False
    relays: int = 0


@dataclass(frozen=True)
class Row:
    """One workload."""

    name: str
    unit: str
    figure: str
    entries: Sequence[Entry] = field(default_factory=tuple)


def barrier_of(members: int) -> str:
    """Give the name of a barrier's row."""
    return f"barrier of {members:,}"


def exchange_of(members: int) -> str:
    """Give the name of an exchange's row."""
    return f"exchange of {members:,} x 1 KiB"


def session(peer: str) -> str:
    """Give the name of a twin's session dialect."""
    return f"{peer}, session"


def relayed(peer: str) -> str:
    """Give the name of the same with as many members on one connection as a relay has."""
    return f"{peer}, session, {PER_RELAY} a connection"


def relays(peer: str) -> str:
    """Give the name of a twin behind relays, whose ranks do what they do with torch's server."""
    return f"{peer}, relays of {PER_RELAY} plain clients"


def _collective(name: str, members: int, theirs: str, ours: str, **options: Any) -> Row:
    entries = [Entry(TORCH, Contender(TORCH), {"workload": theirs, "connections": members, **options})]
    for peer in present((NATIVE, PURE)):
        for per, label in ((1, session(peer)), (PER_RELAY, relayed(peer))):
            asked = {"workload": ours, "wire": "session", "connections": members // per, "per": per, **options}
            entries.append(Entry(label, Contender(peer), asked))
    if members <= RELAYED_MAX:
        asked = {"workload": theirs, "connections": members, **options}
        entries += [
            Entry(relays(peer), Contender(peer), asked, relays=members // PER_RELAY) for peer in present((NATIVE,))
        ]
    return Row(name, "ms", "ms", entries)


def _rows() -> Iterator[Row]:
    for members in BARRIERS:
        yield _collective(barrier_of(members), members, "barrier", "meet")
    for members in EXCHANGES:
        yield _collective(exchange_of(members), members, "exchange", "gather", value=1024)
    largest = {"workload": "meet", "wire": "session", "connections": LARGEST // PER_RELAY, "per": PER_RELAY}
    entries = [Entry(relayed(peer), Contender(peer), largest) for peer in present((NATIVE, PURE))]
    yield Row(barrier_of(LARGEST), "ms", "ms", entries)
    for op in LATENCIES:
        entries = []
        for peer in present((NATIVE, PURE)):
            asked = {"workload": "pingpong", "op": op}
            entries += [
                Entry(peer, Contender(peer), asked, same_core=True),
                Entry(session(peer), Contender(peer), {**asked, "wire": "session"}, same_core=True),
            ]
        yield Row(f"one client, same core, {op}", "us", "us_p50", entries)


def _measure(fleet: Fleet, crowd: Relays | None, entry: Entry, effort: Effort) -> dict[str, Any]:
    options = {"seconds": effort.seconds, "repeat": effort.repeat, **entry.options}
    if entry.relays and crowd is not None:
        return crowd.measure(entry.relays, **options)
    return measure(fleet, entry.contender, same_core=entry.same_core, **options)


def run(figures: Figures, effort: Effort, rng: random.Random) -> None:
    """Measure every row once a round on every contender, in an order that changes."""
    failed: set[tuple[str, str]] = set()
    with Fleet() as fleet, contextlib.ExitStack() as ends:
        crowd = None
        if present((NATIVE,)):
            crowd = Relays(fleet.get(NATIVE))
            ends.callback(crowd.close)
        for turn in range(effort.rounds):
            for row in _rows():
                for entry in rng.sample(row.entries, len(row.entries)):
                    if (row.name, entry.name) in failed:
                        continue
                    try:
                        line = _measure(fleet, crowd, entry, effort)
                    except MeasureError as error:
                        note(f"{entry.name} cannot do {row.name!r}: {error}")
                        failed.add((row.name, entry.name))
                    else:
                        figures.add(QUESTION, row.name, entry.name, row.unit, turn, figure_of(line, row.figure))
