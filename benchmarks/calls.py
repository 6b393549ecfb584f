"""What does a Python caller see? The median time of one call, for pairs of a client's make and a server's.

Each caller is a process of its own with one store, made once; it is asked over a pipe for a few thousand calls of one
kind, on the server's core or on another one, and answers with their median. Spin means that both sides look for the
next message for 50 us before they sleep.

    python -m benchmarks.calls caller MAKE HOST PORT SPIN_US     # what the runner starts
"""

from __future__ import annotations

import inspect
import json
import random
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any

from benchmarks.machine import CLIENT_CORE, SERVER_CORE, pin, settle
from benchmarks.peers import (
    FLOOR_PEER,
    NATIVE,
    PURE,
    TORCH,
    Contender,
    Fleet,
    MeasureError,
    Server,
    can_spin,
    environment,
    has_native,
    measure,
    tie_to_parent,
)
from benchmarks.progress import Effort, note
from benchmarks.report import Figures

__all__ = ["ACROSS", "CALLS", "MULTI", "PAIRS", "PLACES", "QUESTION", "SAME_CORE", "SPIN_US", "Pair", "run"]

QUESTION = "calls"
SAME_CORE = "same core"
ACROSS = "across cores"
PLACES = (SAME_CORE, ACROSS)
SPIN_US = 50

HOST = "127.0.0.1"
TIMEOUT_S = 20
MULTI = 64
CALLS = ("get", "check", "add", "set", "compare_set", f"multi_get of {MULTI}")


@dataclass(frozen=True)
class Pair:
    """A client on a server.

    Attributes:
        client: the client's make.
        server: the server's make.
        via: ``tcp``, ``unix`` for the socket file, ``own`` for what our client chooses by itself, the dialect too.
        spin_us: how long both sides spin.
        dialect: what our client speaks.
    """

    client: str
    server: str
    via: str = "tcp"
    spin_us: int = 0
    dialect: str = "c10d"

    def __str__(self) -> str:
        way = {"tcp": "", "unix": ", unix socket", "own": ", its own choice of way and dialect"}[self.via]
        spin = f", {self.spin_us} us spin" if self.spin_us else ""
        dialect = ", session" if self.dialect == "session" else ""
        return f"{self.client} on {self.server}{dialect}{way}{spin}"

    def can_run(self) -> bool:
        if NATIVE in (self.client, self.server) and not (has_native() and has_native("Client")):
            return False
        return self.spin_us == 0 or can_spin()


PAIRS = (
    Pair(TORCH, TORCH),
    Pair(NATIVE, NATIVE),
    Pair(NATIVE, NATIVE, "unix"),
    Pair(NATIVE, NATIVE, "own"),
    Pair(NATIVE, NATIVE, dialect="session"),
    Pair(PURE, PURE),
    Pair(PURE, PURE, "unix"),
    Pair(PURE, PURE, dialect="session"),
    Pair(TORCH, NATIVE),
    Pair(NATIVE, TORCH),
    Pair(NATIVE, NATIVE, "tcp", SPIN_US),
    Pair(NATIVE, NATIVE, "unix", SPIN_US),
    Pair(PURE, PURE, "tcp", SPIN_US),
)
QUICK_PAIRS = frozenset(pair for pair in PAIRS if pair.client == pair.server and pair.via != "unix")

FLOORS = (
    (SAME_CORE, Contender(FLOOR_PEER)),
    (SAME_CORE, Contender(FLOOR_PEER, "unix")),
    (ACROSS, Contender(FLOOR_PEER)),
    (ACROSS, Contender(FLOOR_PEER, "unix")),
    (ACROSS, Contender(FLOOR_PEER, "tcp", SPIN_US)),
    (ACROSS, Contender(FLOOR_PEER, "unix", SPIN_US)),
)


# --- the caller: a process of its own ------------------------------------------------------------------------


def _connect(make: str, host: str, port: int, spin_us: int) -> Any:
    timeout = timedelta(seconds=TIMEOUT_S)
    if make == TORCH:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch.distributed as dist
        return dist.TCPStore(host, port, timeout=timeout, wait_for_workers=False)
    from rallypoint import TCPStore

    spin = {"spin_us": spin_us} if spin_us else {}
    return TCPStore(host, port, timeout=timeout, wait_for_workers=False, **spin)


def _calls_on(store: Any) -> dict[str, Callable[[], object]]:
    value, keys = b"v" * 32, [f"k{i}" for i in range(MULTI)]
    store.set("present", value)
    store.set("count", "0")
    store.multi_set(keys, [value] * MULTI)
    store.wait(["present", *keys])
    assert store.get("present") == value
    return {
        "get": lambda: store.get("present"),
        "check": lambda: store.check(["present"]),
        "add": lambda: store.add("count", 1),
        "set": lambda: store.set("written", value),
        "compare_set": lambda: store.compare_set("present", value, value),
        CALLS[-1]: lambda: store.multi_get(keys),
    }


def _p50_us(call: Callable[[], object], count: int) -> float:
    clock = time.perf_counter_ns
    for _ in range(count // 10):
        call()
    durations = []
    for _ in range(count):
        start = clock()
        call()
        durations.append(clock() - start)
    return statistics.median(durations) / 1000


def caller(make: str, host: str, port: int, spin_us: int) -> None:
    """Answer each line ``{"call": NAME, "count": N}`` by a line with the median."""
    store = _connect(make, host, port, spin_us)
    calls = _calls_on(store)
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        p50_us = _p50_us(calls[asked["call"]], asked["count"])
        store.check(["present"])  # nothing of a call that waits for nobody is left on its way
        print(json.dumps({"p50_us": p50_us}), flush=True)


# --- the runner ------------------------------------------------------------------------------------------------


class Caller:
    """A caller's process."""

    def __init__(self, pair: Pair, server: Server) -> None:
        host, port = (f"unix:{server.path}", 0) if pair.via == "unix" else (HOST, server.port)
        more = {} if pair.via == "own" else {"RALLYPOINT_UNIX": "0", "RALLYPOINT_DIALECT": pair.dialect}
        command = [sys.executable, "-m", "benchmarks.calls", "caller", pair.client, host, str(port), str(pair.spin_us)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(pair.client, **more),
            preexec_fn=tie_to_parent,  # noqa: PLW1509 - the bench has one thread
        )
        self.pid = self._process.pid
        self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MeasureError("a caller ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def p50_us(self, call: str, count: int) -> float:
        assert self._process.stdin is not None
        print(json.dumps({"call": call, "count": count}), file=self._process.stdin, flush=True)
        return float(self._read()["p50_us"])

    def close(self) -> None:
        self._process.communicate()


@lru_cache(maxsize=1)
def _client_can_spin() -> bool:
    from rallypoint import TCPStore

    return "spin_us" in inspect.signature(TCPStore).parameters


def _pairs(effort: Effort) -> Iterator[Pair]:
    for pair in PAIRS:
        if (
            pair.can_run()
            and (pair.spin_us == 0 or _client_can_spin())
            and not (effort.is_quick and pair not in QUICK_PAIRS)
        ):
            yield pair


def run(figures: Figures, effort: Effort, rng: random.Random) -> None:
    """Time every call once a round and place on every pair, in an order that changes."""
    callers: dict[Pair, Caller] = {}
    with Fleet() as fleet:
        try:
            for pair in _pairs(effort):
                callers[pair] = Caller(pair, fleet.get(pair.server, spin_us=pair.spin_us))
            for turn in range(effort.rounds):
                for place in PLACES:
                    for call in CALLS:
                        for pair in rng.sample(list(callers), len(callers)):
                            if pair.spin_us and place == SAME_CORE:
                                continue  # who spins on the other's core keeps it from answering
                            server = fleet.get(pair.server, spin_us=pair.spin_us)
                            value = _measure_one(callers[pair], server, call, place, effort)
                            figures.add(QUESTION, f"{call}, {place}", str(pair), "us", turn, value)
                _measure_floors(fleet, figures, effort, turn)
        except MeasureError as error:
            note(f"calls: {error}")
        finally:
            for each in callers.values():
                each.close()


def _measure_one(caller_: Caller, server: Server, call: str, place: str, effort: Effort) -> float:
    pin(server.pid, SERVER_CORE)
    pin(caller_.pid, SERVER_CORE if place == SAME_CORE else CLIENT_CORE)
    settle(server.pid)
    return caller_.p50_us(call, effort.calls)


def _measure_floors(fleet: Fleet, figures: Figures, effort: Effort, turn: int) -> None:
    """A ping-pong of two programs in C, one blocking receive and send each: nothing on sockets is faster."""
    for place, contender in FLOORS:
        is_same = place == SAME_CORE
        line = measure(
            fleet, contender, same_core=is_same, blocking=True, workload="pingpong", op="get", seconds=effort.seconds
        )
        name = f"C on C, {contender}".replace(f"{FLOOR_PEER}, ", "").replace(f", {FLOOR_PEER}", "")
        figures.add(QUESTION, f"get, {place}", name, "us", turn, line["us_p50"])


if __name__ == "__main__":
    caller(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
