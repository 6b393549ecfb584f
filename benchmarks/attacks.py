"""What does an attack do to the others? The p99 of honest clients undisturbed and under each attack, in the same run.

The server has one core. Honest clients (``bystander.py``) share the other one with the attacker (``attackers.py``),
each a process of its own. The attacker has the lowest priority and a bounded rate, server and honest clients have a
real-time one where the system grants it, so that the server is measured and not the fight for a core. What is left of
that fight, the row of an attacker that only computes tells. Right before each attack the same clients are measured
undisturbed.

Told besides: the server's memory before, at its peak and after; its share of its core; and whether anything got in:
a welcome that an attacker should not have had, or a key in the store that no honest client has put there.
"""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from time import monotonic
from typing import Any

from benchmarks.bystander import CONNECTIONS, PER_S, VALUE_SIZE, Bystander
from benchmarks.impostors import EXPIRED, FOREIGN, TOKEN_FILE
from benchmarks.machine import CLIENT_CORE, SERVER_CORE, cpu_ns, hurry, memory_of, pin, reset_peak, settle
from benchmarks.peers import HOST, NATIVE, PURE, MeasureError, Server, environment, present, start_server, tie_to_parent
from benchmarks.progress import Effort, note
from benchmarks.report import Figures, Spread, format_figure, table

__all__ = [
    "EVERYBODY",
    "INSIDE",
    "MEMORY",
    "QUESTION",
    "Attacked",
    "attacked",
    "p99_of",
    "run",
    "section",
    "undisturbed",
    "who",
]

QUESTION = "attacks"
INSIDE = "what got in"
MEMORY = "memory above that before, at most under any attack"
EVERYBODY = "all servers"
UNREAD_MAX = "4M"
PHASE = 4  # times the seconds of an effort
HALF_OPEN_S = 4.5
PREFIXES_S = 2.5
ROUNDS_MAX = 7  # each takes a minute and a half
START_S = 0.1
WARM_S = 0.2
MIB = 1 << 20


@dataclass(frozen=True)
class Attacked:
    """One row: an attack on servers of one kind.

    Attributes:
        attack: its name in ``attackers``.
        kind: what the servers want of their clients: ``open`` for nothing, ``token``, ``tls`` for certificates.
        peers: whose servers.
        dialects: what honest clients speak.
        is_judged: whether there is a bar; there is none for what the limits allow a valid peer.
        seconds: how long, if the effort does not say.
    """

    attack: str
    kind: str = "open"
    peers: Sequence[str] = (NATIVE, PURE)
    dialects: Sequence[str] = ("c10d", "session")
    is_judged: bool = True
    seconds: float = 0.0


_SESSION = ("session",)
ATTACKED = (
    Attacked("port scan"),
    Attacked("random bytes"),
    Attacked("every prefix of every valid request", seconds=PREFIXES_S),
    Attacked("slow-loris"),
    Attacked("unread replies"),
    Attacked("20,000 half-open handshakes", seconds=HALF_OPEN_S),
    Attacked("wrong tokens", "token", dialects=_SESSION),
    Attacked("replayed handshakes", "token", dialects=_SESSION),
    Attacked("expired certificates", "tls", (PURE,)),
    Attacked("foreign certificates", "tls", (PURE,)),
    Attacked("20 connections WAIT for 60,000 names and cancel", is_judged=False),
    Attacked("4 connections LIST 200,000 KEYS", is_judged=False),
    Attacked("4 connections flood with tiny requests", is_judged=False),
    Attacked("nothing, a busy loop on the client's core", is_judged=False),
)


def attacked() -> Iterator[tuple[Attacked, str, str]]:
    """Give each attack that has a bar, with the peer and the dialect of its honest clients."""
    for row in ATTACKED:
        if row.is_judged:
            yield from ((row, peer, dialect) for peer in row.peers for dialect in row.dialects)


def p99_of(attack: str) -> str:
    """Give the name of the row for the p99 of honest clients."""
    return f"{attack}: p99"


def who(peer: str, dialect: str) -> str:
    """Give the name of honest clients under an attack."""
    return f"{peer}, {dialect}"


def undisturbed(peer: str, dialect: str) -> str:
    """Give the name of the same clients right before."""
    return f"{who(peer, dialect)}, undisturbed"


# --- who takes part ----------------------------------------------------------------------------------------------


class _Stage:
    """A server, and its honest clients."""

    def __init__(self, kind: str, peer: str, dialects: Sequence[str], folder: Path) -> None:
        own = folder / f"{kind} {peer}"
        own.mkdir()
        asked, given = _security(kind, folder)
        self.peer = peer
        self.folder = folder
        self.server: Server = start_server(peer, own, more=["--limit", f"output_total_max={UNREAD_MAX}", *asked])
        self.bystander = Bystander(self.server.port, dialects, given)
        pin(self.server.pid, SERVER_CORE)
        hurry(self.server.pid)

    def close(self) -> None:
        self.bystander.close()
        self.server.close()


def _security(kind: str, folder: Path) -> tuple[list[str], dict[str, str]]:
    """Give the words that a server is told, and the environment that lets a client in."""
    if kind == "token":
        file = str(folder / TOKEN_FILE)
        return ["--token-file", file], {"RALLYPOINT_TOKEN_FILE": file}
    if kind == "tls":
        ca = str(folder / "ca.pem")
        asked = {"ca": ca, "cert": f"{folder / 'server.pem'}", "key": f"{folder / 'server.key'}"}
        given = {"CA": ca, "CERT": f"{folder / 'client.pem'}", "KEY": f"{folder / 'client.key'}"}
        words = [word for name, path in asked.items() for word in (f"--tls-{name}", path)]
        return words, {f"RALLYPOINT_TLS_{name}": path for name, path in given.items()}
    return [], {}


def _write_secrets(folder: Path) -> None:
    """Make a token, and certificates: the server's, a client's, one that has expired, one of another authority."""
    from datetime import datetime, timedelta, timezone

    import trustme

    token = folder / TOKEN_FILE
    token.touch(mode=0o600)
    token.write_text(token_hex(32))
    ours, theirs = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(str(folder / "ca.pem"))
    now = datetime.now(timezone.utc)
    for name, ca, ends in (
        ("server", ours, now + timedelta(days=1)),
        ("client", ours, now + timedelta(days=1)),
        (EXPIRED, ours, now - timedelta(days=1)),
        (FOREIGN, theirs, now + timedelta(days=1)),
    ):
        leaf = ca.issue_cert(HOST, not_before=now - timedelta(days=2), not_after=ends)
        key = folder / f"{name}.key"
        key.touch(mode=0o600)
        key.write_bytes(leaf.private_key_pem.bytes())
        (folder / f"{name}.pem").write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))


class _Attacker:
    """The process of one attack."""

    def __init__(self, attack: str, stage: _Stage) -> None:
        words = [attack, str(stage.server.port), str(stage.folder)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.attackers", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(NATIVE),
            preexec_fn=tie_to_parent,  # noqa: PLW1509 - the bench has one thread
        )
        pin(self._process.pid, CLIENT_CORE)
        self.read()

    def read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MeasureError("the attacker has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def say(self, line: object) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(line, file=self._process.stdin, flush=True)

    def close(self) -> None:
        self.say("end")
        self._process.communicate()


# --- the runner --------------------------------------------------------------------------------------------------


def run(figures: Figures, effort: Effort, rng: random.Random) -> None:
    """Let every attack happen once a round to every server, in an order that changes."""
    rows = [(row, peer) for row in ATTACKED for peer in present(row.peers)]
    stages: dict[tuple[str, str], _Stage] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        _write_secrets(folder)
        for row, peer in rows:
            if (row.kind, peer) not in stages:
                stages[row.kind, peer] = _Stage(row.kind, peer, row.dialects, folder)
                stack.callback(stages[row.kind, peer].close)
        for turn in range(min(effort.rounds, ROUNDS_MAX)):
            run_round(
                figures, effort, [(row, stages[row.kind, peer]) for row, peer in rng.sample(rows, len(rows))], turn
            )


def run_round(figures: Figures, effort: Effort, rows: Sequence[tuple[Attacked, _Stage]], turn: int) -> None:
    """Let every attack happen once."""
    inside = 0.0
    most: dict[str, float] = {}
    for row, stage in rows:
        try:
            got_in, growth = _measure(figures, row, stage, effort, turn)
        except MeasureError as error:
            note(f"{row.attack} on the {stage.peer}: {error}")
            continue
        inside += got_in
        if row.is_judged:
            most[stage.peer] = max(most.get(stage.peer, 0.0), growth)
    figures.add(QUESTION, INSIDE, EVERYBODY, "", turn, inside)
    for peer, growth in most.items():
        figures.add(QUESTION, MEMORY, peer, "MiB", turn, growth)


def _measure(figures: Figures, row: Attacked, stage: _Stage, effort: Effort, turn: int) -> tuple[float, float]:
    """Measure undisturbed, then attacked; give how much got in, and by how much memory grew, in MiB."""
    seconds = row.seconds or PHASE * effort.seconds
    pid = stage.server.pid
    for _ in range(3):  # what the last attack has left behind is put away while somebody asks
        stage.bystander.ask(WARM_S)
        settle(pid)
    shares, told = [], []
    reset_peak(pid)
    before = memory_of(pid)["rss"]

    def ask() -> None:
        used, begun = cpu_ns(pid), monotonic()
        told.append(stage.bystander.ask(seconds))
        shares.append((cpu_ns(pid) - used) / (monotonic() - begun) / 1e7)

    ask()
    attacker = _Attacker(row.attack, stage)
    try:
        attacker.say(seconds + START_S)
        ask()
        attack = attacker.read()
        peak = max(before, memory_of(pid)["peak"])
    finally:
        attacker.close()
    settle(pid)
    after = memory_of(pid)["rss"]
    strange = stage.bystander.ask(0.0)["strange"]
    for dialect in row.dialects:
        for name, found in zip((undisturbed(stage.peer, dialect), who(stage.peer, dialect)), told, strict=True):
            for part, each in (("p50", "p50_us"), ("p99", "p99_us"), ("longest", "longest_us")):
                figures.add(QUESTION, f"{row.attack}: {part}", name, "us", turn, found[dialect][each])
    for what, value, unit in (
        ("strikes a second", attack["per_s"], "/s"),
        ("failed", attack["failed"], ""),
        ("attacker's core", 100 * attack["cpu"], "%"),
        ("server undisturbed", shares[0], "%"),
        ("server attacked", shares[1], "%"),
        ("before", before, "B"),
        ("peak", peak, "B"),
        ("after", after, "B"),
        ("inside", attack["inside"] + strange, ""),
    ):
        figures.add(QUESTION, f"{row.attack}: {what}", stage.peer, unit, turn, value)
    return attack["inside"] + strange, (peak - before) / MIB


# --- the report --------------------------------------------------------------------------------------------------


def section(figures: Figures) -> Iterator[str]:
    """Give the report's lines: what honest clients notice, and what the server does."""
    yield (
        f"Honest clients: {CONNECTIONS} connections in each dialect, {PER_S} times a second a get of {VALUE_SIZE} "
        "bytes in each; an answer that makes the next question late is late for that one, too. The attacker shares "
        "their core at the lowest priority; they, and the server on its core, have a real-time one. Undisturbed "
        "is right before each attack. A ratio is taken round by round. TLS is served by the Python loop alone."
    )
    yield ""
    rows = []
    for row in ATTACKED:
        for peer in row.peers:
            rows += [_latency(figures, row.attack, peer, dialect) for dialect in row.dialects]
    heads = ("attack", "honest clients", "p50", "p99", "p50 attacked", "p99 attacked", "ratio of p99", "longest")
    yield from table(heads, [each for each in rows if each])
    yield ""
    yield (
        "The server while that happens. Memory is what is resident, in MiB: before, at the peak, and after. Servers "
        f"are given {UNREAD_MAX} of unread replies of all peers together. Inside is what got in over all rounds."
    )
    yield ""
    rows = [_server(figures, row.attack, peer) for row in ATTACKED for peer in row.peers]
    names = ("attack", "server", "strikes", "attacker's share of its core", "server's share, undisturbed", "attacked")
    yield from table((*names, "memory before", "peak", "after", "inside"), [each for each in rows if each])


def _latency(figures: Figures, attack: str, peer: str, dialect: str) -> list[str]:
    name, base = who(peer, dialect), undisturbed(peer, dialect)
    ratios = figures.ratios(QUESTION, p99_of(attack), name, base)
    if not ratios:
        return []

    def median(part: str, contender: str) -> str:
        return format_figure(Spread.of(figures.values(QUESTION, f"{attack}: {part}", contender)).median, "us")

    spread = Spread.of(ratios)
    ratio = f"{spread.median:.2f} ({spread.lowest:.2f} .. {spread.highest:.2f})"
    parts = [median(part, each) for each in (base, name) for part in ("p50", "p99")]
    return [attack, name, *parts, ratio, median("longest", name)]


def _server(figures: Figures, attack: str, peer: str) -> list[str]:
    def values(what: str) -> list[float]:
        return figures.values(QUESTION, f"{attack}: {what}", peer)

    if not values("peak"):
        return []

    def median(what: str) -> float:
        return Spread.of(values(what)).median

    memory = [f"{each:.1f}" for each in (median("before") / MIB, max(values("peak")) / MIB, median("after") / MIB)]
    shares = [f"{median(what):.0f} %" for what in ("attacker's core", "server undisturbed", "server attacked")]
    rate = format_figure(median("strikes a second"), "/s")
    return [attack, peer, rate, *shares, *memory, f"{sum(values('inside')):.0f}"]
