"""Who may talk: the proofs by which client and server show each other that they hold the same token.

Rules:

- The token is never sent, only proofs made with it; it shows in no ``repr``, no error and no pickle.
- A proof covers all that both said before it: a change of any field on the way makes it wrong.
- Client and server prove under different prefixes, so that neither can be made to answer its own question.
- Both give a fresh nonce, so that a recorded handshake proves nothing the next time.
- The client proves first; a server that cannot be proven to is refused before it gets a single request.
- Proofs are compared in constant time.

Theory of operation::

    client                                                                      server
    HELLO: version, session, identity, label, nonce, milliseconds  ---------->
                                                     <----------  CHALLENGE: nonce
    PROVE: proof over HELLO and the server's nonce  ------------------------->  checks it
                        checks it  <----------  OK: session, ..., proof over HELLO, nonce and this very OK

A proof is HMAC-SHA256 under the token over the *transcript*: the prefix of its side, then each part behind its size.
The parts are the fields of HELLO as they stand in its frame, the server's nonce, and for the server's proof the fields
of the OK as they stand in its frame with an empty proof. So nobody needs to agree on anything but the wire itself.

The proofs say who opened a connection, not who writes on it afterwards: against those who can change what is under way
there is TLS.

What this file does not know: where tokens and nonces come from, which identities there are, what they may do.
"""

from __future__ import annotations

import hmac
from typing import Final, NamedTuple, NoReturn

from rallypoint.protocol.codec import I64, U32, U64
from rallypoint.protocol.session.spec import VERSION

__all__ = [
    "CLIENT_PREFIX",
    "SERVER_PREFIX",
    "TOKEN_SIZE_MAX",
    "TOKEN_SIZE_MIN",
    "Hello",
    "Token",
    "Welcome",
]

CLIENT_PREFIX: Final = b"rallypoint session client\0"
"""What a client's transcript begins with."""

SERVER_PREFIX: Final = b"rallypoint session server\0"
"""What a server's transcript begins with."""

TOKEN_SIZE_MIN: Final = 16
"""Bytes of a token at least: whoever pretends to be the server can try tokens against a client's proof at leisure."""

TOKEN_SIZE_MAX: Final = 4096
"""Bytes of a token at most: what is longer is another file."""


class Hello(NamedTuple):
    """The fields of HELLO, in their order."""

    session: bytes
    identity: bytes
    label: bytes
    nonce: bytes
    timeout_ms: int
    version: int = VERSION

    def fields(self) -> bytes:
        """Give the fields as they stand in the frame."""
        texts = (self.session, self.identity, self.label, self.nonce)
        return U32.pack(self.version) + b"".join(map(_sized, texts)) + I64.pack(self.timeout_ms)


class Welcome(NamedTuple):
    """The fields of the OK to HELLO or PROVE, in their order, without the proof."""

    session: bytes
    is_resumed: int
    data: bytes
    life: bytes
    timeout_ms: int
    revision: int

    def fields(self) -> bytes:
        """Give the fields as they stand in the frame, with an empty proof."""
        ids = (_sized(self.session), bytes((self.is_resumed,)), _sized(self.data), _sized(self.life))
        return b"".join(ids) + _sized(b"") + I64.pack(self.timeout_ms) + I64.pack(self.revision)


class Token:
    """A secret that both sides hold.

    Args:
        text: the secret; ``str`` as UTF-8. White space around it is not part of it.

    Raises:
        ValueError: it is too short, too long, or not one word; the sentence does not show it.
    """

    __slots__ = ("_secret",)

    def __init__(self, text: str | bytes) -> None:
        secret = (text.encode() if isinstance(text, str) else bytes(text)).strip()
        if len(secret) < TOKEN_SIZE_MIN:
            raise ValueError(
                f"the token is {len(secret)} bytes long, it must have {TOKEN_SIZE_MIN} at least: "
                "a random one of 32 is made by `openssl rand -hex 32`"
            )
        if len(secret) > TOKEN_SIZE_MAX:
            raise ValueError(f"the token is {len(secret)} bytes long, it must have {TOKEN_SIZE_MAX} at most")
        if len(secret.split()) > 1 or b"\0" in secret:
            raise ValueError("the token holds white space or a zero byte: a token is one word")
        self._secret = secret

    def reveal(self) -> bytes:
        """Give the secret itself: to hand it to a process or a module of our own, and for nothing else."""
        return self._secret

    def client_proof(self, hello: Hello, server_nonce: bytes) -> bytes:
        """Give what a client proves itself with.

        Shape: ``PROOF_SIZE`` bytes.
        """
        return self._proof(CLIENT_PREFIX, hello.fields(), server_nonce)

    def server_proof(self, hello: Hello, server_nonce: bytes, welcome: Welcome) -> bytes:
        """Give what a server proves itself with, to a client that has proven itself.

        Shape: ``PROOF_SIZE`` bytes.
        """
        return self._proof(SERVER_PREFIX, hello.fields(), server_nonce, welcome.fields())

    def is_client_proof(self, proof: bytes, hello: Hello, server_nonce: bytes) -> bool:
        """Tell whether a client has proven itself. Cost: the same whether and wherever the proof is wrong."""
        return hmac.compare_digest(proof, self.client_proof(hello, server_nonce))

    def is_server_proof(self, proof: bytes, hello: Hello, server_nonce: bytes, welcome: Welcome) -> bool:
        """Tell whether a server has proven itself. Cost: the same whether and wherever the proof is wrong."""
        return hmac.compare_digest(proof, self.server_proof(hello, server_nonce, welcome))

    def _proof(self, prefix: bytes, *parts: bytes) -> bytes:
        return hmac.digest(self._secret, prefix + b"".join(map(_sized, parts)), "sha256")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Token) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self._secret)

    def __repr__(self) -> str:
        return "Token(...)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token is not pickled: it would lie readable wherever the pickle does")


def _sized(text: bytes) -> bytes:
    return U64.pack(len(text)) + text
