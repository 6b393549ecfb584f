from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from rallypoint.agent import expiry
from rallypoint.agent.expiry import RequestQueue, TimerClient, TimerRequest, TimerServer, configure, expires

PATIENCE_S = 30.0


class Asked(TimerClient):
    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.left_s: list[float] = []

    def acquire(self, scope_id: str, expiration_time: float) -> None:
        self.calls.append(("acquire", scope_id))
        self.left_s.append(expiration_time - time.time())

    def release(self, scope_id: str) -> None:
        self.calls.append(("release", scope_id))


@pytest.fixture(autouse=True)
def _no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expiry, "_client", [])


def test_without_a_client_no_block_is_entered() -> None:
    with pytest.raises(RuntimeError, match="Configure timer client"), expires(after=1):
        raise AssertionError("entered")


def test_a_block_asks_for_a_timer_and_gives_it_back() -> None:
    configure(client := Asked())

    with expires(after=50, scope="mine"):
        assert client.calls == [("acquire", "mine")]

    assert client.calls == [("acquire", "mine"), ("release", "mine")]
    assert 49 < client.left_s[0] <= 50


def test_an_exception_passes_and_the_timer_is_given_back() -> None:
    with pytest.raises(KeyError), expires(after=5, scope="s", client=(client := Asked())):
        raise KeyError("x")

    assert client.calls[-1] == ("release", "s")


def test_each_line_has_a_timer_of_its_own_and_a_recursion_sets_it_anew() -> None:
    configure(client := Asked())

    def recurse(depth: int) -> None:
        with expires(after=5):
            if depth:
                recurse(depth - 1)

    recurse(2)
    with expires(after=5):
        pass

    scopes = [scope for what, scope in client.calls if what == "acquire"]
    assert scopes[0] == scopes[1] == scopes[2] != scopes[3]
    assert scopes[0].startswith("test_expiry.py#")


class Listed(RequestQueue):
    def __init__(self, *requests: TimerRequest) -> None:
        self.requests = list(requests)
        self.asked: list[tuple[int, float]] = []

    def size(self) -> int:
        return len(self.requests)

    def get(self, size: int, timeout: float) -> list[TimerRequest]:
        self.asked.append((size, timeout))
        taken, self.requests = self.requests[:size], self.requests[size:]
        return taken


class Server(TimerServer):
    def __init__(self, queue: RequestQueue, reap: Callable[[Any], bool] = lambda _: True, **settings: Any) -> None:
        super().__init__(queue, 0.01, **settings)
        self.timers: dict[Any, TimerRequest] = {}
        self.reap = reap
        self.looks = threading.Semaphore(0)

    def register_timers(self, timer_requests: list[TimerRequest]) -> None:
        self.timers |= {request.worker_id: request for request in timer_requests}
        self.looks.release()

    def clear_timers(self, worker_ids: set[Any]) -> None:
        for worker_id in worker_ids:
            del self.timers[worker_id]

    def get_expired_timers(self, deadline: float) -> dict[Any, list[TimerRequest]]:
        return {key: [request] for key, request in self.timers.items() if request.expiration_time <= deadline}

    def _reap_worker(self, worker_id: Any) -> bool:
        return self.reap(worker_id)


def test_a_look_takes_all_that_waits_and_ends_whose_time_is_up() -> None:
    queue = Listed(TimerRequest(1, "a", 5), TimerRequest(2, "a", time.time() + 60))
    ended: list[int] = []
    server = Server(queue, lambda worker_id: ended.append(worker_id) or True)  # type: ignore[func-returns-value]

    server._run_watchdog()
    server._run_watchdog()

    assert queue.asked == [(2, 0.01), (1, 0.01)]
    assert ended == [1]
    assert list(server.timers) == [2]


def test_who_could_not_be_ended_is_tried_again_unless_trying_raised() -> None:
    def reap(worker_id: int) -> bool:
        if worker_id == 1:
            raise PermissionError
        return False

    server = Server(Listed(TimerRequest(1, "a", 5), TimerRequest(2, "a", 5)), reap)

    server._run_watchdog()

    assert list(server.timers) == [2]


def test_a_server_looks_until_it_is_stopped() -> None:
    server = Server(Listed(), daemon=False)
    server.stop()

    server.start()
    assert all(server.looks.acquire(timeout=PATIENCE_S) for _ in range(3))
    thread = server._watchdog_thread
    server.stop()
    server.stop()

    assert thread is not None
    assert not thread.is_alive()
    assert not thread.daemon


def test_a_look_that_fails_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Listed):
        def get(self, size: int, timeout: float) -> list[TimerRequest]:
            super().get(size, timeout)
            if len(self.asked) == 1:
                raise OSError("broken")
            return []

    server = Server(Broken())
    server.start()
    assert server.looks.acquire(timeout=PATIENCE_S)
    server.stop()

    assert "a look for expired timers failed" in caplog.text
