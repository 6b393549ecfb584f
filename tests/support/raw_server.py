"""A server loop of either twin in a thread of the test, and clients that speak bytes."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
from tests.support.twins import tested

from rallypoint.net.address import listen
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import MAGIC, Verb
from rallypoint.server import native as native_module
from rallypoint.server.engine import Engine, Limits, Statistics
from rallypoint.server.loop import ServerLoop
from rallypoint.server.native import Loop, NativeLoop
from rallypoint.twin import native

__all__ = ["LOOP_TWINS", "PATIENCE_S", "VALIDATE", "RawClient", "RunningLoop", "make_twin", "running_loop", "use_twin"]

PATIENCE_S = 30.0
LOOP_TWINS = tuple(tested(("python",) if native() is None else ("python", "native")))
VALIDATE = encode_request(Verb.VALIDATE, MAGIC)


def use_twin(twin: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let servers that this test starts, here and in other processes, be of this twin."""
    monkeypatch.setenv("RALLYPOINT_PURE", "1" if twin == "python" else "")
    monkeypatch.setattr(native_module, "native", native if twin == "native" else lambda: None)
    return twin


def make_twin(
    twin: str, limits: Limits, listeners: list[socket.socket], log: Callable[[str], None] = lambda _: None
) -> Loop:
    """Give a loop of one twin."""
    if twin == "native":
        return NativeLoop(limits, listeners, log=log)
    engine = Engine(limits)
    return ServerLoop(engine, listeners, log=log, unread=engine.unread)


class SeenConnection(NamedTuple):
    """What a loop says of one of its connections."""

    output_size: int
    is_blocked: bool


class RawClient:
    """A connection on which the test says every byte."""

    def __init__(self, address: tuple[str, int] | str, *, validates: bool = True) -> None:
        if isinstance(address, str):
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(PATIENCE_S)
            try:
                self.sock.connect(address)
            except OSError:
                self.sock.close()
                raise
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

    def __init__(self, limits: Limits, listeners: list[socket.socket], twin: str) -> None:
        name = listeners[0].getsockname()
        self.address: tuple[str, int] | str = name if isinstance(name, str) else name[:2]
        self.loop = make_twin(twin, limits, listeners, self.log)
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

    def statistics(self) -> Statistics:
        return self.loop.statistics() if isinstance(self.loop, NativeLoop) else self.loop._engine.statistics()

    def connections(self) -> list[SeenConnection]:
        if isinstance(self.loop, NativeLoop):
            numbers = self.loop._reactor.connections()
            return [SeenConnection(size, bool(flag)) for size, flag in zip(numbers[1::3], numbers[2::3], strict=True)]
        return [SeenConnection(each.output_size, each.is_blocked) for each in list(self.loop._connections.values())]

    def is_any_blocked(self) -> bool:
        return any(connection.is_blocked for connection in self.connections())

    def stop(self, drain_s: float) -> None:
        self.loop.stop(drain_s)
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


@contextlib.contextmanager
def running_loop(
    limits: Limits | None = None, listeners: list[socket.socket] | None = None, *, twin: str = "python"
) -> Iterator[RunningLoop]:
    """Run a loop on a free loopback port; it has ended, and all clients are closed, afterwards."""
    listeners = listeners or listen("127.0.0.1", 0)
    running = RunningLoop(limits or Limits(), listeners, twin)
    running.thread.start()
    try:
        yield running
    finally:
        running.stop(0.0)
        for client in running.clients:
            client.close()
