"""A small program for either library: ``python launched.py torch.distributed|rallypoint <what>`` prints a JSON line.

Run as a script, so that its functions are found by name in the workers.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import signal
import sys
import tempfile
from typing import Any

__all__: list[str] = []


def value(text: str) -> tuple[int, str]:
    return int(os.environ["RANK"]), text


def nothing() -> None:
    return None


def fail(text: str) -> None:
    raise ValueError(text)


def leave(status: Any) -> None:
    sys.exit(status)


def die() -> None:
    signal.raise_signal(signal.SIGSEGV)


def succeed_later(text: str) -> str:
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        raise ValueError(text)
    return text + os.environ["TORCHELASTIC_RESTART_COUNT"]


def fail_on_one() -> None:
    if os.environ["RANK"] == "1":
        raise ValueError("boom")
    signal.pause()


def told(_: object) -> dict[str, str]:
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "ROLE_NAME", "GROUP_RANK", "TORCHELASTIC_MAX_RESTARTS")
    return {name: os.environ[name] for name in names}


class Program:
    """One of the two libraries."""

    def __init__(self, namespace: str) -> None:
        self.launcher = importlib.import_module(f"{namespace}.launcher.api")
        self.processes = importlib.import_module(f"{namespace}.elastic.multiprocessing")
        self.errors = importlib.import_module(f"{namespace}.elastic.multiprocessing.errors")
        self.events = importlib.import_module(f"{namespace}.elastic.events")
        self.metrics = importlib.import_module(f"{namespace}.elastic.metrics")

    def config(self, **changes: Any) -> Any:
        usual = {"min_nodes": 1, "max_nodes": 1, "nproc_per_node": 2, "run_id": "r", "max_restarts": 0}
        where = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
        return self.launcher.LaunchConfig(**usual | where | changes)

    def launch(self, function: Any, *args: Any, **changes: Any) -> Any:
        try:
            return self.launcher.elastic_launch(self.config(**changes), function)(*args)
        except self.errors.ChildFailedError as error:
            rank, failure = error.get_first_failure()
            return [error.name, rank, failure.exitcode, os.path.basename(failure.error_file), text_of(failure)]  # noqa: PTH119
        except Exception as error:  # noqa: BLE001 - which one it is, is the question
            return type(error).__name__

    def functions(self) -> dict[str, Any]:
        return {
            "value": self.launch(value, "x"),
            "nothing": self.launch(nothing, start_method="forkserver"),
            "told": self.launch(told, None, role="trainer", max_restarts=2, start_method="fork"),
            "fail": self.launch(fail, "boom", nproc_per_node=1),
            "leave well": self.launch(leave, 0, nproc_per_node=1),
            "leave": self.launch(leave, 3, nproc_per_node=1),
            "die": self.launch(die, nproc_per_node=1),
            "lambda": self.launch(lambda: 1, nproc_per_node=1),
            "again": self.launch(succeed_later, "x", max_restarts=1),
        }

    def contexts(self) -> dict[str, Any]:
        return {
            "functions": self.start(value_without_rank, {0: ("a",), 1: ("b",)}),
            "commands": self.start("/bin/sh", {0: ("-c", "exit 0"), 1: ("-c", "exit 0")}),
            "a function fails": self.start(fail, {0: ("boom",)}),
            "a command fails": self.start("/bin/sh", {0: ("-c", "exit 4"), 1: ("-c", "exec sleep 600")}),
            "missing": self.start("/nowhere/program", {0: ()}),
            "ranks": self.start("/bin/sh", {1: ()}),
            "kept": self.start("/bin/echo", {0: ("hi",)}, tee=self.processes.Std.OUT, redirects=self.processes.Std.ERR),
        }

    def start(self, entrypoint: Any, args: dict[int, Any], **streams: Any) -> Any:
        folder = tempfile.mkdtemp()
        envs = {rank: {"TORCHELASTIC_RUN_ID": "run", "TORCHELASTIC_RESTART_COUNT": "2"} for rank in args}
        try:
            specs = self.processes.DefaultLogsSpecs(log_dir=folder, **streams)
            context = self.processes.start_processes("trainer", entrypoint, args, envs, logs_specs=specs)
        except (OSError, RuntimeError) as error:
            return type(error).__name__
        try:
            result = context.wait()
            return {
                "kind": type(context).__name__,
                "values": sorted(result.return_values.items()),
                "failures": [[rank, failure.exitcode] for rank, failure in sorted(result.failures.items())],
                "stdouts": [without_random(path, folder) for _, path in sorted(result.stdouts.items())],
                "stderrs": [without_random(path, folder) for _, path in sorted(result.stderrs.items())],
            }
        finally:
            context.close()

    def records(self) -> dict[str, Any]:
        kept: list[dict[str, Any]] = []
        numbers: dict[str, float] = {}

        class Lines(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                kept.append(json.loads(record.getMessage()))

        class Numbers(self.metrics.MetricHandler):  # type: ignore[name-defined,misc]
            def emit(self, data: Any) -> None:
                numbers[data.name] = data.value

        self.events.record(self.events.Event("first", self.events.EventSource.AGENT))
        logging.getLogger("torchelastic-events-null").addHandler(Lines())
        self.metrics.configure(Numbers())
        self.launch(fail_on_one, max_restarts=1)
        return {
            "records": [[line["name"], line["source"], *details_of(line["metadata"])] for line in kept],
            "metrics": {name: number for name, number in sorted(numbers.items()) if "run_" in name or "flak" in name},
        }


def value_without_rank(text: str) -> str:
    return text * 2


def text_of(failure: Any) -> str:
    message = failure.message
    text = message["message"] if isinstance(message, dict) else message
    return str(text).replace(str(failure.pid), "<pid>")


def without_random(path: str, folder: str) -> str:
    """Leave the folders' random names out."""
    return "/".join(part.split("_")[0] for part in path.removeprefix(folder).split("/"))


def details_of(metadata: dict[str, Any]) -> list[Any]:
    details = json.loads(metadata["metadata"])
    kept = [metadata[name] for name in ("run_id", "global_rank", "role", "state", "agent_restarts", "rdzv_backend")]
    names = ("entry_point", "local_rank", "role_rank", "role_world_size", "exit_code")
    return [*kept, *(details.get(name) for name in names), sorted(details), sorted(metadata)]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(getattr(Program(sys.argv[1]), sys.argv[2])()) + "\n")
