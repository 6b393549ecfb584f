"""``torchrun``, unchanged, as processes: its agents and their workers, each ended by its id."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

__all__ = ["PATIENCE_S", "Torchrun", "backend"]

PATIENCE_S = 200.0  # processes that import torch, perhaps beside other tests

_HIDDEN = ("PET_", "RALLYPOINT_", "TORCH", "RANK", "WORLD_SIZE", "MASTER_", "LOGLEVEL")
_KEPT = ("RALLYPOINT_DIALECT", "RALLYPOINT_PURE")  # which of its ways the whole test run is to take


def backend(name: str, port: int, run: str = "job", **options: object) -> list[str]:
    """Give the options that name a rendezvous."""
    arguments = [f"--rdzv-backend={name}", f"--rdzv-endpoint=127.0.0.1:{port}", f"--rdzv-id={run}"]
    if options:
        arguments.append("--rdzv-conf=" + ",".join(f"{key}={value}" for key, value in options.items()))
    return arguments


class Torchrun:
    """One agent, as a context: killed with all its workers at the end of the block, if they still run.

    Args:
        folder: where its output goes.
        name: of the output, and of the agent in ``reports``.
        arguments: of torchrun, the worker's script and its arguments last.
        environ: added to the environment.
    """

    def __init__(self, folder: Path, name: str, *arguments: object, **environ: str) -> None:
        self.path = folder / f"{name}.log"
        kept = {key: value for key, value in os.environ.items() if key in _KEPT or not key.startswith(_HIDDEN)}
        own = {
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            "TMPDIR": str(folder),
        }
        with self.path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", "--local-addr=127.0.0.1", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=kept | own | environ,
            )

    def __enter__(self) -> Torchrun:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """Kill the agent, then its workers, whom it cannot end any more."""
        if self.process.poll() is None:
            workers = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            for worker in workers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    worker.kill()
        self.process.wait(PATIENCE_S)

    def wait(self) -> int:
        """Wait for its end and give its exit code."""
        return self.process.wait(PATIENCE_S)

    @property
    def log(self) -> str:
        """What it and its workers have written so far."""
        return self.path.read_text(encoding="utf-8", errors="replace")

    def reports(self) -> list[dict[str, Any]]:
        """Give what its workers wrote as whole lines of JSON."""
        lines = self.log.splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}\n")]

    def until_world(self, world_size: int, rounds: int = 1) -> None:
        """Wait until its workers have reported a world of this size so many times."""

        def is_there() -> bool:
            found = [report for report in self.reports() if report["world_size"] == world_size]
            assert self.process.poll() is None, self.log
            return len(found) >= rounds

        self.until(f"a world of {world_size}", is_there)

    def until(self, what: str, is_there: Callable[[], bool]) -> None:
        """Wait for something that its workers do."""
        deadline = time.monotonic() + PATIENCE_S
        while not is_there():
            assert time.monotonic() < deadline, f"waited {PATIENCE_S:g} s in vain for {what}: {self.log}"
            time.sleep(0.05)
