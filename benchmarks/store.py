"""How fast is the store? Latency and throughput beside torch's, in the same run, as ratios.

Questions: what does one call cost a Python caller (our client and torch's, on our server and on torch's), and how
many requests a second does each server answer (raw sockets, so that no client's code is measured)?

Method: both servers run for the whole time, each in a process of its own. Every workload is measured once on each
peer in turn, ``--rounds`` times; a row shows the median over the rounds, the smallest and the largest, and the
median of the ratios to torch taken round by round, so that a slow minute of the machine hits both sides of a ratio
alike.

    python benchmarks/store.py                 # needs torch==2.13.0 in the environment
    python benchmarks/store.py --rounds 9 --json result.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import select
import socket
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import MAGIC, Verb

HOST = "127.0.0.1"
LATENCY_CALLS = 2000
THROUGHPUT_S = 0.5
CONNECTIONS = 64
PIPELINE_DEPTH = 32
CONNECT_TIMEOUT_S = 10

TORCH_SERVER = """
import sys
from datetime import timedelta
import torch.distributed as dist
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
print(store.port, flush=True)
sys.stdin.read()
"""


@dataclass
class Row:
    """One workload's results on one peer; all values of one unit, one a round."""

    workload: str
    peer: str
    unit: str
    values: list[float] = field(default_factory=list)


@contextlib.contextmanager
def torch_server() -> Iterator[int]:
    """Run torch's server in a process of its own; give its port."""
    with subprocess.Popen(
        [sys.executable, "-c", TORCH_SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # it complains about every connection that a workload closes
        text=True,
    ) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.communicate()


@contextlib.contextmanager
def rallypoint_server() -> Iterator[int]:
    """Run our server in a process of its own; give its port."""
    command = [sys.executable, "-m", "rallypoint", "serve", "--bind", HOST, "--port", "0", "--ready-json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield int(json.loads(process.stdout.readline())["port"])
        process.terminate()


# --- latency: what a Python caller sees ------------------------------------------------------------------


def p50_us(call: Callable[[], object], calls: int = LATENCY_CALLS) -> float:
    """Give the median duration of one call, in microseconds."""
    clock = time.perf_counter_ns
    durations = []
    for _ in range(calls):
        start = clock()
        call()
        durations.append(clock() - start)
    return statistics.median(durations) / 1000


def latency_workloads(store: Any) -> Iterator[tuple[str, Callable[[], object]]]:
    """Give the calls to time, by name, on a store of either make."""
    keys = [f"k{i}" for i in range(64)]
    store.set("present", b"v" * 32)
    store.multi_set(keys, [b"v" * 32] * len(keys))
    store.wait(["present", *keys])
    yield "get of a present key", lambda: store.get("present")
    yield "check", lambda: store.check(["present"])
    yield "add", lambda: store.add("count", 1)
    yield "set (fire and forget)", lambda: store.set("written", b"v" * 32)
    yield "compare_set", lambda: store.compare_set("present", b"v" * 32, b"v" * 32)
    yield "multi_get of 64 keys", lambda: store.multi_get(keys)


def make_clients(torch_port: int, our_port: int) -> dict[str, Any]:
    """Connect both makes of client to both makes of server."""
    import torch.distributed as dist

    import rallypoint

    timeout = timedelta(seconds=CONNECT_TIMEOUT_S)
    return {
        "torch client, torch server": dist.TCPStore(HOST, torch_port, timeout=timeout, wait_for_workers=False),
        "our client, our server": rallypoint.TCPStore(HOST, our_port, timeout=timeout, wait_for_workers=False),
        "our client, torch server": rallypoint.TCPStore(HOST, torch_port, timeout=timeout, wait_for_workers=False),
        "torch client, our server": dist.TCPStore(HOST, our_port, timeout=timeout, wait_for_workers=False),
    }


def measure_latency(clients: dict[str, Any], rows: dict[tuple[str, str], Row]) -> None:
    """Time every call once on every pair, in turn."""
    workloads = {peer: dict(latency_workloads(store)) for peer, store in clients.items()}
    names = list(next(iter(workloads.values())))
    for name in names:
        for peer, store in clients.items():
            row = rows.setdefault((name, peer), Row(name, peer, "us"))
            row.values.append(p50_us(workloads[peer][name]))
            store.check(["present"])  # nothing of a fire-and-forget workload is left in the pipe


# --- throughput: what a server answers -------------------------------------------------------------------


def connect(port: int) -> socket.socket:
    """Open one validated connection."""
    connection = socket.create_connection((HOST, port), CONNECT_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(encode_request(Verb.VALIDATE, MAGIC) + encode_request(Verb.PING, 7))
    if connection.recv(4, socket.MSG_WAITALL) != struct.pack("<I", 7):
        raise ConnectionError(f"the server on port {port} does not speak the protocol")
    return connection


def requests_per_s(port: int, request: bytes, reply_size: int, depth: int) -> float:
    """Keep ``depth`` requests in flight on each of CONNECTIONS connections; give answers a second."""
    connections = [connect(port) for _ in range(CONNECTIONS)]
    poller = select.epoll()
    batch, expected = request * depth, reply_size * depth
    by_fd = {connection.fileno(): connection for connection in connections}
    missing = dict.fromkeys(by_fd, expected)
    answers = 0
    try:
        for fd, connection in by_fd.items():
            connection.setblocking(False)
            poller.register(fd, select.EPOLLIN)
            connection.send(batch)
        start = time.perf_counter()
        while (elapsed := time.perf_counter() - start) < THROUGHPUT_S:
            for fd, _ in poller.poll(CONNECT_TIMEOUT_S):
                missing[fd] -= len(by_fd[fd].recv(1 << 16))
                if missing[fd] == 0:
                    answers += depth
                    missing[fd] = expected
                    by_fd[fd].send(batch)
        return answers / elapsed
    finally:
        poller.close()
        for connection in connections:
            connection.close()


def connects_per_s(port: int, clients: int = CONNECTIONS) -> float:
    """Open many connections at once and greet on each; give greeted connections a second.

    torch's server looks up the peer's name at every accept: where the resolver is slow, so is it.
    """
    start = time.perf_counter()
    connections = [socket.create_connection((HOST, port), CONNECT_TIMEOUT_S) for _ in range(clients)]
    greeting = encode_request(Verb.VALIDATE, MAGIC) + encode_request(Verb.PING, 7)
    for connection in connections:
        connection.sendall(greeting)
    for connection in connections:
        connection.recv(4, socket.MSG_WAITALL)
    elapsed = time.perf_counter() - start
    for connection in connections:
        connection.close()
    return clients / elapsed


def measure_throughput(ports: dict[str, int], rows: dict[tuple[str, str], Row]) -> None:
    """Load every server once with every workload, in turn."""
    get, value = encode_request(Verb.GET, b"/present"), 8 + 32
    add = encode_request(Verb.ADD, b"/count", 1)
    workloads: dict[str, Callable[[int], float]] = {
        f"{CONNECTIONS} connections, get, 1 in flight": lambda port: requests_per_s(port, get, value, 1),
        f"{CONNECTIONS} connections, get, {PIPELINE_DEPTH} in flight": lambda port: requests_per_s(
            port, get, value, PIPELINE_DEPTH
        ),
        f"{CONNECTIONS} connections, add, 1 in flight": lambda port: requests_per_s(port, add, 8, 1),
        f"connect and greet, {CONNECTIONS} at once": connects_per_s,
    }
    for name, workload in workloads.items():
        for peer, port in ports.items():
            row = rows.setdefault((name, peer), Row(name, peer, "/s"))
            row.values.append(workload(port))


# --- the report ------------------------------------------------------------------------------------------


def print_table(rows: list[Row], baseline: str) -> None:
    """Print one line a row; ratios above 1 mean better than the baseline."""
    by_workload = {row.workload: row for row in rows if row.peer == baseline}
    print(f"\n{'workload':<38} {'peer':<28} {'median':>12} {'min .. max':>23} {'times better':>13}")
    for row in rows:
        base = by_workload[row.workload]
        pairs = zip(row.values, base.values, strict=True)
        ratio = statistics.median(b / v if row.unit == "us" else v / b for v, b in pairs)
        spread = f"{min(row.values):,.1f} .. {max(row.values):,.1f}"
        print(
            f"{row.workload:<38} {row.peer:<28} {statistics.median(row.values):>9,.1f} {row.unit:<2} {spread:>23}"
            f" {ratio:>12.2f}x"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="how often everything is measured (default: 5)")
    parser.add_argument("--json", type=Path, help="write every single figure to this file")
    options = parser.parse_args()

    latency: dict[tuple[str, str], Row] = {}
    throughput: dict[tuple[str, str], Row] = {}
    with torch_server() as torch_port, rallypoint_server() as our_port:
        clients = make_clients(torch_port, our_port)
        for _ in range(options.rounds):
            measure_latency(clients, latency)
            measure_throughput({"torch server": torch_port, "our server": our_port}, throughput)
        clients.clear()
    print_table(list(latency.values()), "torch client, torch server")
    print_table(list(throughput.values()), "torch server")
    if options.json:
        rows = [*latency.values(), *throughput.values()]
        options.json.write_text(json.dumps([vars(row) for row in rows], indent=1))


if __name__ == "__main__":
    main()
