"""One blocking byte stream: what a client needs of a socket, at the least cost per request and reply.

A request costs one system call, its reply one more, in the common case:

- ``send`` first tries without waiting, and polls only when the peer's window is full;
- ``receive_exactly`` reads ahead into a buffer, so the parts of one reply cost one call together. That call blocks in
  the kernel for ``FIRST_LOOK_S`` (``SO_RCVTIMEO``), within which nearly every reply comes; who waits longer, polls.

Waits release the interpreter lock. A signal that reaches the waiting thread ends its wait at once; one that the
system hands to another thread is seen at the end of a slice of ``WAIT_SLICE_S``. Every read and write has a deadline,
on the system's monotonic clock; it may be infinite. Handled signals do not move it: Python restarts an interrupted
``recv`` from its beginning, which is why only the first few milliseconds are spent in one, and ``poll`` with what is
left of its time. ``OSError`` leaves this module only as a ``DistNetworkError``, by the table in ``loss.translate``.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import sys
from time import monotonic

from rallypoint.clock import Deadline
from rallypoint.errors import ReplyTimeoutError
from rallypoint.net.address import format_endpoint, local_endpoint
from rallypoint.net.loss import lost, silent, translate
from rallypoint.net.tune import tune
from rallypoint.types import Endpoint

__all__ = ["WAIT_SLICE_S", "Stream", "silent", "translate"]

WAIT_SLICE_S = 0.05
"""The longest uninterrupted wait in the kernel, in seconds."""

FIRST_LOOK_S = 0.005
"""How long a read blocks before it polls, in seconds; kernels round it up to their tick."""

_READ_SIZE = 16384  # larger reads cost more to allocate than they save
_CHUNK_SIZE_MAX = 8 * 1024 * 1024  # memory taken for an announced size before its bytes are there
_SEND_FLAGS = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)
_HAS_LOW_WATER = sys.platform == "linux"  # where the receive buffer is enlarged to hold so much
_FIRST_LOOK = struct.pack("@ll", 0, int(FIRST_LOOK_S * 1_000_000))


class Stream:
    """An open connection, used by one thread at a time.

    After an error that is no ``ReplyTimeoutError`` of ``receive_exactly``, and after a ``KeyboardInterrupt``, bytes
    may be missing: the stream can only be closed.

    Args:
        sock: a connected stream socket; the stream owns it from now on.
        endpoint: the peer as the caller named it, for errors.
        ends: the addresses to show for our end and the other, if not the socket's own.

    Attributes:
        endpoint: the peer as the caller named it.
        spin_us: how long a read looks for its bytes before it sleeps, in microseconds: costs a processor, saves the
            time that waking up takes.

    Threads: one at a time, but ``wait`` may be called amid another's, and ``close`` may come from any thread: it ends
    the wait of another with ``ConnectionLostError``.
    """

    __slots__ = ("_data", "_ends", "_owner_pid", "_receive", "_send", "_sock", "_start", "endpoint", "spin_us")

    def __init__(
        self, sock: socket.socket, endpoint: Endpoint, *, ends: tuple[Endpoint, Endpoint] | None = None
    ) -> None:
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _FIRST_LOOK)
        tune(sock)
        self.endpoint = endpoint
        self.spin_us = 0
        self._ends = ends
        self._sock = sock
        self._send = sock.send
        self._receive = sock.recv
        self._data = b""  # bytes that were read ahead; those before _start are used up
        self._start = 0
        self._owner_pid = os.getpid()

    @property
    def local(self) -> Endpoint:
        """The address of our end."""
        return self._ends[0] if self._ends else local_endpoint(self._sock)

    @property
    def peer(self) -> Endpoint:
        """The address of the other end, no name is looked up; what the caller named if the connection is gone."""
        if self._ends:
            return self._ends[1]
        try:
            address = self._sock.getpeername()
        except OSError:
            return self.endpoint
        return Endpoint(str(address[0]), int(address[1])) if isinstance(address, tuple) else self.endpoint

    @property
    def has_read_ahead(self) -> bool:
        """Tell whether there are bytes that ``take`` would give without asking the system."""
        return self._start < len(self._data)

    def fileno(self) -> int:
        """Give the descriptor; -1 after ``close``."""
        return self._sock.fileno()

    def send(self, data: bytes | bytearray | memoryview, deadline: Deadline) -> None:
        """Send all of the data.

        Args:
            data: at least one byte.
            deadline: a passed one still lets the system take what it takes at once.

        Raises:
            ReplyTimeoutError: if the peer did not take all of it in time. A part may have gone out, so the stream
                can only be closed.
            ConnectionLostError: if the peer closed or reset the connection.
            DistNetworkError: for any other trouble of the system's.

        Cost: one system call, if the peer's window has room.
        """
        sent = self.send_at_once(data)
        if sent != len(data):
            self._send_rest(memoryview(data)[sent:], deadline)

    def send_at_once(self, data: bytes | bytearray | memoryview) -> int:
        """Send what the system takes without waiting, and give the number of bytes; errors as ``send``'s."""
        try:
            return self._send(data, _SEND_FLAGS)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise translate(error, self.endpoint) from error

    def _send_rest(self, data: memoryview, deadline: Deadline) -> None:
        while data:
            if not self._is_ready(select.POLLOUT, deadline.at):
                if deadline.has_passed():
                    raise silent(self.endpoint, "did not take a request", deadline.waited_s())
                continue
            try:
                data = data[self._send(data, _SEND_FLAGS) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise translate(error, self.endpoint) from error

    def receive_exactly(self, size: int, deadline: Deadline) -> bytes:
        """Receive that many bytes.

        Args:
            size: 0 or more; the caller bounds it. Memory is taken as bytes arrive, 8 MiB ahead at most.
            deadline: a passed one still gives bytes that are there already.

        Raises:
            ReplyTimeoutError: if they did not arrive in time. Nothing is lost: what did arrive is kept for the next
                call.
            ConnectionLostError: if the peer closed or reset the connection before.
            DistNetworkError: for any other trouble of the system's.

        Cost: no system call if the bytes were read ahead, else one in the common case.
        """
        data, start = self._data, self._start
        end = start + size
        if end <= len(data):
            self._start = end
            return data[start:end]
        if start == len(data) and size <= _READ_SIZE and monotonic() + WAIT_SLICE_S < deadline.at:
            try:
                data = self._spin() if self.spin_us else self._receive(_READ_SIZE)
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    raise translate(error, self.endpoint) from error
            else:
                if len(data) == size:
                    return data
                self._data, self._start = data, 0
                if len(data) > size:
                    self._start = size
                    return data[:size]
                if not data:
                    raise lost(self.endpoint)
        return self._receive_rest(size, deadline)

    def take(self, missing: int, *, is_patient: bool) -> bytes:
        """Give the next bytes, whatever has come; none if nothing has.

        Args:
            missing: how many the caller knows to be coming, 0 if it does not; large numbers are read in large pieces.
            is_patient: wait a moment, ``FIRST_LOOK_S``, if there is nothing.

        Raises:
            ConnectionLostError: if the peer closed or reset the connection.
            DistNetworkError: for any other trouble of the system's.

        Cost: one system call, none if bytes were read ahead.
        """
        if self._start < len(self._data):
            data, self._data, self._start = self._data[self._start :], b"", 0
            return data
        try:
            if missing > _READ_SIZE:
                flags = socket.MSG_WAITALL if is_patient else socket.MSG_DONTWAIT
                data = self._receive(min(missing, _CHUNK_SIZE_MAX), flags)
            elif is_patient:
                data = self._spin() if self.spin_us else self._receive(_READ_SIZE)
            else:
                data = self._receive(_READ_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise translate(error, self.endpoint) from error
        if not data:
            raise lost(self.endpoint)
        return data

    def take_into(self, room: memoryview) -> int:
        """Put the next bytes there, whatever has come, and give how many; 0 if nothing has. Errors as ``take``'s."""
        if self._start < len(self._data):
            data = self._data[self._start : self._start + len(room)]
            room[: len(data)] = data
            self._start += len(data)
            return len(data)
        try:
            size = self._sock.recv_into(room, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise translate(error, self.endpoint) from error
        if not size:
            raise lost(self.endpoint)
        return size

    def await_at_least(self, size: int) -> None:
        """Have the system report input only when so many bytes of it are there, or nearly as many as it keeps."""
        if _HAS_LOW_WATER:
            with contextlib.suppress(OSError):  # who is gone is told by the next read
                self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def wait(self, until: float, *, for_output: bool = False, slice_s: float = WAIT_SLICE_S) -> bool:
        """Wait until there is something to take, or the system takes output, one slice at most.

        Args:
            until: a time on the monotonic clock.
            for_output: wait for room, too.
            slice_s: the longest wait, in seconds; the main thread's is ``WAIT_SLICE_S``, so that it sees signals.

        Returns:
            Whether it is worth a look.

        Raises:
            ConnectionLostError: if another thread has closed the connection.
        """
        event = select.POLLIN | select.POLLOUT if for_output else select.POLLIN
        return self.has_read_ahead or self._is_ready(event, until, slice_s)

    def _spin(self) -> bytes:
        """Receive what comes within ``spin_us``, or take a first look as usual."""
        until = monotonic() + self.spin_us / 1e6
        while monotonic() < until:
            with contextlib.suppress(BlockingIOError):
                return self._receive(_READ_SIZE, socket.MSG_DONTWAIT)
        return self._receive(_READ_SIZE)

    def _receive_rest(self, size: int, deadline: Deadline) -> bytes:
        """Receive what the first look did not give: large values, slow peers, near deadlines."""
        parts = [self._data[self._start :]]
        missing = size - len(parts[0])
        self._data, self._start = b"", 0
        try:
            while missing > 0:
                chunk = self._receive_some(missing, deadline)
                parts.append(chunk)
                missing -= len(chunk)
        except ReplyTimeoutError:
            self._data = b"".join(parts)
            raise
        data = b"".join(parts)
        if missing:
            self._data, self._start = data, size
            return data[:size]
        return data

    def _receive_some(self, missing: int, deadline: Deadline) -> bytes:
        """Receive at least one byte; more than ``missing`` only if that is little."""
        while True:
            if not self._is_ready(select.POLLIN, deadline.at):
                if deadline.has_passed():
                    raise silent(self.endpoint, "did not answer", deadline.waited_s())
                continue
            wanted, flags = _READ_SIZE, socket.MSG_DONTWAIT
            if missing > _READ_SIZE:
                # The kernel fills the value's own memory, as far as the bytes come in time, and nothing is copied.
                wanted = min(missing, _CHUNK_SIZE_MAX)
                if monotonic() + WAIT_SLICE_S < deadline.at:
                    flags = socket.MSG_WAITALL
            try:
                chunk = self._receive(wanted, flags)
            except BlockingIOError:
                continue
            except OSError as error:
                raise translate(error, self.endpoint) from error
            if not chunk:
                raise lost(self.endpoint)
            return chunk

    def _is_ready(self, event: int, until: float, slice_s: float = WAIT_SLICE_S) -> bool:
        """Wait for one slice at most."""
        remaining_s = min(slice_s, max(0.0, until - monotonic()))
        poll = select.poll()  # one of its own: a signal's handler, or who reads next, may come to wait amid this wait
        try:
            poll.register(self._sock, event)
        except ValueError as error:  # the descriptor is -1: closed by another thread
            raise lost(self.endpoint) from error
        return bool(poll.poll(remaining_s * 1000))

    def detach(self) -> int:
        """Give the descriptor away, with nothing read ahead; the stream is closed then and the connection is not."""
        return self._sock.detach()

    def close(self) -> None:
        """Close the connection; closing twice is harmless. In a forked child the parent's connection lives on."""
        if self._sock.fileno() != -1 and os.getpid() == self._owner_pid:
            with contextlib.suppress(OSError):  # the peer may be faster
                self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def __repr__(self) -> str:
        state = "closed" if self._sock.fileno() == -1 else f"fd {self._sock.fileno()}"
        return f"Stream({format_endpoint(self.endpoint)}, {state})"
