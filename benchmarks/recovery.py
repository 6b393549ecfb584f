"""How soon after a death everybody knows, and work again: ``python -m benchmarks.recovery``.

Real agents on this machine, each with one worker that does nothing. Killed with SIGKILL are, again and again: an agent,
its worker with it; that which coordinates; and a worker. Others are stopped with SIGSTOP: these are known to be gone
when their lease has ended, 5 s unless ``--conf`` says otherwise. *Informed* is the time from there until each other
agent has said that the round is over; *again* until all workers of the next round run. The medians are what counts: the
first waits for nobody.
"""

from __future__ import annotations

import argparse
import os
import queue
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rallypoint.store.tcp import TCPStore

PATIENCE_S = 30.0
WORKER = ("/bin/sh", "-c", 'echo "up $RALLYPOINT_ROUND $GROUP_WORLD_SIZE $$"; exec sleep 3600')


class Agent:
    """One ``rallypoint run``; what it says is kept with the time at which it came."""

    def __init__(self, arguments: list[str]) -> None:
        self._said: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()
        self.elected_at = 0.0
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rallypoint", "run", *arguments, "--no-python", *WORKER],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            at = time.monotonic()
            if "coordinator.elected" in line:
                self.elected_at = at
            self._said.put((at, line))

    def await_line(self, part: str) -> tuple[float, str]:
        """Give the next line that holds a text, and when it came."""
        until = time.monotonic() + PATIENCE_S
        while True:
            at, line = self._said.get(timeout=max(0.001, until - time.monotonic()))
            if part in line:
                return at, line

    def await_up(self, size: int, after: int = -1) -> tuple[float, int, int]:
        """Wait for a worker in a round of so many nodes: when, the round, and its process."""
        while True:
            at, line = self.await_line("up ")
            words = line.split()
            if words[0] == "up" and int(words[2]) == size and int(words[1]) > after:
                return at, int(words[1]), int(words[3])

    def close(self) -> None:
        """Kill it, and its worker by its guard."""
        self.process.kill()
        self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def agents(backend: str, conf: str, count: int) -> Iterator[tuple[list[Agent], list[str]]]:
    """Run agents that meet at one server; the list may be changed."""
    if backend != "c10d":
        conf = f"flap_limit=0{',' * bool(conf)}{conf}"  # or a host whose agents are killed so often is kept out
    with TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) as server, ExitStack() as stack:
        arguments = [
            f"--nnodes=1:{count}",
            f"--rdzv-backend={backend}",
            f"--rdzv-endpoint=127.0.0.1:{server.port}",
            f"--rdzv-conf=is_host=0,last_call_timeout=0.5{',' * bool(conf)}{conf}",
            "--rdzv-id=recovery",
            "--max-restarts=1000",
            "--shutdown-timeout=5",
        ]
        running = [Agent(arguments) for _ in range(count)]
        stack.callback(lambda: [agent.close() for agent in running])
        yield running, arguments


def next_one(running: list[Agent], turn: int) -> int:
    """Choose one after the other."""
    return turn % len(running)


def coordinator(running: list[Agent], _: int) -> int:
    """Choose who coordinates."""
    return max(range(len(running)), key=lambda index: running[index].elected_at)


def kill_agents(
    running: list[Agent],
    arguments: list[str],
    times: int,
    choose: Callable[[list[Agent], int], int] = next_one,
) -> dict[str, list[float]]:
    """Kill an agent, again and again, and replace each."""
    informed: list[float] = []
    again: list[float] = []
    count = len(running)
    number = max(agent.await_up(count)[1] for agent in running)
    for turn in range(times):
        place = choose(running, turn)
        victim = running.pop(place)
        began = time.monotonic()
        victim.process.kill()
        informed.append(max(agent.await_line("agent.stopping")[0] for agent in running) - began)
        ups = [agent.await_up(count - 1, number) for agent in running]
        again.append(max(at for at, *_ in ups) - began)
        victim.close()
        running.insert(place, Agent(arguments))
        number = max(agent.await_up(count, ups[0][1])[1] for agent in running)
    return {"informed": informed, "again": again}


def freeze_agents(running: list[Agent], times: int) -> dict[str, list[float]]:
    """Stop one agent after the other, and let it go on when the others work again."""
    informed: list[float] = []
    again: list[float] = []
    count = len(running)
    number = max(agent.await_up(count)[1] for agent in running)
    for turn in range(times):
        victim = running[turn % count]
        others = [agent for agent in running if agent is not victim]
        began = time.monotonic()
        victim.process.send_signal(signal.SIGSTOP)
        try:
            informed.append(max(agent.await_line("agent.stopping")[0] for agent in others) - began)
            ups = [agent.await_up(count - 1, number) for agent in others]
        finally:
            victim.process.send_signal(signal.SIGCONT)
        again.append(max(at for at, *_ in ups) - began)
        number = max(agent.await_up(count, ups[0][1])[1] for agent in running)
    return {"informed": informed, "again": again}


def kill_workers(running: list[Agent], times: int) -> dict[str, list[float]]:
    """Kill the worker of one node after the other."""
    informed: list[float] = []
    again: list[float] = []
    count = len(running)
    ups = [agent.await_up(count) for agent in running]
    for turn in range(times):
        victim = turn % count
        began = time.monotonic()
        os.kill(ups[victim][2], signal.SIGKILL)
        others = [agent for index, agent in enumerate(running) if index != victim]
        informed.append(max(agent.await_line("agent.stopping")[0] for agent in others) - began)
        ups = [agent.await_up(count, ups[victim][1]) for agent in running]
        again.append(max(at for at, *_ in ups) - began)
    return {"informed": informed, "again": again}


KINDS: dict[str, Callable[[list[Agent], list[str], int], dict[str, list[float]]]] = {
    "agent": kill_agents,
    "coordinator": lambda running, arguments, times: kill_agents(running, arguments, times, coordinator),
    "worker": lambda running, _, times: kill_workers(running, times),
    "frozen": lambda running, _, times: freeze_agents(running, times),
}
"""What may happen to an agent, or to its worker."""


def tell(what: str, found: dict[str, list[float]]) -> None:
    """Print medians and the worst, in milliseconds."""
    for name, times in found.items():
        worst, median = max(times) * 1000, statistics.median(times) * 1000
        print(f"{what:52} {name:9} median {median:7.1f} ms   worst {worst:7.1f} ms   of {len(times)}", flush=True)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", default="rallypoint")
    parser.add_argument("--conf", default="", help="more options of the backend")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--what", choices=KINDS, nargs="*", default=("agent", "worker"))
    asked = parser.parse_args()
    for what in asked.what:
        with agents(asked.backend, asked.conf, asked.nodes) as (running, arguments):
            before = os.getloadavg()[0]
            found = KINDS[what](running, arguments, asked.times)
            load = f"load {before:.0f} to {os.getloadavg()[0]:.0f}"
            tell(f"{asked.nodes} nodes, {what} ({asked.backend}, {load})", found)


if __name__ == "__main__":
    main()
