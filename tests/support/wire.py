"""Clients and server without sockets: calls (generators) on one side, the engine on the other, bytes between them."""

from __future__ import annotations

from typing import Generic, TypeVar

from tests.support.twins import make_engine

from rallypoint.errors import ConnectionLostError
from rallypoint.protocol.client import Call, Wait, WaitExpired, handshake
from rallypoint.protocol.codec import encode_request
from rallypoint.protocol.spec import MAGIC, Verb
from rallypoint.server.engine import (
    Close,
    Connected,
    Disconnected,
    Effect,
    Event,
    Limits,
    Pause,
    Received,
    Reply,
    Resumed,
    Ticked,
)

__all__ = ["VALIDATE", "Connection", "Flight", "Wire"]

VALIDATE = encode_request(Verb.VALIDATE, MAGIC)

R = TypeVar("R")


class Wire:
    """An engine of the twin that the test runs over, and its connections.

    Pauses are answered with ``Resumed`` at once, unless told otherwise.
    """

    def __init__(self, limits: Limits | None = None, *, resumes: bool = True) -> None:
        self.engine = make_engine(limits)
        self.now = 0.0
        self.resumes = resumes
        self.connections: dict[int, Connection] = {}
        self.effects: list[Effect] = []

    def step(self, event: Event) -> list[Effect]:
        effects = self.engine.step(event, self.now)
        self.effects += effects
        for effect in effects:
            connection = self.connections[effect.peer]
            assert connection.closed is None, f"{effect} comes after {connection.closed}"
            if isinstance(effect, Reply):
                connection.unread += effect.data
            elif isinstance(effect, Close):
                connection.closed = effect
            else:
                connection.is_paused = True
        for effect in effects:
            if isinstance(effect, Pause) and self.resumes:
                self.resume(self.connections[effect.peer])
        return effects

    def resume(self, connection: Connection) -> None:
        connection.is_paused = False
        self.step(Resumed(connection.peer))

    def tick(self, seconds: float) -> list[Effect]:
        self.now += seconds
        return self.step(Ticked())

    def connect(self, *, validates: bool = True, cut: int | None = None) -> Connection:
        connection = Connection(self, len(self.connections) + 1, cut)
        self.connections[connection.peer] = connection
        self.step(Connected(connection.peer))
        if validates:
            connection.send(VALIDATE)
        return connection

    def client(self, cut: int | None = None) -> Connection:
        """Give a connection that has shaken hands as a client does."""
        connection = self.connect(validates=False, cut=cut)
        connection.call(handshake(0xBEEF))
        return connection


class Connection:
    """One peer: ``cut`` says into how large segments its bytes are cut, ``None`` for one segment a send."""

    def __init__(self, wire: Wire, peer: int, cut: int | None) -> None:
        self.wire = wire
        self.peer = peer
        self.cut = cut
        self.unread = bytearray()
        self.closed: Close | None = None
        self.is_paused = False

    def send(self, data: bytes) -> None:
        cut = self.cut or max(1, len(data))
        for start in range(0, len(data), cut):
            if self.closed is None:
                self.wire.step(Received(self.peer, data[start : start + cut]))

    def ask(self, verb: Verb, *fields: object) -> None:
        self.send(encode_request(verb, *fields))

    def read(self) -> bytes:
        """Give all that has come and was not read."""
        data = bytes(self.unread)
        self.unread.clear()
        return data

    def disconnect(self) -> None:
        self.wire.step(Disconnected(self.peer))

    def start(self, call: Call[R]) -> Flight[R]:
        flight = Flight(self, call)
        flight.go_on()
        return flight

    def call(self, call: Call[R]) -> R:
        """Run a call that is answered at once."""
        return self.start(call).result()


class Flight(Generic[R]):
    """A call in flight."""

    def __init__(self, connection: Connection, call: Call[R]) -> None:
        self._connection = connection
        self._call = call
        self._results: list[R] = []
        self._has_sent = False
        self.round_trips = 0
        self._step = self._resume(None)

    @property
    def is_done(self) -> bool:
        return bool(self._results)

    @property
    def is_waiting(self) -> bool:
        """The call waits for bytes that may take their time."""
        self.go_on()
        return not self.is_done and isinstance(self._step, Wait)

    def result(self) -> R:
        self.go_on()
        assert self.is_done, f"the call still wants {self._step!r}, there is {bytes(self._connection.unread)!r}"
        return self._results[0]

    def go_on(self) -> None:
        """Run as far as the bytes allow."""
        connection = self._connection
        while not self.is_done:
            step = self._step
            if isinstance(step, bytes):
                connection.send(step)
                self._has_sent = True
                self._step = self._resume(b"")
                continue
            size = step.size if isinstance(step, Wait) else step
            if len(connection.unread) >= size:
                data = bytes(connection.unread[:size])
                del connection.unread[:size]
                self.round_trips += self._has_sent
                self._has_sent = False
                self._step = self._resume(data)
            elif connection.closed is not None:
                self._step = self._resume(ConnectionLostError("the peer closed the connection"))
            else:
                return

    def expire(self) -> None:
        """Let the deadline pass. What is there already is not read first: it crosses the cancellation."""
        assert isinstance(self._step, Wait), f"the call wants {self._step!r} and no wait"
        self._step = self._resume(WaitExpired())
        self.go_on()

    def _resume(self, answer: bytes | Exception | None) -> bytes | int | Wait:
        try:
            if isinstance(answer, Exception):
                return self._call.throw(answer)
            return next(self._call) if answer is None else self._call.send(answer)
        except StopIteration as done:
            self._results.append(done.value)
            return 0
