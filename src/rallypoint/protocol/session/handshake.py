"""The client's opening of a connection, as a generator: what to send, how much to read, what it means.

Rules:

- It yields ``bytes`` to be sent and an ``int`` for that many bytes to be read, and returns the server's ``Welcome``.
- A client that has a token talks to no server that cannot prove to have it, too.
- A size that the server claims is checked before it is believed.

What this file does not know: sockets, deadlines, where token and nonce come from.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeAlias

from rallypoint.errors import AuthenticationError, DistNetworkError, RemoteProtocolError
from rallypoint.protocol.codec import U32
from rallypoint.protocol.session.auth import Hello, Token, Welcome
from rallypoint.protocol.session.codec import REPLY_HEAD_SIZE, decode_reply, decode_reply_head, encode_request
from rallypoint.protocol.session.spec import CLOSING_ID, HELLO_SIZE_MAX, OPENING, SessionVerb, Status
from rallypoint.protocol.spec import CloseReason

__all__ = ["Handshake", "handshake"]

Handshake: TypeAlias = Generator["bytes | int", bytes, Welcome]
"""See the rules above."""

_PROOF_REASONS = frozenset(
    reason.value
    for reason in (CloseReason.AUTHENTICATION_REQUIRED, CloseReason.AUTHENTICATION_FAILED, CloseReason.FORBIDDEN)
)


def handshake(hello: Hello, token: Token | None = None, *, is_first: bool = True) -> Handshake:
    """Open a connection.

    Args:
        hello: what the client says of itself.
        token: what both sides are to prove that they have; ``None`` talks to open servers only.
        is_first: nothing was said on this connection before; else its session of before ends.

    Raises:
        AuthenticationError: one side cannot prove itself to the other.
        DistNetworkError: the server refuses the connection; it says why.
        RemoteProtocolError: the answer is none of this dialect.

    Cost: one round trip, two with a proof.
    """
    fields = (hello.version, hello.session, hello.identity, hello.label, hello.nonce, hello.timeout_ms)
    frame = encode_request(SessionVerb.HELLO, CLOSING_ID, 0, *fields)
    if is_first:
        yield OPENING + frame
    else:
        yield encode_request(SessionVerb.BYE, 1, 0) + frame
        yield REPLY_HEAD_SIZE
    status, answer = yield from _read(SessionVerb.HELLO)
    if status is Status.OK:
        if token is not None:
            raise AuthenticationError("the server has no token, and this client talks only to one that has its own")
        return _welcome(answer)
    if token is None:
        raise AuthenticationError("the server wants to see a token: set RALLYPOINT_TOKEN or RALLYPOINT_TOKEN_FILE")
    (nonce,) = answer
    yield encode_request(SessionVerb.PROVE, CLOSING_ID, 0, token.client_proof(hello, nonce))
    status, answer = yield from _read(SessionVerb.PROVE)
    if status is not Status.OK:
        raise RemoteProtocolError("the server answered a proof by a challenge")
    welcome = _welcome(answer)
    if not token.is_server_proof(answer[4], hello, nonce, welcome):
        raise AuthenticationError(
            "the server cannot prove that it has the token: it is another one, or no server of ours"
        )
    return welcome


def _welcome(answer: tuple[Any, ...]) -> Welcome:
    session, is_resumed, data, life, _, timeout_ms, revision = answer
    return Welcome(session, is_resumed, data, life, timeout_ms, revision)


def _read(verb: SessionVerb) -> Generator[int, bytes, tuple[Status, tuple[Any, ...]]]:
    """Read one frame: an OK or a CHALLENGE."""
    head = yield REPLY_HEAD_SIZE
    (size,) = U32.unpack_from(head)
    if not REPLY_HEAD_SIZE - U32.size <= size <= HELLO_SIZE_MAX:
        raise RemoteProtocolError(f"the answer to a HELLO begins with {head[:4]!r}, which is no frame of this dialect")
    rest = size + U32.size - REPLY_HEAD_SIZE
    body = (yield rest) if rest else b""
    number, _ = decode_reply_head(head, 0)
    if number == Status.CLOSING:
        reason, sentence = (text.decode(errors="replace") for text in decode_reply(Status.CLOSING, None, body, 0, rest))
        message = f"the server refuses the connection ({reason}): {sentence}"
        if reason not in _PROOF_REASONS:
            raise DistNetworkError(message)
        refusal = AuthenticationError(message)
        refusal.reason = reason
        raise refusal
    if number not in (Status.OK, Status.CHALLENGE):
        raise RemoteProtocolError(f"the server answered a HELLO by a frame of status {number}")
    status = Status(number)
    return status, decode_reply(status, verb, body, 0, rest)
