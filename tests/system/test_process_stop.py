"""Stopping workers that resist, against the real system."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from tests.support.workers import STAY, PipeConsole, python_worker

from rallypoint.agent import sweep
from rallypoint.agent.guard import Guard
from rallypoint.agent.logs import Output
from rallypoint.agent.process import WorkerProcesses


@pytest.fixture
def guard() -> Iterator[Guard]:
    with Guard.start() as started:
        yield started


@pytest.fixture
def console() -> Iterator[PipeConsole]:
    with PipeConsole() as made:
        yield made


def test_a_stopped_worker_is_killed_after_the_grace(guard: Guard, console: PipeConsole) -> None:
    with WorkerProcesses.start(
        [python_worker("print('up', flush=True)\n" + STAY)], guard=guard, console=console.descriptors
    ) as processes:
        console.line()
        os.kill(processes.pids[0], signal.SIGSTOP)
        while sweep.state_of(processes.pids[0])[:7] != "state T":
            time.sleep(0.01)

        (ended,) = processes.stop(signal.SIGTERM, 0.2)

    assert ended.returncode == -signal.SIGKILL
    assert console.rest() == ""


def test_sixty_four_workers_with_children_start_and_end_together(guard: Guard, console: PipeConsole) -> None:
    code = "import os\nos.fork()\nos.write(1, b'up\\n')\n" + STAY
    processes = WorkerProcesses.start(
        [python_worker(code, rank) for rank in range(64)], guard=guard, console=console.descriptors
    )
    for _ in range(128):
        assert console.line() == "up"

    exits = processes.stop(signal.SIGTERM, 60)

    assert [ended.local_rank for ended in exits] == list(range(64))
    assert {ended.returncode for ended in exits} == {-signal.SIGTERM}
    assert console.rest() == ""


def test_no_descriptor_thread_or_child_is_left_behind(guard: Guard, console: PipeConsole) -> None:
    def count() -> tuple[int, int]:
        return len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208 - names suffice

    before, others = count(), children()
    for _ in range(5):
        workers = [python_worker("raise SystemExit(1)", rank, Output(prefix="x")) for rank in range(4)]
        with WorkerProcesses.start(workers, guard=guard, console=console.descriptors) as processes:
            while processes.running:
                processes.wait(60)

    assert count() == before
    assert children() == others


def children() -> list[int]:
    with open(f"/proc/self/task/{os.getpid()}/children") as file:  # noqa: PTH123 - read at once
        return [int(pid) for pid in file.read().split()]


def test_a_console_that_nobody_reads_does_not_keep_workers_from_ending(
    guard: Guard, console: PipeConsole, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rallypoint.agent.process.TEE_DRAIN_S", 0.5)
    monkeypatch.setattr("rallypoint.agent.tee.CONSOLE_STALL_S", 0.1)
    code = "for n in range(200000): print('a line that nobody will read', n)"

    processes = WorkerProcesses.start(
        [python_worker(code, 0, Output(prefix="[0]:"))], guard=guard, console=console.descriptors
    )
    (ended,) = processes.wait(60)
    processes.stop(signal.SIGTERM, 60)

    assert ended.returncode == 0
    assert console.line() == "[0]:a line that nobody will read 0"
