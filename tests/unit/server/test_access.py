from __future__ import annotations

import json

import pytest

from rallypoint.protocol.codec import U64, RequestError, encode_request
from rallypoint.protocol.session.auth import Hello, Token, Welcome
from rallypoint.protocol.session.codec import encode_request as encode_session
from rallypoint.protocol.session.spec import NONCE_SIZE, OPENING, SESSION_VERBS, SessionVerb, Status
from rallypoint.protocol.spec import MAGIC, CloseReason, Verb
from rallypoint.server import access
from rallypoint.server.access import Gate, Rule, parse_networks, parse_rules, parse_tokens
from rallypoint.server.engine import Engine
from rallypoint.server.vocabulary import Close, Connected, Origin, Received, Reply, Secured

JOB = Token("the-token-of-the-job")
TRAINER = Token("the-token-of-trainers")
NONCE = b"n" * 16
HELLO = Hello(b"", b"", b"rank 3", b"c" * 16, 10_000)
AFAR = Origin("10.0.0.3")

RULES = {"trainer": Rule(read=("train/", "shared/"), write=("train/",)), "*": Rule(read=("shared/",))}


# --- what people write -----------------------------------------------------------------------------------


def test_tokens_stand_alone_or_behind_a_name() -> None:
    text = "# of this run\n\nthe-token-of-the-job\r\ntrainer  the-token-of-trainers\n"
    assert parse_tokens(text) == {"": JOB, "trainer": TRAINER}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "there is no token in it: write one of 32 random bytes"),
        ("# nothing\n", "there is no token in it"),
        ("\na b secretsecretsecret", "line 2 has 3 words: write a token, or a name and its token"),
        ("* secretsecretsecret", r"line 1: '\*' is no name of an identity"),
        ("x" * 257 + " secretsecretsecret", r"line 1: 'x{60}\.\.\.' is no name of an identity"),
        ("a secretsecretsecret\na secretsecretsecre2", "line 2 is the second token of 'a'"),
        ("secretsecretsecret\nsecretsecretsecre2", "line 2 is the second token without a name"),
        ("a secret", "line 1: the token is 6 bytes long, it must have 16 at least"),
    ],
)
def test_what_are_no_tokens(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        parse_tokens(text)
    assert "secret" not in str(caught.value)


def test_rules_are_read_from_json() -> None:
    text = json.dumps({"trainer": {"read": ["train/", "shared/"], "write": ["train/"]}, "*": {"read": ["shared/"]}})
    assert parse_rules(text) == RULES
    assert parse_rules(text.encode()) == RULES


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "the access rules are wrong: "),
        ("[]", r"the access rules are wrong: Expected `object`"),
        ('{"a": {"read": "x"}}', r"Expected `array`, got `str` - at `\$\[\.\.\.\]"),
        ('{"a": {"raed": ["x"]}}', "the access rule of 'a' has 'raed'; it may have 'read' and 'write'"),
    ],
)
def test_what_are_no_rules(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_rules(text)


@pytest.mark.parametrize("text", ["", "10.0.0.0/33", "host", "10.0.0"])
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match=f"{text!r} is no network: write an address or a network, as in 10.0.0.0/8"):
        parse_networks(["10.0.0.1", text])


# --- who may come in -------------------------------------------------------------------------------------


def test_without_anything_set_up_everybody_comes_in() -> None:
    gate = Gate()
    assert not gate.wants_proof
    assert gate.refusal(AFAR, is_session=False) is None
    assert gate.identify(HELLO, AFAR) == b""
    assert gate.prove(HELLO, NONCE, Welcome(b"", 0, b"", b"", 0, 0)) == b""
    assert gate.forbids(b"", (Verb.SET, b"/x", b"")) is None


def test_c10d_from_afar_is_told_how_it_is_let_in_past_a_token() -> None:
    gate = Gate({"": JOB})
    assert gate.refusal(AFAR, is_session=False) == (
        "it speaks c10d, which cannot prove the token that this server wants; to let it in, start the server with "
        "--allow-plain 10.0.0.3/32 (RALLYPOINT_ALLOW_PLAIN for a server embedded in a program), or let it speak "
        "through `rallypoint relay` on its own host"
    )
    assert "--allow-plain fe80::1/128 " in str(gate.refusal(Origin("fe80::1"), is_session=False))
    assert gate.refusal(AFAR, is_session=True) is None
    assert gate.refusal(Origin(is_local=True), is_session=False) is None
    assert gate.refusal(Origin(), is_session=False) is not None
    assert gate.refusal(AFAR._replace(is_secure=True, identity=b"trainer"), is_session=False) is not None


@pytest.mark.parametrize("host", ["10.0.0.3", "::ffff:10.0.0.3", "fd00::7", "fe80::1%eth0", "192.168.7.7"])
def test_named_networks_are_let_in(host: str) -> None:
    gate = Gate({"": JOB}, plain_networks=parse_networks(["10.0.0.0/24", "fd00::/8", "fe80::/10", " 192.168.7.7"]))
    assert gate.refusal(Origin(host), is_session=False) is None


@pytest.mark.parametrize("host", ["10.0.1.3", "::ffff:10.0.1.3", "::1", "127.0.0.1", "192.168.7.8", "", "nonsense"])
def test_other_networks_are_not(host: str) -> None:
    gate = Gate({"": JOB}, plain_networks=parse_networks(["10.0.0.0/24", "fd00::/8", "192.168.7.7"]))
    assert gate.refusal(Origin(host), is_session=False) is not None


@pytest.mark.parametrize("is_session", [True, False])
def test_with_tls_whoever_comes_without_is_told_so(is_session: bool) -> None:
    gate = Gate(wants_tls=True, plain_networks=parse_networks(["127.0.0.0/8"]))
    assert str(gate.refusal(AFAR, is_session=is_session)).startswith(
        "it came without TLS, which this server wants: give the client tls= (RALLYPOINT_TLS_CA); to let it in all the "
        "same, start the server with --allow-plain 10.0.0.3/32"
    )
    for origin in (AFAR._replace(is_secure=True), Origin("127.0.0.1"), Origin(is_local=True)):
        assert gate.refusal(origin, is_session=is_session) is None


# --- identities ------------------------------------------------------------------------------------------


def test_an_identity_is_that_of_the_proven_token() -> None:
    gate = Gate({"": JOB, "trainer": TRAINER})
    assert gate.wants_proof
    assert gate.identify(HELLO, AFAR, NONCE, JOB.client_proof(HELLO, NONCE)) == b""
    hello = HELLO._replace(identity=b"trainer")
    assert gate.identify(hello, AFAR, NONCE, TRAINER.client_proof(hello, NONCE)) == b"trainer"
    welcome = Welcome(b"s" * 16, 0, b"d" * 16, b"l" * 16, 10_000, 0)
    assert TRAINER.is_server_proof(gate.prove(hello, NONCE, welcome), hello, NONCE, welcome)


@pytest.mark.parametrize(
    ("claimed", "holder", "nonce"),
    [
        (b"", TRAINER, NONCE),
        (b"trainer", JOB, NONCE),
        (b"unknown", JOB, NONCE),
        (b"unknown", TRAINER, NONCE),
        (b"trainer", TRAINER, b"m" * 16),
        (b"trainer", TRAINER, b""),
    ],
)
def test_a_wrong_proof_is_refused_whoever_is_claimed(claimed: bytes, holder: Token, nonce: bytes) -> None:
    gate = Gate({"": JOB, "trainer": TRAINER})
    hello = HELLO._replace(identity=claimed)
    with pytest.raises(RequestError) as caught:
        gate.identify(hello, AFAR, nonce, holder.client_proof(hello, NONCE))
    assert caught.value.reason is CloseReason.AUTHENTICATION_FAILED
    who = f"the identity {claimed.decode()!r}" if claimed else "the job's token"
    assert str(caught.value) == f"the proof of {who} is wrong"


def test_a_certificate_names_whoever_brings_it() -> None:
    origin = AFAR._replace(is_secure=True, identity=b"trainer")
    assert Gate(wants_tls=True).identify(HELLO, origin) == b"trainer"
    assert Gate(wants_tls=True).identify(HELLO._replace(identity=b"trainer"), origin) == b"trainer"


def test_a_name_that_is_merely_claimed_is_refused() -> None:
    for origin in (AFAR, AFAR._replace(is_secure=True, identity=b"viewer")):
        with pytest.raises(RequestError, match="it calls itself 'trainer', and nothing proves that") as caught:
            Gate(rules=RULES).identify(HELLO._replace(identity=b"trainer"), origin)
        assert caught.value.reason is CloseReason.AUTHENTICATION_FAILED


def test_token_and_certificate_must_agree() -> None:
    gate = Gate({"": JOB, "trainer": TRAINER}, wants_tls=True)
    origin = AFAR._replace(is_secure=True, identity=b"viewer")
    hello = HELLO._replace(identity=b"trainer")
    with pytest.raises(RequestError, match="its token is that of 'trainer', its certificate that of 'viewer'"):
        gate.identify(hello, origin, NONCE, TRAINER.client_proof(hello, NONCE))
    assert gate.identify(HELLO, origin, NONCE, JOB.client_proof(HELLO, NONCE)) == b"viewer"


# --- what they may do ------------------------------------------------------------------------------------

ALLOWED = [
    (SessionVerb.SET, b"/train/x", b"1"),
    (SessionVerb.GET, b"/train/x"),
    (SessionVerb.GET, b"/shared/x"),
    (SessionVerb.ADD, b"init/", 1),
    (SessionVerb.CHECK, [b"/train/x", b"/shared/y"]),
    (SessionVerb.MULTI_SET, [(b"/train/x", b""), (b"/train/y", b"")]),
    (SessionVerb.QUEUE_POP, b"/train/q"),
    (SessionVerb.READ_PREFIX, b"/train/a"),
    (SessionVerb.DELETE_PREFIX, b"/train/"),
    (SessionVerb.WATCH, b"/shared/", 1, -1),
    (SessionVerb.MEET, b"train/barrier", 0, 2, b""),
    (SessionVerb.STATUS, b""),
    (SessionVerb.STATUS, b"keys/train/"),
    (SessionVerb.PING, 7),
    (SessionVerb.LEASE_GRANT, 0),
    (Verb.CANCEL_WAIT,),
]

FORBIDDEN = [
    ((SessionVerb.SET, b"/shared/x", b"1"), "change 'shared/x': it may change 'train/'"),
    ((SessionVerb.SET, b"/trai", b"1"), "change 'trai': it may change 'train/'"),
    ((SessionVerb.SET, b"//train/x", b"1"), "change '/train/x': it may change 'train/'"),
    ((SessionVerb.GET, b"/secret"), "read 'secret': it may read 'train/' and 'shared/'"),
    ((SessionVerb.COMPARE_SET, b"/shared/x", b"", b"1"), "change 'shared/x': it may change 'train/'"),
    ((SessionVerb.WAIT, [b"/train/x", b"/other"]), "read 'other': it may read 'train/' and 'shared/'"),
    ((SessionVerb.MULTI_SET, [(b"/train/x", b""), (b"/y", b"")]), "change 'y': it may change 'train/'"),
    ((SessionVerb.QUEUE_POP, b"/shared/q"), "change 'shared/q': it may change 'train/'"),
    ((SessionVerb.LIST_KEYS,), "read all keys: it may read 'train/' and 'shared/'"),
    ((SessionVerb.GETNUMKEYS,), "read all keys: it may read 'train/' and 'shared/'"),
    ((SessionVerb.READ_PREFIX, b"/"), "read all keys: it may read 'train/' and 'shared/'"),
    ((SessionVerb.READ_PREFIX, b""), "read all keys: it may read 'train/' and 'shared/'"),
    ((SessionVerb.WATCH, b"/tra", 1, -1), "read 'tra': it may read 'train/' and 'shared/'"),
    ((SessionVerb.DELETE_PREFIX, b"/t"), "change 't': it may change 'train/'"),
    ((SessionVerb.EXCHANGE, b"shared/x", 0, 2, b"", b""), "change 'shared/x': it may change 'train/'"),
    ((SessionVerb.STATUS, b"peers"), "read all keys: it may read 'train/' and 'shared/'"),
    ((SessionVerb.STATUS, b"keys/secret/"), "read 'secret/': it may read 'train/' and 'shared/'"),
]


@pytest.mark.parametrize("request_", ALLOWED, ids=str)
def test_what_a_rule_allows(request_: tuple[object, ...]) -> None:
    assert Gate({"trainer": TRAINER}, RULES).forbids(b"trainer", request_) is None


@pytest.mark.parametrize(("request_", "why"), FORBIDDEN, ids=str)
def test_what_a_rule_does_not_allow(request_: tuple[object, ...], why: str) -> None:
    assert Gate({"trainer": TRAINER}, RULES).forbids(b"trainer", request_) == f"the identity 'trainer' may not {why}"


def test_whoever_has_no_rule_has_that_of_everybody() -> None:
    gate = Gate(rules=RULES)
    for identity in (b"", b"viewer"):
        assert gate.forbids(identity, (Verb.GET, b"/shared/x")) is None
        assert gate.forbids(identity, (Verb.SET, b"/train/x", b"")) is not None
    assert gate.forbids(b"", (Verb.SET, b"/x", b"")) == (
        "a client without an identity may not change 'x': it may change nothing"
    )


def test_without_a_rule_for_everybody_strangers_may_do_nothing() -> None:
    gate = Gate(rules={"trainer": RULES["trainer"]})
    assert gate.forbids(b"viewer", (Verb.GET, b"/shared/x")) == (
        "the identity 'viewer' may not read 'shared/x': it may read nothing"
    )


def test_the_empty_prefix_is_every_key() -> None:
    gate = Gate(rules={"*": Rule(read=("",), write=("",))})
    for request in (*(request for request, _ in FORBIDDEN), *ALLOWED):
        assert gate.forbids(b"", request) is None


def test_every_verb_is_either_free_or_needs_something() -> None:
    verbs = {*map(int, Verb), *map(int, SESSION_VERBS)}
    assert {*access._FREE, *access._NEEDS} == verbs
    assert not access._FREE & access._NEEDS.keys()


def test_a_verb_that_nobody_thought_of_is_forbidden() -> None:
    gate = Gate(rules={"*": Rule(read=("",), write=("",))})
    assert gate.forbids(b"", (99, b"x")) == "a client without an identity may not do this"


# --- the gate in the engine ------------------------------------------------------------------------------

VALIDATE = encode_request(Verb.VALIDATE, MAGIC)


def connected(gate: Gate, origin: Origin) -> Engine:
    engine = Engine(gate=gate)
    assert engine.step(Connected(1, "10.0.0.3:4242", origin), 0.0) == []
    return engine


def test_the_first_byte_says_whether_a_peer_may_come_in() -> None:
    engine = connected(Gate({"": JOB}), AFAR)
    (close,) = engine.step(Received(1, VALIDATE[:1]), 0.0)
    assert isinstance(close, Close)
    assert close.reason is CloseReason.AUTHENTICATION_REQUIRED
    assert connected(Gate({"": JOB}), Origin(is_local=True)).step(Received(1, VALIDATE), 0.0) == []
    assert connected(Gate({"": JOB}), AFAR).step(Received(1, OPENING), 0.0) == []


def test_a_peer_that_was_secured_is_judged_by_its_certificate() -> None:
    engine = connected(Gate(rules=RULES, wants_tls=True), AFAR)
    assert engine.step(Secured(1, b"trainer"), 0.0) == []
    set_and_get = encode_request(Verb.SET, b"/train/x", b"1") + encode_request(Verb.GET, b"/train/x")
    (reply,) = engine.step(Received(1, VALIDATE + set_and_get), 0.0)
    assert reply == Reply(1, U64.pack(1) + b"1")


def test_a_c10d_peer_that_does_what_is_forbidden_is_closed_and_nothing_is_done() -> None:
    engine = connected(Gate(rules=RULES), AFAR)
    (close,) = engine.step(Received(1, VALIDATE + encode_request(Verb.SET, b"/train/x", b"1")), 0.0)
    assert close == Close(
        1, CloseReason.FORBIDDEN, "a client without an identity may not change 'train/x': it may change nothing"
    )
    assert engine.statistics().keys == 0


def test_a_session_that_does_what_is_forbidden_is_refused_that_and_goes_on() -> None:
    engine = connected(Gate({"trainer": TRAINER}, RULES), AFAR)
    hello = HELLO._replace(identity=b"trainer")
    opening = OPENING + encode_session(SessionVerb.HELLO, 0, 0, hello.version, *hello[:-1])
    (challenge,) = engine.step(Received(1, opening), 0.0)
    assert isinstance(challenge, Reply)
    assert challenge.data[4] == Status.CHALLENGE
    proof = TRAINER.client_proof(hello, challenge.data[-NONCE_SIZE:])
    (welcome,) = engine.step(Received(1, encode_session(SessionVerb.PROVE, 0, 0, proof)), 0.0)
    assert isinstance(welcome, Reply)
    assert welcome.data[4] == Status.OK
    (refused,) = engine.step(Received(1, encode_session(SessionVerb.SET, 1, 0, b"/other", b"1")), 0.0)
    assert isinstance(refused, Reply)
    assert refused.data[4] == Status.REFUSED
    assert b"the identity 'trainer' may not change 'other': it may change 'train/'" in refused.data
    (applied,) = engine.step(Received(1, encode_session(SessionVerb.SET, 2, 0, b"/train/x", b"1")), 0.0)
    assert isinstance(applied, Reply)
    assert applied.data[4] == Status.OK


def test_a_wrong_proof_ends_the_connection() -> None:
    engine = connected(Gate({"": JOB}), AFAR)
    opening = OPENING + encode_session(SessionVerb.HELLO, 0, 0, HELLO.version, *HELLO[:-1])
    engine.step(Received(1, opening), 0.0)
    effects = engine.step(Received(1, encode_session(SessionVerb.PROVE, 0, 0, bytes(32))), 0.0)
    assert effects[-1] == Close(1, CloseReason.AUTHENTICATION_FAILED, "the proof of the job's token is wrong")
    assert engine.step(Received(1, encode_session(SessionVerb.PROVE, 0, 0, bytes(32))), 0.0) == []
