"""The honest client beside an attack: a process of its own that asks at a steady rate and tells how late answers were.

Four connections in each dialect, each with a thread of its own, ask for a value of 64 bytes, 500 times a second in each
dialect. A question that could not be asked in time, because the connection's last one was still unanswered, counts from
when it should have been asked: an answer that is late for many is late for many.

    python -m benchmarks.bystander PORT DIALECT...     # what the runner starts
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.machine import CLIENT_CORE, hurry, pin
from benchmarks.peers import HOST, NATIVE, MeasureError, environment, tie_to_parent

__all__ = ["CONNECTIONS", "PER_S", "VALUE_SIZE", "Bystander"]

CONNECTIONS = 4
"""In each dialect."""
PER_S = 500
"""Questions a second in each dialect."""
VALUE_SIZE = 64
KEY = "honest"
TIMEOUT_S = 20
START_S = 0.01
clock = time.perf_counter


class Bystander:
    """The process, as the runner sees it.

    Args:
        port: the server's.
        dialects: which ones it speaks.
        security: environment variables that let it in.
    """

    def __init__(self, port: int, dialects: Sequence[str], security: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.bystander", str(port), *dialects],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(NATIVE, RALLYPOINT_UNIX="0", **security),
            preexec_fn=tie_to_parent,  # noqa: PLW1509 - the bench has one thread
        )
        self.pid = self._process.pid
        self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise MeasureError("the honest client was not served any more")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, seconds: float) -> dict[str, Any]:
        """Have it ask for so long.

        Returns:
            ``p50_us``, ``p99_us`` and ``longest_us`` by dialect, and ``strange``, the keys in the store that it has
            not put there, one more if its own is not what it was.
        """
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            print(seconds, file=self._process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        """End it."""
        self._process.communicate()


def main() -> None:
    """Ask for as many seconds as each line says."""
    from rallypoint import TCPStore

    port, dialects = int(sys.argv[1]), sys.argv[2:]
    value = os.urandom(VALUE_SIZE)
    stores = []
    for _ in range(CONNECTIONS):
        for dialect in dialects:
            os.environ["RALLYPOINT_DIALECT"] = dialect
            stores.append((dialect, TCPStore(HOST, port, timeout=TIMEOUT_S, wait_for_workers=False)))
    look = stores[0][1]
    look.set(KEY, value)
    for _, store in stores:
        store.get(KEY)
    pin(os.getpid(), CLIENT_CORE)
    hurry(os.getpid())
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        durations = _ask(stores, PER_S * len(dialects), float(line))
        found = {dialect: _summary(each) for dialect, each in durations.items() if each}
        strange = look.num_keys() - 1 + (look.get(KEY) != value)
        print(json.dumps({**found, "strange": strange}), flush=True)


def _ask(stores: Sequence[tuple[str, Any]], per_s: float, seconds: float) -> dict[str, list[float]]:
    """Ask on all connections at once, each when it is its turn."""
    durations: dict[str, list[float]] = {dialect: [] for dialect, _ in stores}
    begun = clock() + START_S
    threads = []
    for number, (dialect, store) in enumerate(stores):
        turns = [begun + turn / per_s for turn in range(number, int(per_s * seconds), len(stores))]
        threads.append(threading.Thread(target=_ask_one, args=(store, turns, durations[dialect])))
    gc.collect()
    gc.disable()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.enable()
    return durations


def _ask_one(store: Any, turns: Sequence[float], durations: list[float]) -> None:
    for turn in turns:
        due = turn
        left = due - clock()
        if left > 0:
            time.sleep(left)
            due = clock()  # that we have slept too long is not the server's doing
        store.get(KEY)
        durations.append(clock() - due)


def _summary(durations: list[float]) -> dict[str, float]:
    durations.sort()
    last = len(durations) - 1
    parts = {"p50_us": 0.5, "p99_us": 0.99, "longest_us": 1.0}
    return {name: durations[round(part * last)] * 1e6 for name, part in parts.items()}


if __name__ == "__main__":
    main()
