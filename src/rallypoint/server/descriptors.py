"""A process's descriptors: how many a server may fill with newcomers, and those of the standard streams.

The numbers 0, 1 and 2 of a process that was started without its standard streams (``program <&- >&- 2>&-``):
the system gives free numbers to whatever is opened next, a listener or a connection. Handed to a child under that
number, it would be replaced by the child's own standard stream; taken for a console, it would be written to.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
from collections.abc import Iterator
from dataclasses import replace

from rallypoint.server.limits import Limits

__all__ = ["WIDE", "above_standard", "fitting", "is_standard_stream", "standard_error", "widen_table"]

WIDE = 1 << 16
"""So many descriptors ``widen_table`` makes room for; 8 bytes each."""

_FIRST = 3


@contextlib.contextmanager
def above_standard(fd: int) -> Iterator[int]:
    """Give the descriptor under a number that no standard stream has; a copy made for that is closed at the end.

    Raises:
        OSError: if there is no descriptor left for a copy.
    """
    if fd >= _FIRST:
        yield fd
        return
    copy = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST)
    try:
        yield copy
    finally:
        os.close(copy)


def fitting(limits: Limits) -> Limits:
    """Give limits under which handshakes that are under way leave half of the descriptors to the others."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if most == resource.RLIM_INFINITY or limits.handshakes_max <= most // 2:
        return limits
    return replace(limits, handshakes_max=max(1, most // 2))


def widen_table() -> None:
    """Have the system make room for descriptors now, ``WIDE`` at most, while this process has one thread.

    Linux doubles a process's table as it fills, and makes whoever opens the next descriptor wait for some 10 ms if
    threads share it: of a server that means everybody, at 256, 512, 1024, ... connections.
    """
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    last = WIDE - 1 if soft == resource.RLIM_INFINITY else min(soft, WIDE) - 1
    with contextlib.suppress(OSError):  # it is only for speed
        fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.close(fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, last))
        finally:
            os.close(fd)


def is_standard_stream(fd: int) -> bool:
    """Tell whether a descriptor may stand for the console: it is open and, below 3, no number taken by chance.

    Standard streams are inherited, so they are inheritable; what a Python program opens itself is not.
    """
    try:
        is_inheritable = os.get_inheritable(fd)
    except OSError:
        return False
    return is_inheritable or fd >= _FIRST


def standard_error() -> int | None:
    """Give what a child gets as standard error: ours, ``None`` for ``Popen``, or nothing if we have none."""
    if is_standard_stream(2):
        return None
    import subprocess  # those who start children have it; the server process needs no more than the rest

    return subprocess.DEVNULL
