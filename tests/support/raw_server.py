"""A server loop in a thread of the test, and clients that speak bytes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

from rallypoint.net.address import listen
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import MAGIC, Verb
from rallypoint.server.engine import Engine, Limits
from rallypoint.server.loop import ServerLoop

__all__ = ["PATIENCE_S", "VALIDATE", "RawClient", "RunningLoop", "running_loop"]

PATIENCE_S = 30.0
VALIDATE = encode_request(Verb.VALIDATE, MAGIC)


class RawClient:
    """A connection on which the test says every byte."""

    def __init__(self, address: tuple[str, int] | str, *, validates: bool = True) -> None:
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(PATIENCE_S)
            self.sock.connect(address)
        else:
            self.sock = socket.create_connection(address, PATIENCE_S)
        if validates:
            self.sock.sendall(VALIDATE)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ask(self, verb: Verb, *fields: object) -> None:
        self.send(encode_request(verb, *fields))

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            some = self.sock.recv(min(size - len(data), 1 << 20))
            assert some, f"the stream ended after {data!r}"
            data += some
        return data

    def read_end(self) -> bytes:
        """Give all until the server closes, by FIN or RST."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while some := self.sock.recv(1 << 16):
                data += some
        return data

    def ping(self, nonce: int = 7) -> bool:
        """Tell whether the server answers; that it does also means that it has read all that was sent before."""
        self.ask(Verb.PING, nonce)
        return self.read(4) == struct.pack("<I", nonce)

    def get(self, key: bytes) -> bytes:
        self.ask(Verb.GET, key)
        (size,) = struct.unpack("<Q", self.read(8))
        return self.read(size)

    def close(self) -> None:
        self.sock.close()


class RunningLoop:
    """What a test sees of a loop that runs."""

    def __init__(self, limits: Limits, listeners: list[socket.socket]) -> None:
        name = listeners[0].getsockname()
        self.address: tuple[str, int] | str = name if isinstance(name, str) else name[:2]
        self.loop = ServerLoop(Engine(limits), listeners, log=self.log)
        self.thread = threading.Thread(target=self.loop.run, daemon=True)
        self.lines: list[str] = []
        self.line_came = threading.Condition()
        self.clients: list[RawClient] = []

    def log(self, line: str) -> None:
        with self.line_came:
            self.lines.append(line)
            self.line_came.notify_all()

    def wait_for_line(self, is_right: Callable[[str], bool]) -> str:
        with self.line_came:
            assert self.line_came.wait_for(lambda: any(map(is_right, self.lines)), PATIENCE_S), self.lines
            return next(filter(is_right, self.lines))

    def client(self, *, validates: bool = True) -> RawClient:
        client = RawClient(self.address, validates=validates)
        self.clients.append(client)
        return client

    def stop(self, drain_s: float) -> None:
        self.loop.stop(drain_s)
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def running_loop(limits: Limits | None = None, listeners: list[socket.socket] | None = None) -> Iterator[RunningLoop]:
    """Run a loop on a free loopback port; it has ended, and all clients are closed, afterwards."""
    listeners = listeners or listen("127.0.0.1", 0)
    running = RunningLoop(limits or Limits(), listeners)
    running.thread.start()
    try:
        yield running
    finally:
        running.stop(0.0)
        for client in running.clients:
            client.close()
