"""A connection that speaks the session dialect: its handshake, and its requests as long as it has a session.

Rules:

- HELLO comes first, and PROVE if the server wants a proof; anything else before a session is there closes.
- A known session id resumes its session; the connection that had it is closed, TAKEN_OVER. An unknown one gets a new
  session, and is told so: whether that matters is the client's to judge.
- BYE ends the session. The connection may say HELLO again, and has the handshake's time for it.
- A frame that is no request closes the connection; the session goes on without it.

Theory of operation::

    HELLO --no proof wanted--> welcome: session found or made, attached --> OK --> requests --BYE--> HELLO ...
      '---proof wanted--> CHALLENGE --PROVE--> identify -------^

What this file does not know: what requests do, sockets, tokens and rules (``access``).
"""

from __future__ import annotations

from typing import Protocol

from rallypoint.protocol.codec import Request, RequestError
from rallypoint.protocol.session.auth import Hello, Welcome
from rallypoint.protocol.session.codec import encode_empty, encode_reply
from rallypoint.protocol.session.server import FrameReader
from rallypoint.protocol.session.spec import (
    CLOSING_ID,
    LABEL_SIZE_MAX,
    NONCE_SIZE,
    SESSION_ID_SIZE,
    VERSION,
    SessionVerb,
    Status,
)
from rallypoint.protocol.spec import CloseReason
from rallypoint.server.access import Gate
from rallypoint.server.ground import Ground
from rallypoint.server.ids import Ids
from rallypoint.server.session_verbs import SessionVerbs
from rallypoint.server.sessions import Session, Sessions
from rallypoint.server.vocabulary import Origin, Reply

__all__ = ["Connections", "SessionDialect", "Talk"]

_OF_CONNECTIONS = frozenset(map(int, (SessionVerb.HELLO, SessionVerb.PROVE, SessionVerb.BYE)))


class Connections(Protocol):
    """What the dialect has the engine do with connections."""

    def admit(self, peer: int) -> None:
        """The handshake is done."""

    def dismiss(self, peer: int) -> None:
        """The session is over: a handshake is to come, in time."""

    def evict(self, peer: int, sentence: str) -> None:
        """Close a connection whose session another has taken over."""

    def is_paused(self, peer: int) -> bool:
        """Tell whether a peer's output is not sent yet."""

    def pause(self, peer: int) -> None:
        """Send what a peer is owed before it may cause more."""


class Talk:
    """One connection that speaks the dialect.

    Attributes:
        reader: cuts its bytes into requests.
        session: whose connection it is; ``None`` before the handshake is done.
    """

    __slots__ = ("hello", "nonce", "reader", "session")

    def __init__(self, reader: FrameReader) -> None:
        self.reader = reader
        self.session: Session | None = None
        self.hello: Hello | None = None  # while its proof is awaited
        self.nonce = b""


class SessionDialect:
    """The dialect of one server.

    Args:
        ground: where effects go.
        sessions: all sessions.
        verbs: what requests do.
        connections: the engine.
        ids: where nonces come from.
        gate: who may come in; ``None`` if everybody may.
        data_id: of what the server holds: the same as long as that is.
        life_id: of this life of the server.
    """

    def __init__(
        self,
        ground: Ground,
        sessions: Sessions,
        verbs: SessionVerbs,
        *,
        connections: Connections,
        ids: Ids,
        gate: Gate | None,
        data_id: bytes,
        life_id: bytes,
    ) -> None:
        self._ground = ground
        self._sessions = sessions
        self._verbs = verbs
        self._connections = connections
        self._ids = ids
        self._gate = gate
        self._data_id = data_id
        self._life_id = life_id

    def next(self, peer: int, talk: Talk, origin: Origin) -> int | None:
        """Apply the next whole request of a connection.

        Returns:
            The bytes of replies that it gets; ``None`` if there is no whole request.

        Raises:
            RequestError: the connection must be closed.
        """
        asked = talk.reader.next()
        if asked is None:
            return None
        verbs = self._verbs
        verbs.produced = 0
        session = talk.session
        request_id, _, request = asked
        verb = request[0]
        if session is None:
            self._greet(peer, talk, request, origin)
        elif verb not in _OF_CONNECTIONS:
            verbs.take(session, asked)
        elif verb == SessionVerb.BYE:
            talk.session = None
            verbs.end(session)
            self._ground.effects.append(Reply(peer, encode_empty(request_id)))
            self._connections.dismiss(peer)
        else:
            sentence = f"{SessionVerb(verb).name} came on a connection that has a session already"
            raise RequestError(CloseReason.BAD_HANDSHAKE, sentence)
        return verbs.produced

    def leave(self, talk: Talk) -> None:
        """Take note that the connection is gone."""
        session = talk.session
        if session is not None:
            talk.session = None
            self._verbs.detach(session)

    def _greet(self, peer: int, talk: Talk, request: Request, origin: Origin) -> None:
        verb = request[0]
        gate = self._gate
        if verb == SessionVerb.HELLO and talk.hello is None:
            hello = _hello(request)
            if gate is not None and gate.wants_proof:
                talk.hello = hello
                talk.nonce = self._ids.make(b"nonce", NONCE_SIZE)
                self._ground.effects.append(Reply(peer, encode_reply(Status.CHALLENGE, None, CLOSING_ID, talk.nonce)))
                return
            identity = b"" if gate is None else gate.identify(hello, origin)
            self._welcome(peer, talk, hello, identity, SessionVerb.HELLO)
        elif verb == SessionVerb.PROVE and talk.hello is not None:
            assert gate is not None
            identity = gate.identify(talk.hello, origin, talk.nonce, request[1])
            self._welcome(peer, talk, talk.hello, identity, SessionVerb.PROVE)
        else:
            awaited = "HELLO" if talk.hello is None else "PROVE"
            sentence = f"{SessionVerb(verb).name} came where {awaited} was to come"
            raise RequestError(CloseReason.BAD_HANDSHAKE, sentence)

    def _welcome(self, peer: int, talk: Talk, hello: Hello, identity: bytes, verb: SessionVerb) -> None:
        session = self._sessions.find(hello.session, identity)
        is_resumed = session is not None
        if session is None:
            session = self._sessions.make(hello, identity, self._ground.now)
        elif session.peer is not None:
            # What the other connection waits for is dropped as if it had broken: this one asks for it again.
            self._connections.evict(session.peer, f"another connection has resumed its session, {hello.label!r}")
        self._sessions.attach(session, peer, hello.label)
        timeout_ms = round(session.timeout_s * 1000)
        revision = self._ground.keyspace.revision
        welcome = Welcome(session.session_id, is_resumed, self._data_id, self._life_id, timeout_ms, revision)
        proof = b"" if self._gate is None else self._gate.prove(hello, talk.nonce, welcome)
        fields = (session.session_id, is_resumed, self._data_id, self._life_id, proof, timeout_ms, revision)
        self._ground.effects.append(Reply(peer, encode_reply(Status.OK, verb, CLOSING_ID, *fields)))
        talk.session = session
        talk.hello = None
        talk.nonce = b""
        talk.reader.admit()
        self._connections.admit(peer)


def _hello(request: Request) -> Hello:
    """Give a HELLO whose fields make sense."""
    _, version, session_id, identity, label, nonce, timeout_ms = request
    if version != VERSION:
        sentence = f"HELLO is of version {version} of the session dialect, this server knows version {VERSION}"
        raise RequestError(CloseReason.UNKNOWN_VERSION, sentence)
    for name, text in (("identity", identity), ("label", label)):
        if len(text) > LABEL_SIZE_MAX:
            sentence = f"HELLO has {name} of {len(text)} bytes, the limit is {LABEL_SIZE_MAX}"
            raise RequestError(CloseReason.BAD_ARGUMENT, sentence)
    if len(session_id) not in (0, SESSION_ID_SIZE) or len(nonce) != NONCE_SIZE or timeout_ms < 0:
        sentence = (
            f"HELLO has a session of {len(session_id)} bytes, a nonce of {len(nonce)} and {timeout_ms} ms: a session "
            f"has {SESSION_ID_SIZE} or none, a nonce {NONCE_SIZE}, and the time is 0 or above"
        )
        raise RequestError(CloseReason.BAD_ARGUMENT, sentence)
    return Hello(session_id, identity, label, nonce, timeout_ms, version)
