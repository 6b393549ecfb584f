"""Taking connections from listening sockets, also when descriptors run out.

One descriptor is kept in reserve. When the process has none left, the reserve is given up for a moment to take the
waiting connection and close it: that client learns at once that it is refused, instead of hanging in the backlog, and
the loop does not spin on a listener that stays ready. Connections that are open already notice nothing. If even the
reserve is lost to somebody else's open file, accepting pauses for ``PAUSE_S``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Sequence

from rallypoint.net.address import close_listener
from rallypoint.net.tune import tune_accepted, tune_listener

__all__ = ["ACCEPTS_MAX", "PAUSE_S", "Acceptor"]

ACCEPTS_MAX = 4
"""Connections taken from one listener at one wake-up, so that a crowd of newcomers does not keep the others waiting:
each costs up to 0.1 ms where another has to make room for it."""

PAUSE_S = 0.1
"""How long nothing is accepted when it cannot even be refused, in seconds."""

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """The listening sockets of one server.

    Args:
        listeners: bound and listening; the acceptor owns them.
        log: takes one line about refused connections.

    Attributes:
        paused_until: nothing should be accepted before this time; 0.0 for no pause.
    """

    def __init__(self, listeners: Sequence[socket.socket], log: Callable[[str], None]) -> None:
        self._listeners = {listener.fileno(): listener for listener in listeners}
        for listener in listeners:
            listener.setblocking(False)
        self._tuned = {listener.fileno() for listener in listeners if tune_listener(listener)}
        self._log = log
        self._reserve: int | None = None
        self._refill()
        self.paused_until = 0.0

    @property
    def fds(self) -> list[int]:
        """The descriptors of the listeners; empty after ``close``."""
        return list(self._listeners)

    def accept(self, fd: int, now: float) -> list[socket.socket]:
        """Take the connections that wait at one listener.

        Args:
            fd: the listener's descriptor.
            now: the loop's time.

        Returns:
            Connected sockets, ``ACCEPTS_MAX`` at most.
        """
        accepted: list[socket.socket] = []
        refused = 0
        listener = self._listeners[fd]
        for _ in range(ACCEPTS_MAX):
            try:
                sock, address = listener.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    continue  # that one connection failed before it was taken
                try:
                    is_refused = self._refuse_one(listener)
                except BlockingIOError:
                    break  # nobody waits: without descriptors the system does not even look
                if not is_refused:
                    self.paused_until = now + PAUSE_S
                    break
                refused += 1
                continue
            try:
                if fd not in self._tuned:
                    tune_accepted(sock, address)
            except OSError:  # gone again already
                sock.close()
                continue
            accepted.append(sock)
        if refused:
            connections = "1 connection" if refused == 1 else f"{refused} connections"
            self._log(f"refused {connections}: no file descriptor is left (limit {_descriptor_limit()})")
        elif self.paused_until > now:
            self._log(f"accepts nothing for {PAUSE_S:g} s: no file descriptor is left (limit {_descriptor_limit()})")
        return accepted

    def _refuse_one(self, listener: socket.socket) -> bool:
        """Take one connection on the reserve descriptor and close it; tell whether that was possible.

        Raises:
            BlockingIOError: if none waits.
        """
        if self._reserve is None:
            self._refill()
        if self._reserve is None:
            return False
        os.close(self._reserve)
        self._reserve = None
        try:
            sock, _ = listener.accept()
        except BlockingIOError:
            raise
        except OSError:
            return False
        else:
            sock.close()
            return True
        finally:
            self._refill()

    def _refill(self) -> None:
        with contextlib.suppress(OSError):
            self._reserve = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        """Listen no more; socket files are removed."""
        for listener in self._listeners.values():
            close_listener(listener)
        self._close_reserve()

    def abandon(self) -> None:
        """Close this process's copies of the descriptors only: the listeners live on in the process that forked."""
        for listener in self._listeners.values():
            listener.close()
        self._close_reserve()

    def _close_reserve(self) -> None:
        self._listeners = {}
        if self._reserve is not None:
            os.close(self._reserve)
            self._reserve = None


def _descriptor_limit() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
