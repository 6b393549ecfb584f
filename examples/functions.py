"""Run a function as four workers; one of them dies once, and the result is right all the same.

The only file that is needed: no script is launched, no torch is there::

    python examples/functions.py
"""

from __future__ import annotations

import os
import signal

import rallypoint
from rallypoint.elastic.timer import FileTimerClient, expires
from rallypoint.launcher.api import LaunchConfig, elastic_launch


def estimate_pi(steps: int) -> float:
    """Give this worker's share of the area of a circle, after all workers have begun."""
    store, rank, world_size = next(rallypoint.rendezvous("env://"))
    with store:
        store.set(f"begun/{rank}", "yes")
        store.wait([f"begun/{other}" for other in range(world_size)])
    if rank == 2 and os.environ["RALLYPOINT_ROUND"] == "0":
        os.kill(os.getpid(), signal.SIGKILL)  # an accident; everybody starts again, in round 1
    timers = FileTimerClient(os.environ["TORCHELASTIC_TIMER_FILE"])
    with expires(after=60, client=timers):  # a worker that hangs here would be killed
        return sum(4 / (1 + ((step + 0.5) / steps) ** 2) for step in range(rank, steps, world_size)) / steps


def main() -> None:
    os.environ["TORCHELASTIC_ENABLE_FILE_TIMER"] = "1"
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=4,
        run_id="pi",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=1,
    )
    shares = elastic_launch(config, estimate_pi)(1_000_000)
    print(f"pi is {sum(shares.values()):.6f}, from {len(shares)} workers")


if __name__ == "__main__":
    main()
