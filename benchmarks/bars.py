"""What is promised: one bar a line, each a ratio in the same run or a plain limit."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import attacks, busy, calls, collectives, durable, memory, rendezvous, servers
from benchmarks.calls import ACROSS, SAME_CORE, SPIN_US, Pair
from benchmarks.peers import FLOOR_PEER, NATIVE, PURE, TORCH
from benchmarks.report import Bar

__all__ = ["bars_of"]

IDLE_CONNECTION_B = 4096
DELAY_US = 1000
ATTACKED_TIMES = 3
ATTACKED_MIB = 256


def bars_of(ours: str) -> list[Bar]:
    """Give all bars for one of our twins."""
    of_ours = (_server_bars, _caller_bars, _other_bars, _session_bars, _rendezvous_bars)
    return [*(bar for bars in of_ours for bar in bars(ours)), *_attack_bars()]


def _server_bars(ours: str) -> Iterator[Bar]:
    for op in ("get", "set", "add", "check"):
        workload = f"one client, same core, {op}"
        yield Bar(f"{workload}: at most 0.88x torch", servers.QUESTION, workload, ours, 0.88, TORCH)
        yield Bar(f"{workload}: at most 1.12x the floor", servers.QUESTION, workload, ours, 1.12, FLOOR_PEER)
    for workload, limit in (("64 connections, 1 in flight, get", 1.15), ("64 connections, 32 in flight, get", 10)):
        text = f"{workload}: at least {limit}x torch"
        yield Bar(text, servers.QUESTION, workload, ours, limit, TORCH, is_floor=True)
    exchange = "exchange of 512 x 1 KiB"
    text = f"{exchange}: at least 2.3x as fast as torch, at most {1 / 2.3:.3f}x its time"
    yield Bar(text, servers.QUESTION, exchange, ours, 1 / 2.3, TORCH)
    for workload in ("barrier of 4,096, ADD + WAIT", "storm of 4,000 clients"):
        yield Bar(f"{workload}: not slower than torch", servers.QUESTION, workload, ours, 1.0, TORCH)


def _caller_bars(ours: str) -> Iterator[Bar]:
    def bar(call: str, place: str, limit: float, via: str = "tcp", spin_us: int = 0) -> Bar:
        pair = Pair(ours, ours, via, spin_us)
        text = f"Python caller, {pair}, {call}, {place}: at most {limit}x torch on torch"
        return Bar(text, calls.QUESTION, f"{call}, {place}", str(pair), limit, str(Pair(TORCH, TORCH)))

    for call, limit in (("get", 0.45), ("add", 0.85), ("check", 0.85), (f"multi_get of {calls.MULTI}", 0.3)):
        yield bar(call, SAME_CORE, limit)
    yield bar("get", SAME_CORE, 0.3, via="unix")
    yield bar("get", ACROSS, 0.15, spin_us=SPIN_US)


def _other_bars(ours: str) -> Iterator[Bar]:
    text = f"one idle connection: under {IDLE_CONNECTION_B} bytes"
    yield Bar(text, memory.QUESTION, memory.CONNECTION, ours, IDLE_CONNECTION_B)
    host = str(busy.Host(ours, busy.BUSY))
    text = f"a busy main thread delays no reply by more than {DELAY_US} us"
    yield Bar(text, busy.QUESTION, busy.LONGEST, host, DELAY_US)


def _session_bars(ours: str) -> Iterator[Bar]:
    def faster(workload: str, who: str, times: float) -> Bar:
        text = f"{who}, {workload}: at least {times:g}x as fast as torch, at most {1 / times:.3f}x its time"
        return Bar(text, collectives.QUESTION, workload, who, 1 / times, TORCH)

    for workload, times in ((collectives.exchange_of(512), 4.0), (collectives.barrier_of(4096), 1.3)):
        yield faster(workload, collectives.session(ours), times)
        yield faster(workload, collectives.relayed(ours), max(3.0, times))
    yield faster(collectives.exchange_of(512), collectives.relays(ours), 3.0)
    for op in ("get", "set"):
        workload, who = f"one client, same core, {op}", collectives.session(ours)
        text = f"{who}, {workload}: at most 1.1x our own c10d dialect"
        yield Bar(text, collectives.QUESTION, workload, who, 1.1, ours)
    pair, base = Pair(ours, ours, dialect="session"), Pair(ours, ours)
    text = f"Python caller, {pair}, get, {SAME_CORE}: at most 1.1x our own c10d dialect"
    yield Bar(text, calls.QUESTION, f"get, {SAME_CORE}", str(pair), 1.1, str(base))
    text = f"durable {durable.WORKLOAD}: at least 3x etcd"
    yield Bar(text, durable.QUESTION, durable.WORKLOAD, ours, 3, durable.ETCD, is_floor=True)


def _rendezvous_bars(ours: str) -> Iterator[Bar]:
    question, largest = rendezvous.QUESTION, rendezvous.LARGEST
    workload = rendezvous.name_of("ms", rendezvous.THEIR_LARGEST)
    text = f"{workload}: at least 20x as fast as torch, at most 0.05x its time"
    yield Bar(text, question, workload, ours, 0.05, TORCH)
    workload = rendezvous.name_of("ms", largest)
    yield Bar(f"{workload}: at most 2,000 ms on two cores", question, workload, ours, 2000)
    yield Bar(f"{rendezvous.EXPONENT}: at most 1.1", question, rendezvous.EXPONENT, ours, 1.1)
    for part in ("messages", "bytes"):
        workload, base = rendezvous.name_of(part, largest), rendezvous.name_of(part, rendezvous.FIT_FROM)
        text = f"{workload}: at most 1.25x those of {rendezvous.FIT_FROM} agents"
        yield Bar(text, question, workload, ours, 1.25, ours, base_workload=base)
    for nodes, limit_ms in ((2, 1000), (8, 1500)):
        workload = rendezvous.again_of(nodes)
        yield Bar(f"{workload}: within {limit_ms} ms", rendezvous.RECOVERY, workload, ours, limit_ms)


def _attack_bars() -> Iterator[Bar]:
    """Both twins have to keep these."""
    question = attacks.QUESTION
    for row, peer, dialect in attacks.attacked():
        name, base = attacks.who(peer, dialect), attacks.undisturbed(peer, dialect)
        text = f"{name}, {row.attack}: p99 of honest clients at most {ATTACKED_TIMES}x undisturbed"
        yield Bar(text, question, attacks.p99_of(row.attack), name, ATTACKED_TIMES, base)
    for peer in (NATIVE, PURE):
        text = f"{peer}, any attack: memory grows by at most {ATTACKED_MIB} MiB"
        yield Bar(text, question, attacks.MEMORY, peer, ATTACKED_MIB)
    yield Bar("nothing gets in", question, attacks.INSIDE, attacks.EVERYBODY, 0)
