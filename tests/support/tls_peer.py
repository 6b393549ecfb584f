"""The other end of a client's TLS connection, played by hand in a thread of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable

from rallypoint.net.tls import Channel, ServerTls, Tls, TlsError

PATIENCE_S = 30.0


class TlsPeer:
    """A server's end, past its handshake."""

    def __init__(self, sock: socket.socket, channel: Channel) -> None:
        self.sock = sock
        self.channel = channel
        self.heard = b""

    def shake_hands(self) -> None:
        while not self.channel.is_open:
            self._take(self.sock.recv(65536))

    def receive(self, size: int) -> bytes:
        while len(self.heard) < size:
            self._take(self.sock.recv(65536))
        data, self.heard = self.heard[:size], self.heard[size:]
        return data

    def _take(self, data: bytes) -> None:
        assert data, "the client closed"
        try:
            self.heard += self.channel.feed(data)
        finally:
            self.sock.sendall(self.channel.take_output())

    def reply(self, data: bytes) -> None:
        self.sock.sendall(self.channel.seal(data))


def play(sock: socket.socket, tls: Tls, script: Callable[[TlsPeer], None]) -> threading.Thread:
    """Play the server's end of a connection: handshake, script, and the end. A refusal ends it quietly."""

    def run() -> None:
        with sock:
            sock.settimeout(PATIENCE_S)
            peer = TlsPeer(sock, ServerTls(tls, [].append).channel(0.0))
            try:
                peer.shake_hands()
            except TlsError:
                return
            script(peer)

    thread = threading.Thread(target=run)
    thread.start()
    return thread
