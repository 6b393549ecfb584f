"""A relay or a gateway in a thread of the test, with clients that speak bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.support.raw_server import PATIENCE_S, RawClient

from rallypoint.gateway.front import Front, FrontOptions
from rallypoint.net.address import listen

__all__ = ["RunningFront", "running_front"]


class RunningFront:
    """What a test sees of it.

    Args:
        make: makes it of listeners and options.
        options: those of ``FrontOptions``.

    Attributes:
        front: itself.
        lines: what it has logged.
    """

    def __init__(self, make: Callable[[Sequence[socket.socket], FrontOptions], Front], **options: Any) -> None:
        self.lines: list[str] = []
        self._line_came = threading.Condition()
        self._clients: list[RawClient] = []
        listeners = listen("127.0.0.1", 0)
        self.address = listeners[0].getsockname()[:2]
        self.front = make(listeners, FrontOptions(log=self._log, **options))
        self.thread = threading.Thread(target=self.front.run, daemon=True)
        self.thread.start()

    def _log(self, line: str) -> None:
        with self._line_came:
            self.lines.append(line)
            self._line_came.notify_all()

    def wait_for_line(self, part: str) -> None:
        with self._line_came:
            assert self._line_came.wait_for(lambda: any(part in line for line in self.lines), PATIENCE_S), self.lines

    def client(self) -> RawClient:
        client = RawClient(self.address)
        self._clients.append(client)
        return client

    def stop(self) -> None:
        self.front.stop(0.0)
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        for client in self._clients:
            client.close()


@contextlib.contextmanager
def running_front(
    make: Callable[[Sequence[socket.socket], FrontOptions], Front], **options: Any
) -> Iterator[RunningFront]:
    """Run one; it is gone afterwards."""
    running = RunningFront(make, **options)
    try:
        yield running
    finally:
        running.stop()
