from __future__ import annotations

import copy
import hashlib
import hmac
import multiprocessing.reduction
import traceback

import pytest

from rallypoint.protocol.session.auth import (
    CLIENT_PREFIX,
    SERVER_PREFIX,
    TOKEN_SIZE_MAX,
    Hello,
    Token,
    Welcome,
)
from rallypoint.protocol.session.codec import REPLY_HEAD_SIZE, REQUEST_HEAD_SIZE, encode_reply, encode_request
from rallypoint.protocol.session.spec import PROOF_SIZE, VERSION, SessionVerb, Status

SECRET = "correct-horse-battery-staple"
TOKEN = Token(SECRET)
HELLO = Hello(b"", b"trainer", b"rank 3", b"c" * 16, 10_000)
WELCOME = Welcome(b"s" * 16, 0, b"d" * 16, b"l" * 16, 10_000, 7)
NONCE = b"n" * 16


def sized(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def test_a_proof_is_an_hmac_over_the_frames_as_they_are_sent() -> None:
    hello = encode_request(
        SessionVerb.HELLO, 0, 0, VERSION, HELLO.session, HELLO.identity, HELLO.label, HELLO.nonce, HELLO.timeout_ms
    )[REQUEST_HEAD_SIZE:]
    reply = encode_reply(Status.OK, SessionVerb.HELLO, 0, b"s" * 16, 0, b"d" * 16, b"l" * 16, b"", 10_000, 7)
    transcript = sized(hello) + sized(NONCE)
    key = SECRET.encode()
    assert TOKEN.client_proof(HELLO, NONCE) == hmac.new(key, CLIENT_PREFIX + transcript, hashlib.sha256).digest()
    transcript += sized(reply[REPLY_HEAD_SIZE:])
    assert TOKEN.server_proof(HELLO, NONCE, WELCOME) == hmac.new(key, SERVER_PREFIX + transcript, "sha256").digest()
    assert len(TOKEN.client_proof(HELLO, NONCE)) == PROOF_SIZE


def test_known_proofs() -> None:
    assert TOKEN.client_proof(HELLO, NONCE).hex() == "7f6f2030de70a5437ed20ac4f4568d04c23a26fbfa31b584487d2129247f6fac"
    assert (
        TOKEN.server_proof(HELLO, NONCE, WELCOME).hex()
        == "da300de35ae8d27aab36de3859965ff02afabf48c22d889866a7a34056b86e80"
    )


def test_right_proofs_are_taken() -> None:
    assert TOKEN.is_client_proof(TOKEN.client_proof(HELLO, NONCE), HELLO, NONCE)
    assert TOKEN.is_server_proof(TOKEN.server_proof(HELLO, NONCE, WELCOME), HELLO, NONCE, WELCOME)


@pytest.mark.parametrize(
    "changed",
    [
        HELLO._replace(session=b"x"),
        HELLO._replace(identity=b"traine", label=b"rrank 3"),
        HELLO._replace(identity=b""),
        HELLO._replace(label=b"rank 4"),
        HELLO._replace(nonce=b"d" * 16),
        HELLO._replace(timeout_ms=1),
        HELLO._replace(version=2),
    ],
)
def test_a_proof_covers_every_field_of_hello(changed: Hello) -> None:
    assert not TOKEN.is_client_proof(TOKEN.client_proof(HELLO, NONCE), changed, NONCE)
    assert not TOKEN.is_server_proof(TOKEN.server_proof(HELLO, NONCE, WELCOME), changed, NONCE, WELCOME)


@pytest.mark.parametrize(
    "changed",
    [
        WELCOME._replace(session=b"t" * 16),
        WELCOME._replace(is_resumed=1),
        WELCOME._replace(data=b"l" * 16, life=b"d" * 16),
        WELCOME._replace(timeout_ms=1),
        WELCOME._replace(revision=8),
    ],
)
def test_a_server_s_proof_covers_every_field_of_its_welcome(changed: Welcome) -> None:
    assert not TOKEN.is_server_proof(TOKEN.server_proof(HELLO, NONCE, WELCOME), HELLO, NONCE, changed)


def test_a_recorded_proof_proves_nothing_under_other_nonces() -> None:
    proof = TOKEN.client_proof(HELLO, NONCE)
    assert not TOKEN.is_client_proof(proof, HELLO, b"m" * 16)
    answer = TOKEN.server_proof(HELLO, NONCE, WELCOME)
    assert not TOKEN.is_server_proof(answer, HELLO, b"m" * 16, WELCOME)


def test_one_side_s_proof_is_none_of_the_other_s() -> None:
    assert not TOKEN.is_server_proof(TOKEN.client_proof(HELLO, NONCE), HELLO, NONCE, WELCOME)
    assert not TOKEN.is_client_proof(TOKEN.server_proof(HELLO, NONCE, WELCOME), HELLO, NONCE)


@pytest.mark.parametrize("proof", [b"", b"\0" * PROOF_SIZE, TOKEN.client_proof(HELLO, NONCE)[:-1]])
def test_wrong_and_cut_proofs_are_refused(proof: bytes) -> None:
    assert not TOKEN.is_client_proof(proof, HELLO, NONCE)


def test_another_token_proves_something_else() -> None:
    assert not TOKEN.is_client_proof(Token("another-token-as-long").client_proof(HELLO, NONCE), HELLO, NONCE)


def test_white_space_around_a_token_is_not_part_of_it() -> None:
    assert Token(f" {SECRET}\r\n".encode()) == TOKEN
    assert hash(Token(f"{SECRET}\n")) == hash(TOKEN)
    assert Token("another-token-as-long") != TOKEN
    assert TOKEN != SECRET


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("fifteen letters", r"the token is 15 bytes long, it must have 16 at least: .* `openssl rand -hex 32`"),
        (" " * 20, "the token is 0 bytes long"),
        ("x" * (TOKEN_SIZE_MAX + 1), "the token is 4097 bytes long, it must have 4096 at most"),
        ("sixteen\0letters-and-more", "the token holds white space or a zero byte: a token is one word"),
        ("sixteen letters and more", "the token holds white space or a zero byte: a token is one word"),
    ],
)
def test_what_is_no_token(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        Token(text)
    assert "letters" not in "".join(traceback.format_exception(caught.value)).replace(__file__, "")


def test_a_token_shows_nowhere() -> None:
    for shown in (repr(TOKEN), str(TOKEN), f"{TOKEN}", repr({"token": TOKEN})):
        assert "horse" not in shown
    with pytest.raises(TypeError, match="a token is not pickled"):
        multiprocessing.reduction.ForkingPickler.dumps(TOKEN)
    with pytest.raises(TypeError, match="a token is not pickled"):
        copy.deepcopy(TOKEN)


def test_the_secret_is_given_to_whoever_asks_for_it_by_name() -> None:
    assert TOKEN.reveal() == SECRET.encode()
