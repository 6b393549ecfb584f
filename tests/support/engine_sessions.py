"""Clients of the session dialect against an engine, without sockets: frames in, decoded frames out."""

from __future__ import annotations

from tests.support.twins import make_engine

from rallypoint.protocol.session.codec import REPLY_HEAD_SIZE, decode_reply, decode_reply_head, encode_request
from rallypoint.protocol.session.spec import (
    CLOSING_ID,
    NONCE_SIZE,
    OPENING,
    SESSION_VERBS,
    VERSION,
    SessionVerb,
    Status,
)
from rallypoint.server.limits import Limits
from rallypoint.server.vocabulary import Close, Connected, Disconnected, Pause, Received, Reply, Resumed, Ticked

__all__ = ["Bench", "Client"]

_UNNUMBERED = (SessionVerb.CANCEL, SessionVerb.UNWATCH)


class Bench:
    """An engine, of the twin that the test runs over, a clock that is moved by hand, and its clients.

    Args:
        journal: with one.
        bounds: limits that are not the defaults.
    """

    def __init__(self, *, journal=False, **bounds):
        limits = Limits(**bounds)
        self.engine = make_engine(limits, journal=journal)
        self.now = 100.0
        self.clients = {}
        self._last_peer = 0

    def step(self, event):
        """Take one event, and give each client what it is sent."""
        for effect in self.engine.step(event, self.now):
            client = self.clients.get(effect.peer)
            if isinstance(effect, Reply):
                client.unread += effect.data
            elif isinstance(effect, Pause):
                client.is_paused = True
            elif isinstance(effect, Close):
                client.closed = effect.reason
                del self.clients[effect.peer]

    def wait(self, seconds):
        """Let time pass, with a look at every deadline on the way."""
        end = self.now + seconds
        while (deadline := self.engine.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            self.step(Ticked())
        self.now = end

    def client(self, label=b"", timeout_ms=10_000):
        """Give a new client with a session."""
        client = Client(self, label, timeout_ms)
        client.connect()
        return client

    def new_peer(self, client):
        self._last_peer += 1
        self.clients[self._last_peer] = client
        return self._last_peer


class Client:
    """One client: its session outlives ``drop`` and ``connect``."""

    def __init__(self, bench, label, timeout_ms):
        self.bench = bench
        self.label = label
        self.timeout_ms = timeout_ms
        self.session = b""
        self.done = 0
        self.verbs = {}
        self.last_id = 0

    def connect(self):
        """Connect, and resume the session if there is one; say whether it was there."""
        self.peer = self.bench.new_peer(self)
        self.unread = b""
        self.is_paused = False
        self.closed = None
        self.bench.step(Connected(self.peer))
        hello = (VERSION, self.session, b"", self.label, bytes(NONCE_SIZE), self.timeout_ms)
        frame = encode_request(SessionVerb.HELLO, CLOSING_ID, 0, *hello)
        self.verbs[CLOSING_ID] = SessionVerb.HELLO
        self.bench.step(Received(self.peer, OPENING + frame))
        ((_, _, fields),) = self.read()
        self.session = fields[0]
        return bool(fields[1])

    def drop(self):
        """Lose the connection."""
        del self.bench.clients[self.peer]
        self.bench.step(Disconnected(self.peer))

    def resumed(self):
        """Read what is there, and let the engine know."""
        self.is_paused = False
        self.bench.step(Resumed(self.peer))

    def frame(self, verb, *fields, request_id=None):
        """Give a request's frame, and its id."""
        if request_id is None:
            request_id = 0 if verb in _UNNUMBERED else self.last_id + 1
        self.last_id = max(self.last_id, request_id)
        self.verbs[request_id] = verb
        return request_id, encode_request(verb, request_id, self.done, *fields)

    def send(self, verb, *fields, request_id=None):
        """Ask for something; give the request's id."""
        request_id, frame = self.frame(verb, *fields, request_id=request_id)
        self.bench.step(Received(self.peer, frame))
        return request_id

    def ask(self, verb, *fields, request_id=None):
        """Ask for something that is answered at once, alone; give status and fields."""
        request_id = self.send(verb, *fields, request_id=request_id)
        ((status, answered, reply),) = self.read()
        assert answered == request_id
        return status, *reply

    def read(self):
        """Give the frames that have come since: ``(status, id, fields)``."""
        data, self.unread = self.unread, b""
        frames = []
        at = 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "little")
            status, request_id = decode_reply_head(data, at)
            end = at + 4 + size
            verb = self.verbs.get(request_id)
            assert verb is None or verb in SESSION_VERBS
            fields = decode_reply(Status(status), verb, data, at + REPLY_HEAD_SIZE, end)
            frames.append((Status(status), request_id, fields))
            at = end
        return frames
