"""A store on a simulated host, and its clients: the engine and the sessions that sockets carry elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rallypoint.errors import DistNetworkError
from rallypoint.net.retry import DEFAULT_BACKOFF
from rallypoint.protocol.session.auth import Hello
from rallypoint.protocol.session.client import Request, Session
from rallypoint.protocol.session.handshake import handshake
from rallypoint.protocol.session.spec import NONCE_SIZE, SessionVerb, Status
from rallypoint.server.engine import Engine
from rallypoint.server.limits import Limits
from rallypoint.server.vocabulary import Close, Connected, Disconnected, Pause, Received, Reply, Resumed, Ticked
from rallypoint.testing import SimHost, SimNetwork, SimStream
from rallypoint.testing.simulation import Timer

__all__ = ["SERVER", "SimClient", "SimServer"]

SERVER = "store"
"""The machine that it is on."""

PROBE_S = 2.0
"""How long a client that waits for an answer believes in a connection that says nothing."""


class SimServer:
    """A server: the engine, its connections, its deadlines."""

    def __init__(self, network: SimNetwork, host: SimHost) -> None:
        self.host = host
        self._network = network
        self._engine = Engine(Limits())
        self._streams: dict[int, SimStream] = {}
        self._last_peer = 0
        self._timer: Timer | None = None
        self._due: float | None = None
        network.listen(host, self._accept)

    def _accept(self, stream: SimStream) -> None:
        self._last_peer += 1
        peer = self._last_peer
        self._streams[peer] = stream
        stream.received = lambda data: self._take(Received(peer, data)) if peer in self._streams else None
        stream.ended = lambda _: self._lose(peer)
        self._take(Connected(peer))

    def _lose(self, peer: int) -> None:
        if self._streams.pop(peer, None) is not None:
            self._take(Disconnected(peer))

    def _take(self, event: Any) -> None:
        for effect in self._engine.step(event, self._network.simulation.now):
            stream = self._streams.get(effect.peer)
            if isinstance(effect, Reply) and stream is not None:
                stream.send(effect.data)
            elif isinstance(effect, Pause):
                self.host.after(0.0, lambda peer=effect.peer: self._resume(peer))
            elif isinstance(effect, Close) and self._streams.pop(effect.peer, None) is not None:
                stream.close()
        self._set_timer()

    def _resume(self, peer: int) -> None:
        if peer in self._streams:
            self._take(Resumed(peer))

    def _set_timer(self) -> None:
        due = self._engine.next_deadline()
        if due == self._due:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        if due is not None:
            self._timer = self.host.after(due - self._network.simulation.now + 1e-6, self._tick)

    def _tick(self) -> None:
        self._due = None
        self._take(Ticked())


class SimClient:
    """One session with the server, over as many connections as it takes.

    Attributes:
        lost: called when the server does not know the session any more: leases and watches are gone with it.
        doubted: called when ``ends_at`` has changed.
        ends_at: when the server may end the session, as far as is known here.
    """

    def __init__(self, network: SimNetwork, host: SimHost, server: str, label: str, timeout_s: float) -> None:
        self.lost: Callable[[], None] = lambda: None
        self.doubted: Callable[[], None] = lambda: None
        self.ends_at = float("inf")
        self._network = network
        self._host = host
        self._server = server
        self._label = label.encode()
        self._timeout_ms = int(timeout_s * 1000)
        self._session = Session()
        self._stream: SimStream | None = None
        self._answers: dict[Request, Callable[[Status | None, tuple[Any, ...]], None]] = {}
        self._watches: dict[Request, Callable[[Any], None]] = {}
        self._is_ready = False
        self._attempts = 0
        self._is_closed = False
        self._heard_at = 0.0
        self._is_probing = False
        self._connect()

    def ask(
        self, verb: SessionVerb, *fields: Any, then: Callable[[Status | None, tuple[Any, ...]], None] = lambda *_: None
    ) -> None:
        """Ask for something; ``then`` gets the answer, or ``None`` if the session went with it."""
        self._begin(Request(verb), fields, then)

    def watch(
        self,
        key: bytes,
        is_prefix: bool,
        told: Callable[[Any], None],
        then: Callable[[Status | None, tuple[Any, ...]], None],
    ) -> None:
        """Watch from now on; ``told`` gets each happening."""
        request = Request(SessionVerb.WATCH)
        self._watches[request] = told
        self._begin(request, (key, int(is_prefix), -1), then)

    def close(self) -> None:
        """End the session."""
        if self._is_ready and self._stream is not None:
            self._stream.send(self._session.begin(Request(SessionVerb.BYE)))
            self._stream.close()
        self._is_closed = True

    # --- requests ----------------------------------------------------------------------------------------

    def _begin(self, request: Request, fields: tuple[Any, ...], then: Any) -> None:
        frame = self._session.begin(request, *fields)
        self._answers[request] = then
        if self._is_ready and self._stream is not None:
            if not self._network_waits():
                self._heard_at = self._network.simulation.now
            self._stream.send(frame)
        self._expect_answer(PROBE_S)

    def _network_waits(self) -> bool:
        return len(self._answers) > 1

    def _expect_answer(self, within_s: float) -> None:
        if not self._is_probing:
            self._is_probing = True
            self._host.after(within_s, self._probe)

    def _probe(self) -> None:
        """Give up a connection that owes an answer and has said nothing for long."""
        self._is_probing = False
        stream = self._stream
        if self._is_ready and stream is not None and self._answers:
            left_s = self._heard_at + PROBE_S - self._network.simulation.now
            if left_s <= 1e-9:
                stream.reset()
            else:
                self._expect_answer(left_s)

    def _hear(self, data: bytes) -> None:
        self._heard_at = self._network.simulation.now
        for request in self._session.receive(data):
            then = self._answers.pop(request, None)
            if then is not None:
                assert request.status is not None
                then(request.status, request.fields())
        events, self._session.events[:] = list(self._session.events), []
        for request, happening in events:
            told = self._watches.get(request)
            if told is not None and happening is not None:
                told(happening)

    # --- connections -------------------------------------------------------------------------------------

    def _connect(self) -> None:
        if self._is_closed:
            return
        dice = self._network.simulation.dice
        hello = Hello(self._session.id, b"", self._label, dice.randbytes(NONCE_SIZE), self._timeout_ms)
        course, held, wanted = handshake(hello), b"", 0
        self._stream = stream = self._network.connect(self._host, self._server)
        stream.ended = lambda _: self._break() if stream is self._stream else None

        def go_on(data: bytes) -> None:
            nonlocal held, wanted
            if stream is not self._stream:
                return
            if self._is_ready:
                self._hear(data)
                return
            held += data
            try:
                while len(held) >= wanted:
                    part, held = held[:wanted], held[wanted:]
                    wanted = self._send_until_read(stream, course, part)
            except StopIteration as end:
                self._resume(end.value, held)
            except DistNetworkError:
                stream.close()
                self._break()

        stream.received = go_on
        wanted = self._send_until_read(stream, course, None)

    @staticmethod
    def _send_until_read(stream: SimStream, course: Any, part: bytes | None) -> int:
        step = course.send(part)
        while isinstance(step, bytes):
            stream.send(step)
            step = next(course)
        return step

    def _resume(self, welcome: Any, rest: bytes) -> None:
        assert self._stream is not None
        is_lost = bool(self._session.id) and not welcome.is_resumed
        if is_lost:
            self._forget()
        frames = self._session.resume(welcome)
        self._is_ready, self._attempts, self.ends_at = True, 0, float("inf")
        self._heard_at = self._network.simulation.now
        for frame in frames:
            self._stream.send(frame)
        self.doubted()
        if is_lost:
            self.lost()
        if self._answers:
            self._expect_answer(PROBE_S)
        if rest:
            self._hear(rest)

    def _forget(self) -> None:
        """Fail all that belonged to the session that is gone."""
        waiting, self._answers, self._watches = self._answers, {}, {}
        self._session, gone = Session(), self._session
        del gone
        for then in waiting.values():
            then(None, ())

    def _break(self) -> None:
        if self._is_closed:
            return
        self._is_ready, self._stream = False, None
        self._session.lose()
        self.ends_at = min(self.ends_at, self._network.simulation.now + self._timeout_ms / 1000)
        self.doubted()
        self._attempts += 1
        pause_s = (
            0.0
            if self._attempts == 1
            else DEFAULT_BACKOFF.pause_s(self._attempts - 1, self._network.simulation.dice.random())
        )
        self._host.after(pause_s, self._connect)
