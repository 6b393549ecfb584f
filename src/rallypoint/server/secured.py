"""A connection that may be encrypted: what its first byte says.

Rules:

- TLS begins with the byte 0x16. What begins otherwise is served as it comes; whether it may come so is the engine's to
  say (``access``).
- The loop sees plain bytes only. It is told when the handshake is done, before the first of them, and if it fails.
- Output is encrypted only as fast as the system takes it, ``SEAL_SIZE`` at a time; nothing is ever sent in the clear on
  a connection that began as TLS.

Theory of operation. ``output`` holds plain pieces, and at its head at most one that is encrypted already::

    output:  [encrypted, half sent] [plain] [plain] ...
                                     '--- the next SEAL_SIZE of them are encrypted when the head is sent

The handshake's time is the engine's: it counts from the connection's beginning. One takes some 30 KiB and a
millisecond, so only ``TLS_HANDSHAKES_MAX`` are under way at one time; whoever comes then is refused.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from typing import Protocol

from rallypoint.net.tls import SEAL_SIZE, Channel, TlsError
from rallypoint.server.connection import Connection
from rallypoint.server.limits import TLS_HANDSHAKES_MAX

__all__ = ["Owner", "SecuredConnection"]

HANDSHAKE_BYTE = 0x16
"""What TLS begins with."""

_CALLS_MAX = 8  # as a plain connection's flush


class Owner(Protocol):
    """Whoever runs such connections."""

    def secured(self, connection: Connection, identity: bytes) -> None:
        """The handshake is done; ``identity`` is the name in the peer's certificate, empty without one."""

    def not_secured(self, connection: Connection, why: str) -> None:
        """TLS has failed: close the connection when its output is sent."""

    def has_output(self, connection: Connection) -> None:
        """The connection has something to send of its own: flush it."""


class SecuredConnection(Connection):
    """The socket of one peer, which may speak TLS or not.

    Args:
        sock: an accepted socket; the connection owns it.
        begin: begins TLS.
        owner: is told what becomes of it.
        under_way: the owner's connections whose handshakes are; this one puts itself in and takes itself out.
    """

    __slots__ = ("_begin", "_channel", "_has_sealed", "_is_broken", "_owner", "_under_way")

    def __init__(
        self, sock: socket.socket, begin: Callable[[], Channel], owner: Owner, under_way: set[SecuredConnection]
    ) -> None:
        super().__init__(sock)
        self._begin = begin
        self._owner = owner
        self._under_way = under_way
        self._channel: Channel | None = None
        self._has_sealed = False  # the head of the output is encrypted
        self._is_broken = False
        self.receive = self._receive_first

    def _receive_first(self, size: int, flags: int = 0, /) -> bytes:  # noqa: ARG002 - the shape of a socket's recv
        data = self.sock.recv(size)
        if data[:1] != bytes((HANDSHAKE_BYTE,)):
            self.receive = self.sock.recv
            return data
        self.receive = self._receive_sealed
        if len(self._under_way) >= TLS_HANDSHAKES_MAX:
            sentence = f"{len(self._under_way)} handshakes are under way, the limit is {TLS_HANDSHAKES_MAX}"
            self._fail(sentence)
            raise BlockingIOError(sentence)
        self._channel = self._begin()
        self._under_way.add(self)
        return self._open(self._channel, data)

    def _fail(self, why: str) -> None:
        self._is_broken = True
        self._under_way.discard(self)
        self._owner.not_secured(self, why)

    def _receive_sealed(self, size: int, flags: int = 0, /) -> bytes:  # noqa: ARG002 - the shape of a socket's recv
        data = self.sock.recv(size)
        if not data or self._is_broken:
            return data
        assert self._channel is not None
        return self._open(self._channel, data)

    def _open(self, channel: Channel, data: bytes) -> bytes:
        """Give what the peer says with these bytes.

        Raises:
            BlockingIOError: nothing, so far.
        """
        was_open = channel.is_open
        try:
            opened = channel.feed(data)
            identity = b"" if was_open or not channel.is_open else channel.identity()
        except TlsError as error:
            self._send_own(channel.take_output())
            self._fail(str(error))
            raise BlockingIOError from error
        self._send_own(channel.take_output())
        if channel.is_open and not was_open:
            self._under_way.discard(self)
            self._owner.secured(self, identity)
        if not opened and not channel.has_ended:
            raise BlockingIOError
        return opened

    def _send_own(self, data: bytes) -> None:
        """Send what TLS itself has to say, behind what is encrypted already."""
        if not data:
            return
        if self._has_sealed:
            data = bytes(self.output.popleft()) + data
        self.output.appendleft(data)
        self._has_sealed = True
        if self.is_blocked:
            self.output_size = sum(map(len, self.output))
        self._owner.has_output(self)

    def flush(self) -> bool:
        """Encrypt and send as much as the system takes; otherwise as ``Connection.flush``."""
        if self._channel is None:
            return super().flush()
        with contextlib.suppress(BlockingIOError):
            for _ in range(_CALLS_MAX):
                if not self._has_sealed and not self._seal(self._channel):
                    break
                data = self.output[0]
                sent = self.send(data)
                if self.is_blocked:
                    self.output_size -= sent
                if sent < len(data):
                    self.output[0] = memoryview(data)[sent:]
                    break
                self.output.popleft()
                self._has_sealed = False
        return self._settle()

    def _seal(self, channel: Channel) -> bool:
        """Encrypt the next pieces of the output; tell whether there were any."""
        output = self.output
        if self._is_broken or not channel.is_open:
            output.clear()  # nobody to say it to
            return False
        pieces: list[bytes | memoryview] = []
        size = 0
        while output and size < SEAL_SIZE:
            piece = output.popleft()
            room = SEAL_SIZE - size
            if len(piece) > room:
                view = memoryview(piece)
                output.appendleft(view[room:])
                piece = view[:room]
            pieces.append(piece)
            size += len(piece)
        if not pieces:
            return False
        sealed = channel.seal(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        output.appendleft(sealed)
        self._has_sealed = True
        if self.is_blocked:
            self.output_size += len(sealed) - size
        return True

    def drop_output(self) -> None:
        """Forget what is to be sent; after a part of a record TLS has nothing to say any more."""
        self._is_broken = True
        self._has_sealed = False
        super().drop_output()

    def announce_end(self) -> None:
        """Close our side only, and say so in TLS's words."""
        if self._channel is not None and self._channel.is_open and not self._is_broken:
            with contextlib.suppress(OSError):
                self.send(self._channel.close())
        super().announce_end()

    def close(self) -> None:
        """Close the socket."""
        super().close()
        self._under_way.discard(self)
        self.receive = self.sock.recv  # which holds no connection alive
