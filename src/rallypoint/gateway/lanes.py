"""A few threads that make calls, those of one lane one after the other.

Theory of operation. A lane with calls to make stands in line, or a thread has it; a thread takes the first lane, makes
some of its calls and puts it back behind the others if it has more. So a lane's calls keep their order, lanes do not
hold each other up as long as there are threads, and one that floods has its turn and no more. Threads are begun when
nobody is free, up to a bound, and never otherwise.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from time import monotonic
from typing import Final

__all__ = ["Lanes"]

_TURN = 16  # calls of one lane before another has its turn

END_S_MAX: Final = 1.0
"""How long the end waits for calls that are being made, in seconds."""


class Lanes:
    """Threads for calls.

    Args:
        threads_max: how many at most.
        label: what their names begin with.

    Threads: ``put`` from any.
    """

    def __init__(self, threads_max: int, label: str) -> None:
        self._threads_max = threads_max
        self._label = label
        self._lock = threading.Condition(threading.Lock())
        self._calls: dict[int, deque[Callable[[], None]]] = {}
        self._line: deque[int] = deque()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._has_ended = False

    def put(self, lane: int, call: Callable[[], None]) -> None:
        """Have a call made, which must not raise, after the earlier ones of its lane; not at all after the end."""
        with self._lock:
            if self._has_ended:
                return
            calls = self._calls.get(lane)
            if calls is not None:
                calls.append(call)
                return
            self._calls[lane] = deque((call,))
            self._line.append(lane)
            if self._idle >= len(self._line):
                self._lock.notify()
            elif len(self._threads) < self._threads_max:
                name = f"{self._label}-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _run(self) -> None:
        lock = self._lock
        while True:
            with lock:
                while not self._line:
                    if self._has_ended:
                        return
                    self._idle += 1
                    lock.wait()
                    self._idle -= 1
                lane = self._line.popleft()
                calls = self._calls[lane]
                turn = [calls.popleft() for _ in range(min(_TURN, len(calls)))]
            for call in turn:
                call()
            with lock:
                if not calls:
                    self._calls.pop(lane, None)
                elif lane in self._calls:  # not dropped at the end
                    self._line.append(lane)

    def end(self) -> None:
        """Take no more calls; wait a while for those that are there, and drop what is left. Not from these threads."""
        deadline = monotonic() + END_S_MAX
        with self._lock:
            self._has_ended = True
            self._lock.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, deadline - monotonic()))
        with self._lock:
            self._calls.clear()
            self._line.clear()
