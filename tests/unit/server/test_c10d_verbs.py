from __future__ import annotations

import pytest

from rallypoint.protocol.codec import I64, U32, U64, RequestError
from rallypoint.protocol.spec import CANCELLED, GO_ON, NOT_READY, READY, CloseReason, Verb
from rallypoint.server.c10d_verbs import C10dVerbs
from rallypoint.server.ground import Ground
from rallypoint.server.keyspace import KeyspaceError
from rallypoint.server.limits import Limits
from rallypoint.server.vocabulary import Reply


class Asker:
    def __init__(self, **limits: int) -> None:
        self.ground = Ground(Limits(**limits))
        self.validated: list[int] = []
        self.handlers = C10dVerbs(self.ground, self.validated.append).handlers

    def ask(self, verb: Verb, *fields: object, peer: int = 1) -> bytes:
        """Give what the asker is sent; the count of it must be right."""
        self.ground.effects = []
        produced = self.handlers[verb](peer, (verb, *fields))
        own = [effect.data for effect in self.ground.effects if isinstance(effect, Reply) and effect.peer == peer]
        assert produced == sum(map(len, own))
        return b"".join(own)


def test_every_verb_has_its_reply() -> None:
    asker = Asker()
    conversation = [
        (Verb.VALIDATE, (0,), b""),
        (Verb.SET, (b"/k", b"v"), b""),
        (Verb.GET, (b"/k",), U64.pack(1) + b"v"),
        (Verb.GET, (b"/none",), U64.pack(0)),
        (Verb.COMPARE_SET, (b"/k", b"v", b"w"), U64.pack(1) + b"w"),
        (Verb.ADD, (b"/n", 5), I64.pack(5)),
        (Verb.CHECK, ([b"/k", b"/n"],), READY),
        (Verb.CHECK, ([b"/k", b"/none"],), NOT_READY),
        (Verb.GETNUMKEYS, (), I64.pack(2)),
        (Verb.APPEND, (b"/k", b"x"), b""),
        (Verb.MULTI_SET, ([(b"/m", b"1")],), b""),
        (Verb.MULTI_GET, ([b"/k", b"/m"],), U64.pack(2) + b"wx" + U64.pack(1) + b"1"),
        (Verb.DELETE_KEY, (b"/m",), I64.pack(1)),
        (Verb.DELETE_KEY, (b"/m",), I64.pack(0)),
        (Verb.PING, (7,), U32.pack(7)),
        (Verb.QUEUE_POP, (b"/q",), I64.pack(0)),
        (Verb.QUEUE_PUSH, (b"/q", b"i"), b""),
        (Verb.QUEUE_LEN, (b"/q",), I64.pack(1)),
        (Verb.QUEUE_POP, (b"/q",), I64.pack(1) + U64.pack(1) + b"i"),
        (Verb.LIST_KEYS, (), I64.pack(2) + U64.pack(2) + b"/k" + U64.pack(2) + b"/n"),
        (Verb.WAIT, ([b"/k"],), GO_ON),
        (Verb.WAIT, ([b"/none"],), b""),
        (Verb.CANCEL_WAIT, (), CANCELLED),
        (Verb.BARRIER, (b"/b", 1), GO_ON),
    ]
    for verb, fields, reply in conversation:
        assert asker.ask(verb, *fields) == reply, verb
    assert {verb for verb, _, _ in conversation} == set(Verb)
    assert asker.validated == [1]


def test_large_values_are_sent_as_they_are_stored() -> None:
    asker = Asker()
    large = bytes(5000)
    asker.ask(Verb.SET, b"/large", large)
    assert asker.ask(Verb.MULTI_GET, [b"/none", b"/large"]) == U64.pack(0) + U64.pack(5000) + large
    assert asker.ground.effects[-1].data is large
    assert asker.ask(Verb.GET, b"/large") == U64.pack(5000) + large


def test_the_last_arrival_releases_the_others() -> None:
    asker = Asker()
    assert asker.ask(Verb.BARRIER, b"/b", 2, peer=1) == b""
    assert asker.ask(Verb.BARRIER, b"/b", 2, peer=2) == GO_ON
    assert asker.ground.effects == [Reply(1, GO_ON), Reply(2, GO_ON)]


def test_what_c10d_cannot_say_is_raised() -> None:
    asker = Asker(waited_names_max=1)
    asker.ask(Verb.SET, b"/text", b"text")
    with pytest.raises(KeyspaceError) as error:
        asker.ask(Verb.ADD, b"/text", 1)
    assert error.value.reason is CloseReason.NOT_A_NUMBER
    with pytest.raises(RequestError) as refusal:
        asker.ask(Verb.WAIT, [b"/a", b"/b"])
    assert refusal.value.reason is CloseReason.TOO_MANY_WAITED
