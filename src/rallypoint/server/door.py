"""A loop's door for other threads: what they put in, the loop's thread does at its next wake-up.

A byte on a socket pair wakes the loop; what is to be done lies in a queue beside it. A loop that has ended does nothing
any more: what is put in then is refused, and who waits for it is told.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from rallypoint.errors import DistStoreError

__all__ = ["Door"]

_T = TypeVar("_T")


class Door:
    """One loop's door.

    Threads: ``post``, ``visit`` and ``wake`` may be called from any, ``wake`` also from a signal handler; everything
    else belongs to the loop's thread.
    """

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._posted: deque[Callable[[], None]] = deque()
        self._is_closed = False

    def fileno(self) -> int:
        """Give the descriptor that can be read when somebody is at the door."""
        return self._reader.fileno()

    def wake(self) -> None:
        """Wake the loop up."""
        with contextlib.suppress(OSError):  # full: the loop wakes up anyway; closed: it has ended
            self._writer.send(b"\0")

    def post(self, call: Callable[[], None]) -> None:
        """Have the loop's thread make a call, which must neither block nor raise.

        Raises:
            DistStoreError: the loop has ended.
        """
        if self._is_closed:
            raise DistStoreError("the server has ended")
        self._posted.append(call)
        self.wake()

    def visit(self, look: Callable[[], _T], timeout_s: float) -> _T:
        """Have the loop's thread look at something, and wait for what it saw; not from that thread itself.

        Args:
            look: called once; what it raises is raised here.
            timeout_s: how long to wait, in seconds.

        Raises:
            DistStoreError: the loop has ended, or did not look in time.
        """
        done = threading.Event()
        seen: list[_T] = []
        failed: list[Exception] = []

        def call() -> None:
            try:
                seen.append(look())
            except Exception as error:  # noqa: BLE001 - it belongs to the thread that asked
                failed.append(error)
            done.set()

        self.post(call)
        done.wait(timeout_s)
        if failed:
            raise failed[0]
        if not seen:
            raise DistStoreError(f"the server did not answer within {timeout_s:g} s, it is busy or has ended")
        return seen[0]

    def serve(self) -> None:
        """Make the calls that were put in."""
        with contextlib.suppress(BlockingIOError):
            self._reader.recv(4096)
        for _ in range(len(self._posted)):  # what these put in comes at the next wake-up
            self._posted.popleft()()

    def close(self) -> None:
        """Let go of the descriptors; what was put in and not done will not be."""
        self._is_closed = True
        self._reader.close()
        self._writer.close()
