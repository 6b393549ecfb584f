"""Who may connect, and what an identity may do to which keys.

Rules:

- Every proof that the server was set up to want is wanted: with tokens a session proves one, with TLS a connection is
  secured, with a client authority it brings a certificate. One does not stand in for another.
- c10d knows no proofs. Where tokens or TLS are wanted, a c10d peer is let in only from a Unix domain socket that the
  system guards, or from a network that was named. A session from there may do without TLS, never without its token.
- An identity is what was proven: the name of the token, or the name in the certificate; if there are both, they agree.
  A name that is merely claimed is refused. Nobody in particular has the empty identity.
- Without access rules whoever is in may do everything. With them, what no rule allows is forbidden. The rule of ``*``
  is for all identities that have no rule of their own, the empty one included.
- Whether an identity exists cannot be told from the answer to a wrong proof.

Theory of operation::

    Connected(origin), first byte --> refusal(origin, ...)   may this dialect come in from there?
    HELLO                         --> wants_proof            is there a CHALLENGE to answer?
    PROVE, or HELLO without one   --> identify(...)          whose proof is it?
    each request                  --> forbids(identity, request)

Prefixes in rules are users' words: the ``/`` that clients put in front of each key on the wire is not part of them.

What this file does not know: connections, files, what a request does, which session an identity has.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum, auto
from typing import Any, Final, NamedTuple, TypeAlias

from rallypoint.protocol.codec import Request, RequestError
from rallypoint.protocol.session.auth import Hello, Token, Welcome
from rallypoint.protocol.session.spec import LABEL_SIZE_MAX, SessionVerb
from rallypoint.protocol.spec import CloseReason, Verb
from rallypoint.server.vocabulary import Origin

__all__ = ["EVERYBODY", "Forbids", "Gate", "Rule", "parse_networks", "parse_rules", "parse_tokens"]

EVERYBODY: Final = "*"
"""Whose rule is for all identities without one."""

_WORKER_COUNT = b"init/"  # the counter by which the clients of a store wait for each other: below no user's prefix
_SHOWN_MAX = 60

Forbids: TypeAlias = Callable[[bytes, Request], "str | None"]
"""``Gate.forbids``: identity and request -> why not, ``None`` if it may."""

_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


class Rule(NamedTuple):
    """What one identity may do.

    Attributes:
        read: prefixes of keys that it may read; the empty prefix is every key.
        write: prefixes of keys that it may change.
    """

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()


# --- reading what people write ---------------------------------------------------------------------------


def parse_tokens(text: str) -> dict[str, Token]:
    """Read tokens: each line one, alone or behind the name of its identity.

    Args:
        text: ``TOKEN`` or ``NAME TOKEN`` a line. Empty lines and lines that begin with ``#`` say nothing.

    Returns:
        The token of each identity, in the lines' order; that of a line without a name under the empty one.

    Raises:
        ValueError: in one sentence that names the line and does not show it.
    """
    tokens: dict[str, Token] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) > 2:
            raise ValueError(f"line {number} has {len(words)} words: write a token, or a name and its token")
        name = words[0] if len(words) == 2 else ""
        if len(name.encode()) > LABEL_SIZE_MAX or name == EVERYBODY:
            raise ValueError(f"line {number}: {_shown(name)} is no name of an identity")
        if name in tokens:
            raise ValueError(f"line {number} is the second token {f'of {name!r}' if name else 'without a name'}")
        try:
            tokens[name] = Token(words[-1])
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    if not tokens:
        raise ValueError("there is no token in it: write one of 32 random bytes, as `openssl rand -hex 32` makes it")
    return tokens


def parse_rules(text: str | bytes) -> dict[str, Rule]:
    """Read access rules, in JSON: ``{"trainer": {"read": ["train/"], "write": ["train/"]}, "*": {"read": [""]}}``.

    Raises:
        ValueError: in one sentence that says where the text is wrong.
    """
    import msgspec  # here, because a server without rules need not load it

    try:
        found = msgspec.json.decode(text, type=dict[str, dict[str, list[str]]])
    except msgspec.DecodeError as error:
        raise ValueError(f"the access rules are wrong: {error}") from error
    for name, rights in found.items():
        for right in rights:
            if right not in Rule._fields:
                raise ValueError(f"the access rule of {name!r} has {right!r}; it may have 'read' and 'write'")
    return {name: Rule(**{right: tuple(prefixes) for right, prefixes in rule.items()}) for name, rule in found.items()}


def parse_networks(texts: Iterable[str]) -> tuple[_Network, ...]:
    """Read networks: ``ADDRESS/BITS``, or an address alone.

    Raises:
        ValueError: in one sentence, with what would be right.
    """
    networks = []
    for text in texts:
        try:
            networks.append(ipaddress.ip_network(text.strip(), strict=False))
        except ValueError:  # noqa: PERF203 - a few, at the start
            raise ValueError(f"{text!r} is no network: write an address or a network, as in 10.0.0.0/8") from None
    return tuple(networks)


# --- what a verb needs -----------------------------------------------------------------------------------


class _Subject(Enum):
    """What the first field of a request names."""

    KEY = auto()
    """A key, a queue, a group, or a prefix, which is allowed where all keys below it are."""
    KEYS = auto()
    PAIRS = auto()
    EVERYTHING = auto()
    STATUS = auto()


_READ, _WRITE = (0,), (1,)  # the fields of Rule that must allow it
_BOTH = (0, 1)

_NEEDS: Final[Mapping[int, tuple[_Subject, tuple[int, ...]]]] = {
    SessionVerb.SET: (_Subject.KEY, _WRITE),
    SessionVerb.COMPARE_SET: (_Subject.KEY, _BOTH),
    SessionVerb.GET: (_Subject.KEY, _READ),
    SessionVerb.ADD: (_Subject.KEY, _WRITE),
    SessionVerb.CHECK: (_Subject.KEYS, _READ),
    SessionVerb.WAIT: (_Subject.KEYS, _READ),
    SessionVerb.GETNUMKEYS: (_Subject.EVERYTHING, _READ),
    SessionVerb.DELETE_KEY: (_Subject.KEY, _WRITE),
    SessionVerb.APPEND: (_Subject.KEY, _WRITE),
    SessionVerb.MULTI_GET: (_Subject.KEYS, _READ),
    SessionVerb.MULTI_SET: (_Subject.PAIRS, _WRITE),
    SessionVerb.QUEUE_PUSH: (_Subject.KEY, _WRITE),
    SessionVerb.QUEUE_POP: (_Subject.KEY, _BOTH),
    SessionVerb.QUEUE_LEN: (_Subject.KEY, _READ),
    SessionVerb.LIST_KEYS: (_Subject.EVERYTHING, _READ),
    SessionVerb.BARRIER: (_Subject.KEY, _WRITE),
    SessionVerb.READ: (_Subject.KEY, _READ),
    SessionVerb.SWAP: (_Subject.KEY, _WRITE),
    SessionVerb.READ_PREFIX: (_Subject.KEY, _READ),
    SessionVerb.LIST_PREFIX: (_Subject.KEY, _READ),
    SessionVerb.DELETE_PREFIX: (_Subject.KEY, _WRITE),
    SessionVerb.WATCH: (_Subject.KEY, _READ),
    SessionVerb.MEET: (_Subject.KEY, _WRITE),
    SessionVerb.EXCHANGE: (_Subject.KEY, _BOTH),
    SessionVerb.STATUS: (_Subject.STATUS, _READ),
}
"""What a verb needs; a verb that stands neither here nor among the free ones is forbidden."""

_FREE: Final = frozenset(
    {
        Verb.VALIDATE,
        Verb.CANCEL_WAIT,
        SessionVerb.PING,
        SessionVerb.HELLO,
        SessionVerb.PROVE,
        SessionVerb.BYE,
        SessionVerb.CANCEL,
        SessionVerb.UNWATCH,
        SessionVerb.LEASE_GRANT,
        SessionVerb.LEASE_RENEW,
        SessionVerb.LEASE_REVOKE,  # a lease is its identity's own
    }
)


# --- the gate --------------------------------------------------------------------------------------------


class Gate:
    """What one server was set up to want of those who connect.

    Args:
        tokens: the token of each identity, see ``parse_tokens``; none if sessions need no proof.
        rules: what each identity may do; ``None`` lets everybody do everything.
        plain_networks: where c10d peers and connections without TLS may come from all the same.
        wants_tls: connections come with TLS.

    Attributes:
        wants_proof: HELLO is to be answered with a CHALLENGE.
        has_rules: requests are to be asked about.
    """

    def __init__(
        self,
        tokens: Mapping[str, Token] | None = None,
        rules: Mapping[str, Rule] | None = None,
        plain_networks: Sequence[_Network] = (),
        *,
        wants_tls: bool = False,
    ) -> None:
        self._tokens = {name.encode(): token for name, token in (tokens or {}).items()}
        self._decoy = next(iter(self._tokens.values()), None)
        self._rules = None if rules is None else {name.encode(): _encoded(rule) for name, rule in rules.items()}
        self._plain_networks = tuple(plain_networks)
        self._wants_tls = wants_tls
        self.wants_proof = bool(self._tokens)
        self.has_rules = rules is not None

    def refusal(self, origin: Origin, *, is_session: bool) -> str | None:
        """Say why a dialect may not come in from there, in one sentence that says how to let it in.

        The reason is ``AUTHENTICATION_REQUIRED``.

        Args:
            origin: where the connection comes from, TLS included if it was secured.
            is_session: it speaks the session dialect, which can prove a token.

        Returns:
            The sentence; ``None`` if it may come in.
        """
        lacks_proof = self.wants_proof and not is_session
        lacks_tls = self._wants_tls and not origin.is_secure
        if not (lacks_proof or lacks_tls) or origin.is_local or self._is_plain_network(origin.host):
            return None
        network = f"{origin.host or 'ADDRESS'}/{128 if ':' in origin.host else 32}"
        opening = f"--allow-plain {network} (RALLYPOINT_ALLOW_PLAIN for a server embedded in a program)"
        if lacks_proof:
            return (
                "it speaks c10d, which cannot prove the token that this server wants; to let it in, start the server "
                f"with {opening}, or let it speak through `rallypoint relay` on its own host"
            )
        return (
            "it came without TLS, which this server wants: give the client tls= (RALLYPOINT_TLS_CA); to let it in all "
            f"the same, start the server with {opening}"
        )

    def identify(self, hello: Hello, origin: Origin, nonce: bytes = b"", proof: bytes = b"") -> bytes:
        """Give the identity that a session has proven.

        Args:
            hello: what it said.
            origin: where its connection comes from.
            nonce: the server's, from the CHALLENGE; empty if there was none.
            proof: of PROVE; empty if there was none.

        Raises:
            RequestError: the proof is wrong, or the name is another than the proven one.
        """
        claimed, certified = hello.identity, origin.identity
        if self.wants_proof:
            token = self._tokens.get(claimed)
            judge = token or self._decoy
            is_proven = judge is not None and bool(nonce) and judge.is_client_proof(proof, hello, nonce)
            if token is None or not is_proven:
                who = f"the identity {_shown(claimed)}" if claimed else "the job's token"
                raise RequestError(CloseReason.AUTHENTICATION_FAILED, f"the proof of {who} is wrong")
        elif claimed and claimed != certified:
            sentence = f"it calls itself {_shown(claimed)}, and nothing proves that"
            raise RequestError(CloseReason.AUTHENTICATION_FAILED, sentence)
        if claimed and certified and claimed != certified:
            sentence = f"its token is that of {_shown(claimed)}, its certificate that of {_shown(certified)}"
            raise RequestError(CloseReason.AUTHENTICATION_FAILED, sentence)
        return claimed or certified

    def prove(self, hello: Hello, nonce: bytes, welcome: Welcome) -> bytes:
        """Give the server's own proof to a session that has proven itself; empty where no token is wanted."""
        token = self._tokens.get(hello.identity)
        return b"" if token is None else token.server_proof(hello, nonce, welcome)

    def forbids(self, identity: bytes, request: Request) -> str | None:
        """Say why an identity may not do what it asks for.

        Args:
            identity: what ``identify`` gave; of a c10d peer the one of its certificate, else the empty one.
            request: ``(verb, field, ...)``.

        Returns:
            One sentence; ``None`` if it may, as always where there are no rules.

        Cost: the number of keys in the request times that of the identity's prefixes.
        """
        if self._rules is None or request[0] in _FREE:
            return None
        needs = _NEEDS.get(request[0])
        if needs is None:
            return f"{_called(identity)} may not do this"
        return self._forbids(identity, _subjects(needs[0], request), needs[1])

    def _forbids(self, identity: bytes, subjects: Iterable[bytes], needs: tuple[int, ...]) -> str | None:
        assert self._rules is not None
        rule = self._rules.get(identity) or self._rules.get(EVERYBODY.encode(), _NO_RIGHTS)
        for subject in subjects:
            if subject == _WORKER_COUNT:
                continue
            name = subject.removeprefix(b"/")
            for right in needs:
                if not name.startswith(rule[right]):
                    verb = "change" if right else "read"
                    what = _shown(name) if name else "all keys"
                    allowed = " and ".join(map(_shown, rule[right])) or "nothing"
                    return f"{_called(identity)} may not {verb} {what}: it may {verb} {allowed}"
        return None

    def _is_plain_network(self, host: str) -> bool:
        if not self._plain_networks:
            return False
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        if address.version == 6 and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._plain_networks)


_Rights: TypeAlias = tuple[tuple[bytes, ...], tuple[bytes, ...]]

_NO_RIGHTS: Final[_Rights] = ((), ())


def _encoded(rule: Rule) -> _Rights:
    return tuple(map(str.encode, rule.read)), tuple(map(str.encode, rule.write))


def _subjects(kind: _Subject, request: Request) -> Iterable[bytes]:
    """Give the keys and prefixes that a request is about."""
    if kind is _Subject.EVERYTHING:
        return (b"",)
    field: Any = request[1]
    if kind is _Subject.STATUS:
        # An overview has numbers only. Labels, names and addresses of all are for those who may read everything.
        return () if not field else (field.removeprefix(b"keys/") if field.startswith(b"keys/") else b"",)
    if kind is _Subject.PAIRS:
        return [key for key, _ in field]
    keys: Iterable[bytes] = field if kind is _Subject.KEYS else (field,)
    return keys


def _called(identity: bytes) -> str:
    return f"the identity {_shown(identity)}" if identity else "a client without an identity"


def _shown(text: bytes | str) -> str:
    word = text if isinstance(text, str) else text.decode(errors="replace")
    return repr(word if len(word) <= _SHOWN_MAX else f"{word[:_SHOWN_MAX]}...")
