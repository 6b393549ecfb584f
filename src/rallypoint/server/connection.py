"""One accepted connection as the loop sees it: a non-blocking socket, and the bytes that it could not take yet.

A connection is *blocked* while the system takes no more of its output. Only then is its output counted: above
``OUTPUT_HIGH_SIZE`` the loop stops reading from it, below ``OUTPUT_LOW_SIZE`` it reads again. Output is kept as the
objects that it came as; only a few small pieces are joined, large values are never copied.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from itertools import islice

from rallypoint.net.unix import is_guarded
from rallypoint.server.poller import READ, WRITE
from rallypoint.server.vocabulary import Origin

__all__ = ["FLUSH_SIZE_MAX", "OUTPUT_HIGH_SIZE", "OUTPUT_LOW_SIZE", "Connection"]

FLUSH_SIZE_MAX = 256 * 1024
"""Bytes that one flush hands to the system, so that one peer's long reply does not keep the others waiting."""

OUTPUT_HIGH_SIZE = 1024 * 1024
"""Bytes of output above which a blocked connection is not read."""

OUTPUT_LOW_SIZE = 256 * 1024
"""Bytes of output below which it is read again."""

_SEGMENTS_MAX = min(1024, os.sysconf("SC_IOV_MAX"))  # pieces that one system call takes
_JOINED_MAX = 16  # so few pieces, if small, are cheaper to join than to hand over one by one
_JOINED_SIZE_MAX = 4096
_CALLS_MAX = 8  # system calls in one flush, so that one peer's many small replies do not keep the others waiting


class Connection:
    """The socket of one peer, and its output.

    Args:
        sock: an accepted socket; the connection owns it.

    Attributes:
        fd: its descriptor, which is also the peer's number to the engine.
        receive: the socket's ``recv``.
        output: what is to be sent, in order.
        output_size: its bytes, while the connection is blocked; else not counted.
        is_blocked: the system took less than there was; ``flush`` again when it can be written.
        is_paused: the engine wants to be told when the output is sent.
        is_choked: not read, because too much output is waiting.
        is_held: the engine will say when it is to be fed again.
        is_closing: no more requests are taken; it closes when its output is sent.
        is_lingering: its output is sent and its end announced; what the peer still sends is thrown away.
        mask: the events that it is watched for.
        slow_steps: how many steps took the server long. Two make it heavy (``turns``): one may have been the system's
            doing. A newcomer counts as heavy until its first short step.
        slow_until: before this time a short step does not make up for them.
    """

    __slots__ = (
        "fd",
        "is_blocked",
        "is_choked",
        "is_closing",
        "is_held",
        "is_lingering",
        "is_paused",
        "mask",
        "output",
        "output_size",
        "receive",
        "send",
        "slow_steps",
        "slow_until",
        "sock",
    )

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.fd = sock.fileno()
        self.receive = sock.recv
        self.send = sock.send
        self.output: deque[bytes | memoryview] = deque()
        self.output_size = 0
        self.is_blocked = False
        self.is_paused = False
        self.is_choked = False
        self.is_held = False
        self.is_closing = False
        self.is_lingering = False
        self.mask = 0
        self.slow_steps = 2
        self.slow_until = 0.0

    def add_behind(self, data: bytes | memoryview) -> None:
        """Append output while the connection is blocked, and count it."""
        self.output.append(data)
        self.output_size += len(data)
        if self.output_size > OUTPUT_HIGH_SIZE:
            self.is_choked = True

    def flush(self) -> bool:
        """Send as much as the system takes.

        Returns:
            Whether all is sent. If not, the connection is blocked from now on, and its output counted, also where it is
            only more than ``FLUSH_SIZE_MAX``: that it can be written is told at once then.

        Raises:
            OSError: the connection is lost.
        """
        output = self.output
        count = len(output)
        if (
            0 < count <= _JOINED_MAX
            and not self.is_blocked
            and (len(output[0]) <= FLUSH_SIZE_MAX if count == 1 else sum(map(len, output)) <= _JOINED_SIZE_MAX)
        ):
            data = output[0] if count == 1 else b"".join(output)
            output.clear()
            try:
                sent = self.send(data)
            except BlockingIOError:
                sent = 0
            if sent == len(data):
                return True
            output.append(memoryview(data)[sent:])
        else:
            room = FLUSH_SIZE_MAX
            with contextlib.suppress(BlockingIOError):
                for _ in range(_CALLS_MAX):
                    if not output or not room:
                        break
                    given, sent = self._send_segments(room)
                    room -= sent
                    if sent < given:
                        break
        return self._settle()

    def _send_segments(self, room: int) -> tuple[int, int]:
        """Make one system call with so many bytes at most; give how many it was given, and how many it took."""
        output = self.output
        segments: list[bytes | memoryview] = []
        given = 0
        for segment in islice(output, _SEGMENTS_MAX):
            given += len(segment)
            if given >= room:
                segments.append(segment if given == room else memoryview(segment)[: room - given])
                given = room
                break
            segments.append(segment)
        sent = left = self.sock.sendmsg(segments)
        if self.is_blocked:
            self.output_size -= sent
        while left:
            segment = output[0]
            if len(segment) > left:
                output[0] = memoryview(segment)[left:]
                break
            left -= len(segment)
            output.popleft()
        return given, sent

    def _settle(self) -> bool:
        """Bring the state in line with what is left of the output."""
        if not self.output:
            self.is_blocked = self.is_choked = False
            self.output_size = 0
            return True
        if not self.is_blocked:
            self.is_blocked = True
            self.output_size = sum(map(len, self.output))
        if self.output_size > OUTPUT_HIGH_SIZE:
            self.is_choked = True
        elif self.output_size < OUTPUT_LOW_SIZE:
            self.is_choked = False
        return False

    def drop_output(self) -> None:
        """Forget what is to be sent."""
        self.output.clear()
        self._settle()

    def wanted_mask(self) -> int:
        """Give the events to watch for by the connection's state."""
        mask = 0
        if self.is_closing:
            mask = READ if self.is_lingering else 0
        elif not (self.is_paused or self.is_choked or self.is_held):
            mask = READ
        return mask | WRITE if self.is_blocked else mask

    def announce_end(self) -> None:
        """Close our side only."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()

    def origin(self) -> Origin:
        """Give where the peer connects from."""
        if self.sock.family == socket.AF_UNIX:
            return Origin(is_local=is_guarded(self.sock))
        try:
            return Origin(str(self.sock.getpeername()[0]))
        except OSError:
            return Origin()

    def peer_name(self) -> str:
        """Give the peer's address for a log line; never a name, none is looked up."""
        try:
            address = self.sock.getpeername()
        except OSError:
            return "a peer that is gone"
        if isinstance(address, tuple):
            return f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
        return "a local peer"
