from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.workers import STAY, python_argv

from rallypoint.agent.expiry import TimerRequest
from rallypoint.agent.expiry_queue import LocalTimerClient, LocalTimerServer, MultiprocessingRequestQueue


@pytest.fixture
def mp_queue() -> Iterator[Any]:
    queue = multiprocessing.get_context("spawn").Queue()
    yield queue
    queue.close()
    queue.join_thread()


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(python_argv(STAY)) as process:
        yield process
        process.kill()


def test_requests_travel_through_the_queue(mp_queue: Any) -> None:
    client, requests = LocalTimerClient(mp_queue), MultiprocessingRequestQueue(mp_queue)

    client.acquire("a", 7)
    client.release("a")

    assert requests.get(2, 30) == [TimerRequest(os.getpid(), "a", 7), TimerRequest(os.getpid(), "a", -1)]
    assert requests.size() == 0
    assert requests.get(1, 0.01) == []


def test_a_timer_is_set_set_anew_and_dropped(mp_queue: Any) -> None:
    server = LocalTimerServer(mp_queue)

    server.register_timers([TimerRequest(1, "a", 5), TimerRequest(1, "b", 50), TimerRequest(2, "a", 6)])
    assert server.get_expired_timers(6) == {1: [TimerRequest(1, "a", 5)], 2: [TimerRequest(2, "a", 6)]}
    server.register_timers([TimerRequest(1, "a", 70), TimerRequest(2, "a", -1), TimerRequest(9, "z", -1)])
    assert server.get_expired_timers(60) == {1: [TimerRequest(1, "b", 50)]}
    server.clear_timers({1})
    assert server.get_expired_timers(100) == {}


def test_a_worker_that_is_late_is_killed(mp_queue: Any, worker: subprocess.Popen[bytes]) -> None:
    server = LocalTimerServer(mp_queue, max_interval=0.01)
    server.start()

    mp_queue.put(TimerRequest(worker.pid, "a", time.time()))

    assert worker.wait(30) == -signal.SIGKILL
    server.stop()


def test_a_worker_that_is_gone_is_no_error(
    mp_queue: Any, worker: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = LocalTimerServer(mp_queue)
    worker.kill()
    worker.wait()
    assert server._reap_worker(worker.pid) is True

    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    assert server._reap_worker(worker.pid) is False
