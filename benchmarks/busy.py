"""What does a busy program do to the server inside it? Delays of replies while the main thread runs pure Python.

A program with an embedded server computes in pure Python on one core and never lets go of the interpreter by itself;
64 members elsewhere meet at barriers and read values, one after the other, and each reply's delay is kept. The server's
thread has the members' core: a delay is the interpreter's doing, not a shortage of processors. Beside it, the same with
a main thread that sleeps, which shows how late replies are on this machine anyway.

    python -m benchmarks.busy host MAKE STATE    # what the runner starts
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import CLIENT_CORE, SERVER_CORE, pin
from benchmarks.peers import NATIVE, PURE, TORCH, MeasureError, environment, present, run_load, tie_to_parent
from benchmarks.progress import Effort, note
from benchmarks.report import Figures

__all__ = ["BARRIER_LONGEST", "BUSY", "IDLE", "LONGEST", "QUESTION", "Host", "run"]

QUESTION = "busy host"
BUSY = "busy"
IDLE = "asleep"
MEMBERS = 64
LIFE_S = 60
ROUNDS_MAX = 5  # most of the time goes into starting the programs

MEAN = "get, mean"
P999 = "get, 999 of 1,000"
LONGEST = "get, longest"
BARRIER = f"barrier of {MEMBERS}, mean"
BARRIER_LONGEST = f"barrier of {MEMBERS}, longest"
FIGURES = {
    MEAN: "get_us_mean",
    P999: "get_us_p999",
    LONGEST: "get_us_max",
    BARRIER: "barrier_us_mean",
    BARRIER_LONGEST: "barrier_us_max",
}


@dataclass(frozen=True)
class Host:
    """A program with a server inside, and what its main thread does."""

    peer: str
    state: str

    def __str__(self) -> str:
        return f"{self.peer}, thread; main thread {self.state}"


def host(make: str, state: str) -> None:
    """Serve in a thread of this process while the main thread computes, until it is ended."""
    end = time.monotonic() + LIFE_S
    store = _embedded(make)
    print(json.dumps({"port": store.port}), flush=True)
    if state == IDLE:
        time.sleep(LIFE_S)
    number = 1
    while time.monotonic() < end:
        for _ in range(100_000):
            number = (number * 1103515245 + 12345) % 2147483648


def _embedded(make: str) -> Any:
    if make == TORCH:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import torch.distributed as dist
        return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    from rallypoint import TCPStore

    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, server="thread")


def run(figures: Figures, effort: Effort, rng: random.Random) -> None:
    """Measure every host once a round, in an order that changes."""
    makes = present((TORCH, NATIVE, PURE))
    hosts = [Host(make, state) for make in makes for state in (BUSY, IDLE)]
    for turn in range(min(effort.rounds, ROUNDS_MAX)):
        for each in rng.sample(hosts, len(hosts)):
            try:
                line = _measure(each, effort)
            except MeasureError as error:
                note(f"{each}: {error}")
                continue
            for workload, name in FIGURES.items():
                figures.add(QUESTION, workload, str(each), "us", turn, line[name])


def _measure(each: Host, effort: Effort) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.busy", "host", each.peer, each.state]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(each.peer),
        preexec_fn=tie_to_parent,  # noqa: PLW1509 - the bench has one thread
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise MeasureError("the program did not start")
            pin(process.pid, SERVER_CORE, only_main=True)
            pin(process.pid, CLIENT_CORE, but_main=True)
            return run_load(
                str(json.loads(line)["port"]),
                workload="members",
                connections=MEMBERS,
                core=CLIENT_CORE,
                seconds=4 * effort.seconds,
            )
        finally:
            process.terminate()


if __name__ == "__main__":
    host(sys.argv[2], sys.argv[3])
