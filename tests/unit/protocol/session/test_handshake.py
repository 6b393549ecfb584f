from __future__ import annotations

import pytest

from rallypoint.errors import AuthenticationError, DistNetworkError, RemoteProtocolError
from rallypoint.protocol.session.auth import Hello, Token, Welcome
from rallypoint.protocol.session.codec import encode_closing, encode_reply, encode_request
from rallypoint.protocol.session.handshake import handshake
from rallypoint.protocol.session.spec import OPENING, SessionVerb, Status
from rallypoint.protocol.spec import CloseReason

HELLO = Hello(b"", b"", b"me", b"n" * 16, 10_000)
WELCOME = Welcome(b"s" * 16, 0, b"d" * 16, b"l" * 16, 9_000, 5)
ASKED = encode_request(SessionVerb.HELLO, 0, 0, 1, b"", b"", b"me", b"n" * 16, 10_000)
TOKEN = Token("a-token-that-is-long-enough")
NONCE = b"q" * 16


def welcome(verb=SessionVerb.HELLO, proof=b""):
    session, is_resumed, data, life, timeout_ms, revision = WELCOME
    return encode_reply(Status.OK, verb, 0, session, is_resumed, data, life, proof, timeout_ms, revision)


CHALLENGE = encode_reply(Status.CHALLENGE, None, 0, NONCE)


def play(course, said):
    """Drive a handshake; give what it sent and what it returned."""
    sent = []
    try:
        step = next(course)
        while True:
            if isinstance(step, bytes):
                sent.append(step)
                step = course.send(b"")
            else:
                assert step <= len(said), "more is read than was said"
                part, said = said[:step], said[step:]
                step = course.send(part)
    except StopIteration as end:
        assert said == b""
        return sent, end.value


def test_one_round_trip_with_an_open_server():
    assert play(handshake(HELLO), welcome()) == ([OPENING + ASKED], WELCOME)


def test_a_second_hello_follows_a_bye():
    bye = encode_reply(Status.OK, SessionVerb.BYE, 1)
    sent, found = play(handshake(HELLO, is_first=False), bye + welcome())
    assert sent == [encode_request(SessionVerb.BYE, 1, 0) + ASKED]
    assert found == WELCOME


def test_both_sides_prove_that_they_have_the_token():
    proof = TOKEN.server_proof(HELLO, NONCE, WELCOME)
    sent, found = play(handshake(HELLO, TOKEN), CHALLENGE + welcome(SessionVerb.PROVE, proof))
    assert sent == [OPENING + ASKED, encode_request(SessionVerb.PROVE, 0, 0, TOKEN.client_proof(HELLO, NONCE))]
    assert found == WELCOME


@pytest.mark.parametrize(
    ("token", "said", "kind", "text"),
    [
        (None, CHALLENGE, AuthenticationError, "the server wants to see a token"),
        (TOKEN, welcome(), AuthenticationError, "the server has no token"),
        (TOKEN, CHALLENGE + welcome(SessionVerb.PROVE, b"x" * 32), AuthenticationError, "cannot prove that it has"),
        (TOKEN, CHALLENGE + CHALLENGE, RemoteProtocolError, "answered a proof by a challenge"),
        (
            TOKEN,
            CHALLENGE + encode_closing(CloseReason.AUTHENTICATION_FAILED, "wrong"),
            AuthenticationError,
            r"refuses the connection \(authentication_failed\): wrong",
        ),
        (None, encode_closing(CloseReason.TOO_MANY_CONNECTIONS, "full"), DistNetworkError, "full"),
        (None, b"HTTP/1.1 400 Bad", RemoteProtocolError, "begins with b'HTTP'"),
        (None, encode_reply(Status.REFUSED, None, 0, b"a", b"b"), RemoteProtocolError, "a frame of status 2"),
    ],
)
def test_what_cannot_be_gone_on_with(token, said, kind, text):
    with pytest.raises(kind, match=text) as caught:
        play(handshake(HELLO, token), said)
    assert type(caught.value) is kind or kind is not DistNetworkError
