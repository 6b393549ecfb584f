"""A client's stream whose bytes are encrypted on their way.

Source: the shape of ``send`` and ``recv`` here is that of a socket's, which ``Stream`` expects: what cannot be done at
once raises ``BlockingIOError``.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rallypoint.clock import Deadline
from rallypoint.errors import AuthenticationError, ConnectionLostError, DistNetworkError, ReplyTimeoutError
from rallypoint.net.address import format_endpoint
from rallypoint.net.stream import Stream, translate
from rallypoint.net.tls import RECORD_SIZE, SEAL_SIZE, Channel, Tls, TlsError, client_context
from rallypoint.types import Endpoint

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["TlsStream", "secure"]

_SEND_FLAGS = socket.MSG_DONTWAIT | getattr(socket, "MSG_NOSIGNAL", 0)


class TlsStream(Stream):
    """A stream whose bytes are encrypted on their way; all else as ``Stream``.

    Args:
        sock: a connected stream socket, at the beginning of its stream; the stream owns it from now on.
        endpoint: the peer as the caller named it, for errors.
        channel: a client's.

    Threads: one may send while another receives, besides what holds for ``Stream``.
    """

    __slots__ = ("_channel", "_network_receive", "_network_send", "_one_at_a_time", "_sealed", "_sealed_from")

    def __init__(self, sock: socket.socket, endpoint: Endpoint, channel: Channel) -> None:
        super().__init__(sock, endpoint)
        self._channel = channel
        self._one_at_a_time = threading.Lock()  # in the channel
        self._network_send = sock.send
        self._network_receive = sock.recv
        self._sealed = memoryview(b"")  # what the network has not taken yet
        self._sealed_from = 0  # how many of the caller's bytes that is
        self._send = self._send_sealed
        self._receive = self._receive_opened

    def shake_hands(self, deadline: Deadline) -> None:
        """Do the handshake.

        Raises:
            AuthenticationError: the server is not who it should be, or does not take us for who we are.
            ReplyTimeoutError: it was not done in time.
            DistNetworkError: there is no TLS at the other end, or the connection was lost.
        """
        channel = self._channel
        try:
            channel.open()
            while True:
                self._sealed = memoryview(channel.take_output())
                self._flush(deadline)
                if channel.is_open:
                    return
                self._data = self._read_network(deadline)  # nothing, before we have asked for something
        except TlsError as error:
            with contextlib.suppress(OSError):  # the alert that says why
                self._network_send(channel.take_output(), socket.MSG_DONTWAIT)
            raise self._failed(error) from error

    def _read_network(self, deadline: Deadline) -> bytes:
        """Feed the channel once, and give what the peer says."""
        while not self._is_ready(select.POLLIN, deadline.at):
            self._check_time(deadline)
        try:
            data = self._network_receive(RECORD_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise translate(error, self.endpoint) from error
        if not data:
            raise ConnectionLostError(
                f"the server at {format_endpoint(self.endpoint)} closed the connection amid the TLS handshake: "
                "it may not speak TLS",
                endpoint=self.endpoint,
            )
        return self._channel.feed(data)

    def _flush(self, deadline: Deadline) -> None:
        while self._sealed:
            if not self._is_ready(select.POLLOUT, deadline.at):
                self._check_time(deadline)
                continue
            try:
                self._send_network()
            except BlockingIOError:
                continue
            except OSError as error:
                raise translate(error, self.endpoint) from error

    def _check_time(self, deadline: Deadline) -> None:
        if deadline.has_passed():
            raise ReplyTimeoutError(
                f"the TLS handshake with {format_endpoint(self.endpoint)} was not done within "
                f"{deadline.waited_s():.3f} s",
                endpoint=self.endpoint,
                waited_s=deadline.waited_s(),
            )

    def _send_network(self) -> None:
        sent = self._network_send(self._sealed, _SEND_FLAGS)
        self._sealed = self._sealed[sent:]

    # What ``Stream`` takes for the socket's own ``send`` and ``recv``.

    def _send_sealed(self, data: Buffer, flags: int = 0, /) -> int:  # noqa: ARG002
        """Send some of the data, as a socket that does not block.

        Bytes count as sent when the network has taken all that carries them; until then the caller comes again with
        the same ones.
        """
        if not self._sealed:
            piece = memoryview(data)[:SEAL_SIZE]
            with self._one_at_a_time:
                self._sealed = memoryview(self._channel.seal(piece))
            self._sealed_from = len(piece)
        while self._sealed:
            self._send_network()
        return self._sealed_from

    def _receive_opened(self, size: int, flags: int = 0, /) -> bytes:
        """Receive what there is, as a socket that has a time limit; now and then more than ``size``."""
        if self._channel.has_ended:
            return b""
        data = self._network_receive(max(size, RECORD_SIZE), flags & socket.MSG_DONTWAIT)
        if not data:
            return b""
        try:
            with self._one_at_a_time:
                opened = self._channel.feed(data)
        except TlsError as error:
            raise self._failed(error) from error
        if not opened and not self._channel.has_ended:
            raise BlockingIOError
        return opened

    def _failed(self, error: TlsError) -> DistNetworkError:
        kind = AuthenticationError if error.is_final else DistNetworkError
        where = format_endpoint(self.endpoint)
        return kind(f"no TLS connection to {where}: {error}", endpoint=self.endpoint)

    def close(self) -> None:
        """Close the connection; closing twice is harmless. In a forked child the parent's connection lives on."""
        super().close()
        self._send, self._receive = self._sock.send, self._sock.recv  # which hold no stream alive


def secure(
    stream: Stream, tls: Tls, deadline: Deadline, name: str | None = None, *, protocols: Sequence[str] = ()
) -> Stream:
    """Put TLS on a connection.

    Args:
        stream: fresh; it is used up, also by an error. One over a Unix domain socket is left as it is.
        tls: our files.
        deadline: of the handshake.
        name: what the server is called, if not the endpoint's host; ``tls.name`` goes before it.
        protocols: what the connection is for, as ALPN names it.

    Raises:
        ValueError: a file of ours is missing or is not what it should be.
        AuthenticationError: the server is not who it should be, or does not take us for who we are.
        DistNetworkError: there is no TLS at the other end, or it took too long.

    Cost: two round trips, and about a millisecond of computing on either side.
    """
    endpoint = stream.endpoint
    if stream.peer.port == 0:
        return stream
    try:
        channel = Channel(client_context(tls, protocols), name=tls.name or name or endpoint.host)
    except BaseException:
        stream.close()
        raise
    secured = TlsStream(socket.socket(fileno=stream.detach()), endpoint, channel)
    try:
        secured.shake_hands(deadline)
    except BaseException:
        secured.close()
        raise
    return secured
