"""What one valid peer may do to the others within the limits, as fast as it can."""

from __future__ import annotations

import contextlib
import select
import socket
from dataclasses import dataclass
from pathlib import Path

from benchmarks.strangers import VALIDATE, Attack, read_exactly
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import Verb

__all__ = ["ListedKeys", "TinyRequests", "Waits"]


@dataclass
class Pump:
    """One connection, what it says again and again, and how much of that it has said."""

    sock: socket.socket
    request: memoryview
    at: int = 0


class Flood(Attack):
    """A valid peer that asks without end, over several connections; it takes the answers and throws them away."""

    rate = 0.0
    connections = 20

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder)
        self._reply_size = 1
        self._poll = select.poll()
        self._pumps: dict[int, Pump] = {}
        for number in range(self.connections):
            sock = self.connect()
            sock.sendall(VALIDATE)
            sock.setblocking(False)
            self._poll.register(sock, select.POLLIN | select.POLLOUT)
            self._pumps[sock.fileno()] = Pump(sock, memoryview(self.request(number)))

    def request(self, number: int) -> bytes:
        """Give what one connection says again and again."""
        raise NotImplementedError

    def strike(self, number: int) -> None:  # noqa: ARG002 - a round of all connections
        for fd, ready in self._poll.poll(10):
            pump = self._pumps[fd]
            with contextlib.suppress(BlockingIOError):
                if ready & select.POLLIN:
                    answers = pump.sock.recv(1 << 20)
                    if not answers:
                        raise ConnectionResetError("the server has closed")
                    self.made += len(answers) / self._reply_size
                if ready & select.POLLOUT:
                    sent = pump.sock.send(pump.request[pump.at :])
                    pump.at = (pump.at + sent) % len(pump.request)


class Waits(Flood):
    """Twenty connections WAIT for 60,000 names each, and cancel it, as fast as can be."""

    NAMES = 60_000

    def request(self, number: int) -> bytes:
        names = [b"/absent/%d/%d" % (number, name) for name in range(self.NAMES)]
        return encode_request(Verb.WAIT, names) + encode_request(Verb.CANCEL_WAIT)


class ListedKeys(Flood):
    """Four connections LIST 200,000 KEYS, as fast as can be."""

    connections = 4
    KEYS = 200_000
    AT_ONCE = 10_000

    def __init__(self, port: int, folder: Path) -> None:
        super().__init__(port, folder)
        self._writer = self.connect()
        pairs = [(b"/listed/%06d" % number, b"v") for number in range(self.KEYS)]
        self._keys = [key for key, _ in pairs]
        parts = (pairs[at : at + self.AT_ONCE] for at in range(0, self.KEYS, self.AT_ONCE))
        self._writer.sendall(VALIDATE + b"".join(encode_request(Verb.MULTI_SET, part) for part in parts))
        self._writer.sendall(encode_request(Verb.PING, 1))
        read_exactly(self._writer, 4)
        self._reply_size = 8 + sum(8 + len(key) for key in self._keys)

    def request(self, number: int) -> bytes:  # noqa: ARG002 - all the same
        return encode_request(Verb.LIST_KEYS)

    def end(self) -> None:
        for pump in self._pumps.values():
            pump.sock.close()
        for at in range(0, self.KEYS, self.AT_ONCE):
            keys = self._keys[at : at + self.AT_ONCE]
            self._writer.sendall(b"".join(encode_request(Verb.DELETE_KEY, key) for key in keys))
            read_exactly(self._writer, 8 * len(keys))


class TinyRequests(Flood):
    """Four connections CHECK one key, thousands in flight."""

    connections = 4

    def request(self, number: int) -> bytes:  # noqa: ARG002 - all the same
        return encode_request(Verb.CHECK, [b"/honest"]) * 4000
