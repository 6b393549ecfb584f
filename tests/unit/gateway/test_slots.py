from __future__ import annotations

import pytest

from rallypoint.gateway.slots import REPLY_AT, Call, make_slot, reason_of
from rallypoint.gateway.spaces import KeySpace
from rallypoint.protocol.codec import I64, U64, KeyList, encode_keys
from rallypoint.protocol.session.codec import REPLY_HEAD_SIZE, encode_reply
from rallypoint.protocol.session.spec import SESSION_VERBS, SessionVerb, Status
from rallypoint.protocol.spec import VERBS, CloseReason, Verb

ARGUMENTS = {
    Verb.SET: (b"k", b"v"),
    Verb.COMPARE_SET: (b"k", b"v", b"w"),
    Verb.ADD: (b"k", 1),
    Verb.CHECK: ([b"k"],),
    Verb.WAIT: ([b"k"],),
    Verb.MULTI_GET: ([b"k"],),
    Verb.MULTI_SET: ([(b"k", b"v")],),
    Verb.APPEND: (b"k", b"v"),
    Verb.PING: (7,),
    Verb.QUEUE_PUSH: (b"q", b"v"),
    Verb.BARRIER: (b"b", 2),
    Verb.GETNUMKEYS: (),
    Verb.LIST_KEYS: (),
    Verb.CANCEL_WAIT: (),
}


def slot_of(verb):
    return make_slot((verb, *ARGUMENTS.get(verb, (b"k",))))


@pytest.mark.parametrize("verb", [verb for verb in Verb if verb is not Verb.VALIDATE], ids=lambda verb: verb.name)
def test_every_verb_has_calls_with_the_fields_of_their_layouts(verb):
    slot = slot_of(verb)
    calls = slot.begin()
    assert calls
    for call in calls:
        assert len(call.fields) == len(SESSION_VERBS[call.verb].request)
    assert slot.pieces is None
    assert slot.is_deferred == VERBS[verb].is_deferred


def test_what_waits_upstream_and_not_here_is_withdrawn_at_once():
    for verb in set(Verb) - {Verb.VALIDATE, Verb.WAIT, Verb.BARRIER}:
        for call in slot_of(verb).begin():
            assert call.is_withdrawn == SESSION_VERBS[call.verb].is_deferred, verb


def test_a_missing_key_is_an_empty_value():
    slot = slot_of(Verb.GET)
    assert slot.begin() == (Call(SessionVerb.READ, (b"k",)),)
    slot.take(0, Status.OK, (0, b""))
    assert slot.pieces == (U64.pack(0),)


def test_large_values_are_not_copied():
    slot, value = slot_of(Verb.GET), b"x" * 5000
    slot.take(0, Status.OK, (3, value))
    assert slot.pieces[1] is value


def test_a_pop_tells_the_length_before_it_and_never_an_item_of_none():
    slot = slot_of(Verb.QUEUE_POP)
    slot.take(0, Status.OK, (0,))  # somebody pushed in between
    assert slot.pieces is None
    slot.take(1, Status.OK, (b"item",))
    assert b"".join(slot.pieces) == I64.pack(1) + U64.pack(4) + b"item"


def test_a_pop_of_an_empty_queue_is_answered_at_once():
    slot = slot_of(Verb.QUEUE_POP)
    slot.take(0, Status.OK, (2,))  # somebody popped in between
    slot.take(1, Status.EXPIRED, ([b"q"],))
    assert slot.pieces == (I64.pack(0),)


def test_values_that_are_there_are_read_singly_when_others_are_missing():
    slot = make_slot((Verb.MULTI_GET, [b"a", b"gone", b"b", b"a"]))
    reads = slot.take(0, Status.EXPIRED, ([b"gone"],))
    assert reads == [Call(SessionVerb.READ, (b"a",)), Call(SessionVerb.READ, (b"b",))]
    assert slot.take(2, Status.OK, (5, b"B")) == ()
    assert slot.pieces is None
    slot.take(1, Status.OK, (4, b"A"))
    assert b"".join(slot.pieces) == b"".join(U64.pack(len(value)) + value for value in (b"A", b"", b"B", b"A"))


def test_values_of_which_all_are_missing_need_no_second_look():
    slot = slot_of(Verb.MULTI_GET)
    assert slot.take(0, Status.EXPIRED, ([b"k"],)) == []
    assert slot.pieces == (U64.pack(0),)


def test_the_first_refusal_counts():
    slot = slot_of(Verb.QUEUE_POP)
    slot.refuse(CloseReason.FORBIDDEN, "first")
    slot.refuse(CloseReason.ENDED, "second")
    assert slot.refusal == (CloseReason.FORBIDDEN, "first")


def test_a_request_is_as_large_as_what_it_keeps():
    assert make_slot((Verb.SET, b"k", b"v" * 1000)).size > 1000
    assert make_slot((Verb.MULTI_SET, [(b"k", b"v" * 500)] * 2)).size > 1000
    assert make_slot((Verb.WAIT, [b"k" * 100] * 10)).size > 1000


def test_reasons_are_known_by_their_codes():
    assert reason_of(b"forbidden") is CloseReason.FORBIDDEN
    assert reason_of(b"from the future") is CloseReason.ENDED
    assert reason_of(b"\xff") is CloseReason.ENDED


def test_the_keys_of_a_key_space_are_listed_and_counted_without_its_prefix():
    space = KeySpace("s")
    listing, counting = make_slot((Verb.LIST_KEYS,), space), make_slot((Verb.GETNUMKEYS,), space)
    for slot in (listing, counting):
        assert slot.begin() == (Call(SessionVerb.LIST_PREFIX, (b"/s/",)),)
        slot.take(0, Status.OK, ([b"/s/k", b"/s/\0init/"],))
    assert listing.pieces == (I64.pack(2) + U64.pack(2) + b"/k" + U64.pack(5) + b"init/",)
    assert counting.pieces == (I64.pack(2),)


def test_a_whole_store_as_a_key_space_is_asked_in_its_own_verbs():
    listing, counting = make_slot((Verb.LIST_KEYS,), KeySpace()), make_slot((Verb.GETNUMKEYS,), KeySpace())
    assert (*listing.begin(), *counting.begin()) == (Call(SessionVerb.LIST_KEYS, ()), Call(SessionVerb.GETNUMKEYS, ()))
    listing.take(0, Status.OK, ([b"/k", b"/\0init/"],))
    counting.take(0, Status.OK, (7,))
    assert listing.pieces == (I64.pack(2) + U64.pack(2) + b"/k" + U64.pack(5) + b"init/",)
    assert counting.pieces == (I64.pack(7),)


def test_the_other_calls_of_a_key_space_have_its_keys():
    slot = make_slot((Verb.MULTI_GET, [b"/a", b"/b"]), KeySpace("s"))
    assert slot.begin() == (Call(SessionVerb.MULTI_GET, ([b"/s/a", b"/s/b"],), is_withdrawn=True),)
    assert slot.take(0, Status.EXPIRED, ([b"/s/b"],)) == [Call(SessionVerb.READ, (b"/s/a",))]
    slot.take(1, Status.OK, (1, b"v"))
    assert slot.pieces == (U64.pack(1) + b"v", U64.pack(0))


@pytest.mark.parametrize("verb", REPLY_AT)
def test_an_ok_as_it_came_is_the_reply(verb):
    request = Verb.GET if verb is SessionVerb.READ else Verb(verb)
    fields = {SessionVerb.READ: (4, b"v"), SessionVerb.MULTI_GET: ([b"v", b""],), SessionVerb.COMPARE_SET: (b"v",)}
    told = fields.get(verb, (1,))
    frame = encode_reply(Status.OK, verb, 7, *told)
    slots = [slot_of(request), slot_of(request)]
    slots[0].take(0, Status.OK, told)
    slots[1].take(0, None, (frame[REPLY_HEAD_SIZE + REPLY_AT[verb] :],))
    assert b"".join(slots[0].pieces) == b"".join(slots[1].pieces)


def test_values_that_are_read_singly_may_come_as_they_are():
    slot = make_slot((Verb.MULTI_GET, [b"a", b"gone"]))
    slot.take(0, Status.EXPIRED, ([b"gone"],))
    slot.take(1, None, (memoryview(U64.pack(1) + b"A"),))
    assert b"".join(slot.pieces) == U64.pack(1) + b"A" + U64.pack(0)


def test_reads_of_one_thing_are_equal_whoever_asks():
    keys = KeyList([b"a"], encode_keys([b"a"]))
    assert make_slot((Verb.GET, b"a")).share == make_slot((Verb.GET, b"a")).share != make_slot((Verb.GET, b"b")).share
    assert make_slot((Verb.MULTI_GET, keys)).share == make_slot((Verb.MULTI_GET, KeyList(keys, keys.wire))).share
    assert {make_slot((verb, keys)).share for verb in (Verb.WAIT, Verb.CHECK)} == {None}
