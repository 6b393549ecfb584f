"""Timers asked for by one library and kept by the other, and the same calls to both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic import events as torch_events
from torch.distributed.elastic import timer as torch_timer

from rallypoint.elastic import events as our_events
from rallypoint.elastic import timer as our_timer

LATE = """
import sys, time
from {namespace}.elastic.timer import FileTimerClient, configure, expires
configure(FileTimerClient(sys.argv[1]))
with expires(after=600, scope="early"):
    pass
with expires(after=0.2, scope="late"):
    time.sleep(600)
"""


@pytest.mark.parametrize("namespace", ["torch.distributed", "rallypoint"])
def test_our_server_ends_a_late_worker_of_either_library_and_nobody_else(namespace: str, tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    server = our_timer.FileTimerServer(
        str(tmp_path / "p"),
        "run",
        log_event=lambda name, request: told.append((name, getattr(request, "scope_id", ""))),
    )
    server.start()
    worker = subprocess.Popen([sys.executable, "-c", LATE.format(namespace=namespace), str(tmp_path / "p")])
    try:
        assert worker.wait(100) == -signal.SIGKILL
    finally:
        worker.kill()
        server.stop()

    assert told[1:-1] == [("timer expired", "late"), ("kill worker process", "late")]
    assert server._request_count == 3


def test_torchs_server_counts_what_our_client_asks_for(tmp_path: Path) -> None:
    server = torch_timer.FileTimerServer(str(tmp_path / "p"), "run", max_interval=0.1)
    server.start()
    client = our_timer.FileTimerClient(str(tmp_path / "p"))
    for number in range(10):
        client.acquire(f"scope {number}", time.time() + 600)
    client.release("scope 3")
    server.run_once()

    assert server._request_count == 11
    assert sorted(scope for _, scope in server._timers) == [f"scope {n}" for n in range(10) if n != 3]


class Queue:
    def __init__(self) -> None:
        self.sizes: list[int] = []

    def size(self) -> int:
        return 7

    def get(self, size: int, _timeout: float) -> list[Any]:
        self.sizes.append(size)
        return []


@pytest.mark.parametrize("timer", [torch_timer, our_timer], ids=["torch", "rallypoint"])
def test_a_server_of_ones_own_is_asked_the_same(timer: Any) -> None:
    calls: list[tuple[Any, ...]] = []

    class Server(timer.TimerServer):  # type: ignore[misc]
        def register_timers(self, timer_requests: list[Any]) -> None:
            calls.append(("register", timer_requests))

        def clear_timers(self, worker_ids: set[Any]) -> None:
            calls.append(("clear", worker_ids))

        def get_expired_timers(self, deadline: float) -> dict[Any, list[Any]]:
            return {name: [timer.TimerRequest(name, "s", 1)] for name in ("gone", "stays", "raises")}

        def _reap_worker(self, worker_id: Any) -> bool:
            calls.append(("reap", worker_id))
            if worker_id == "raises":
                raise ValueError
            return bool(worker_id == "gone")

    Server(queue := Queue(), 1)._run_watchdog()

    assert queue.sizes == [7]
    assert calls == [
        ("register", []),
        ("reap", "gone"),
        ("reap", "stays"),
        ("reap", "raises"),
        ("clear", {"gone", "raises"}),
    ]


def test_requests_and_records_are_the_same_text() -> None:
    def texts(timer: Any, events: Any) -> list[str]:
        return [
            timer.FileTimerRequest(7, "s", 2.5, 9).to_json(),
            str(events.Event("n", events.EventSource.WORKER, 3, {"a": None, "b": 1.5})),
            str(events.RdzvEvent("n", "r", "m", "h", os.getpid(), events.NodeState.FAILED, rank=2)),
        ]

    assert texts(our_timer, our_events) == texts(torch_timer, torch_events)
    assert our_events.Event.deserialize(texts(torch_timer, torch_events)[1]).metadata == {"a": None, "b": 1.5}
