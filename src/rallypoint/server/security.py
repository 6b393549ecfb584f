"""What a server is set up to want of those who connect, as whoever starts it says: tokens, rules, networks, TLS.

``access`` decides by it, ``net.tls`` encrypts by it; this file reads it, and hands it to a server in another process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rallypoint.net.secret import read_secret
from rallypoint.net.tls import ServerTls, Tls
from rallypoint.protocol.session.auth import Token
from rallypoint.server.access import Gate, Rule, parse_networks, parse_rules, parse_tokens

__all__ = [
    "ALLOW_PLAIN_ENV",
    "TOKEN_ENV",
    "TOKEN_FILE_ENV",
    "Security",
    "read_networks",
    "read_rules",
    "read_tokens",
]

TOKEN_ENV = "RALLYPOINT_TOKEN"  # noqa: S105 - a name
TOKEN_FILE_ENV = "RALLYPOINT_TOKEN_FILE"  # noqa: S105 - a name
ALLOW_PLAIN_ENV = "RALLYPOINT_ALLOW_PLAIN"


@dataclass(frozen=True)
class Security:
    """What one server wants.

    Attributes:
        tokens: the token of each identity; none if sessions need no proof.
        rules: what each identity may do; ``None`` for everything.
        plain_networks: where c10d peers and those without TLS may come from all the same.
        tls: the server's certificate, and the authority of its clients'; ``None`` for no TLS.

    Raises:
        ValueError: a network is none, or there are rules and nobody could prove who it is.
    """

    tokens: Mapping[str, Token] = field(default_factory=dict)
    rules: Mapping[str, Rule] | None = None
    plain_networks: tuple[str, ...] = ()
    tls: Tls | None = None

    def __post_init__(self) -> None:
        parse_networks(self.plain_networks)
        if self.rules is not None and not any(self.tokens) and (self.tls is None or self.tls.ca is None):
            raise ValueError(
                "access rules are by identity, and nothing proves one: give identities tokens of their own "
                "(NAME TOKEN a line), or let clients bring certificates (a client authority)"
            )

    @property
    def wants_anything(self) -> bool:
        """Tell whether it makes a difference."""
        return bool(self.tokens) or self.rules is not None or self.tls is not None

    @property
    def job_token(self) -> Token | None:
        """Give the job's token if that is all that is wanted, which the compiled server can judge by itself."""
        is_all = self.rules is None and self.tls is None and not self.plain_networks and set(self.tokens) == {""}
        return self.tokens[""] if is_all else None

    def gate(self) -> Gate:
        """Give the judge of connections and requests."""
        return Gate(
            self.tokens,
            self.rules,
            parse_networks(self.plain_networks),
            wants_tls=self.tls is not None,
        )

    def server_tls(self, log: Callable[[str], None]) -> ServerTls | None:
        """Give the certificates.

        Raises:
            ValueError: a file is missing or is not what it should be.
        """
        return None if self.tls is None else ServerTls(self.tls, log)

    def pack(self) -> bytes:
        """Give it as bytes, secrets and all: for a pipe to another process of ours, and for nothing else."""
        tokens = {name: token.reveal().decode() for name, token in self.tokens.items()}
        return json.dumps([tokens, self.rules, self.plain_networks, self.tls]).encode()

    @classmethod
    def unpack(cls, data: bytes) -> Security:
        """Give what was packed."""
        tokens, rules, networks, tls = json.loads(data)
        return cls(
            {name: Token(text) for name, text in tokens.items()},
            None if rules is None else {name: Rule(*map(tuple, rule)) for name, rule in rules.items()},
            tuple(networks),
            None if tls is None else Tls(*tls),
        )


def read_tokens(environ: Mapping[str, str], token_file: str | None = None) -> dict[str, Token]:
    """Give the tokens: those of a file if one is named, else what the environment says, else none.

    Args:
        environ: ``RALLYPOINT_TOKEN`` is ``TOKEN`` or ``NAME TOKEN``, ``RALLYPOINT_TOKEN_FILE`` a file of such lines.
        token_file: the file.

    Raises:
        ValueError: in one sentence that names the file or the variable and does not show what it says.
    """
    text, path = environ.get(TOKEN_ENV), environ.get(TOKEN_FILE_ENV)
    if token_file is None and text and path:
        raise ValueError(f"{TOKEN_ENV} and {TOKEN_FILE_ENV} are both set: it is not clear which is meant")
    path = token_file or path
    if not path and not text:
        return {}
    try:
        return parse_tokens(read_secret(path) if path else text or "")
    except ValueError as error:
        source = TOKEN_ENV if not path else f"the token file {path}"
        if path and path in str(error):
            raise
        raise ValueError(f"{source}: {error}") from None


def read_rules(path: str) -> dict[str, Rule]:
    """Give the access rules in a file.

    Raises:
        ValueError: in one sentence that names the file.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a path is text here
            return parse_rules(file.read())
    except OSError as error:
        raise ValueError(f"the file {path} cannot be used: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_networks(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Give the networks in ``RALLYPOINT_ALLOW_PLAIN``, which are split by commas.

    Raises:
        ValueError: one of them is none; the sentence names the variable.
    """
    networks = tuple(part.strip() for part in environ.get(ALLOW_PLAIN_ENV, "").split(",") if part.strip())
    try:
        parse_networks(networks)
    except ValueError as error:
        raise ValueError(f"{ALLOW_PLAIN_ENV}: {error}") from error
    return networks
