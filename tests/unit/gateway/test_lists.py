from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rallypoint.gateway.lists import LONG_SIZE, LONG_SIZE_MAX, ListMemory
from rallypoint.protocol.codec import DECODERS, KeyList, RequestError, encode_keys, encode_request
from rallypoint.protocol.session.codec import encode_request as encode_frame
from rallypoint.protocol.session.spec import SessionVerb
from rallypoint.protocol.spec import KEY_COUNT_MAX, Verb

LISTS = (Verb.WAIT, Verb.CHECK, Verb.MULTI_GET)
LONG = [b"/key/%06d" % number for number in range(100)]
SHORT = [b"/k"]


def decoded(memory, verb, data, at=0):
    return memory.decoders[verb](verb, data, at + 1, len(data))


@pytest.mark.parametrize("keys", [LONG, [*LONG, b"/x"], [b""] * 20, [b"/k"] * 20, SHORT, [], [b""]])
def test_lists_are_what_they_are_without_a_memory_and_know_their_bytes(keys):
    memory = ListMemory()
    for verb in (*LISTS, *LISTS):
        data = encode_request(verb, keys)
        stop, (byte, found) = decoded(memory, verb, data + b"next")
        assert (stop, byte, found) == (len(data), verb, keys)
        assert (type(found), found.wire) == (KeyList, data[1:])


def test_a_long_list_that_comes_again_is_the_same_object_whatever_is_asked_of_it():
    memory = ListMemory()
    _, (_, first) = decoded(memory, Verb.WAIT, encode_request(Verb.WAIT, LONG))
    decoded(memory, Verb.WAIT, encode_request(Verb.WAIT, SHORT))
    ahead = encode_request(Verb.SET, b"/k", b"v")
    _, (_, again) = decoded(memory, Verb.MULTI_GET, ahead + encode_request(Verb.MULTI_GET, LONG), len(ahead))
    assert again is first


def test_a_list_that_begins_like_the_last_one_is_another():
    memory = ListMemory()
    for keys in (LONG, [*LONG, b"/more"], LONG[:-1], [*LONG[:-1], b"/key/xxxxxx"], LONG):
        assert decoded(memory, Verb.WAIT, encode_request(Verb.WAIT, keys))[1][1] == keys


def test_a_list_that_is_not_all_there_is_waited_for():
    memory = ListMemory()
    data = encode_request(Verb.WAIT, LONG)
    decoded(memory, Verb.WAIT, data)
    assert decoded(memory, Verb.WAIT, data[:-1]) is None
    assert decoded(memory, Verb.WAIT, data[:5]) is None


@given(st.lists(st.sampled_from([b"", b"/k", b"/l", b"/long"]), max_size=40), st.integers(0, 60), st.binary(max_size=9))
def test_any_list_is_decoded_as_without_a_memory_however_much_of_it_is_there(keys, cut, behind):
    whole = encode_request(Verb.WAIT, keys) + behind
    data = whole[: max(1, len(whole) - cut)]
    assert decoded(ListMemory(), Verb.WAIT, data) == DECODERS[Verb.WAIT](Verb.WAIT, data, 1, len(data))


def test_refusals_are_those_of_any_decoder():
    data = bytes((Verb.WAIT,)) + (KEY_COUNT_MAX + 1).to_bytes(8, "little")
    with pytest.raises(RequestError, match="claims a list"):
        decoded(ListMemory(), Verb.WAIT, data)


def test_only_lists_of_some_length_are_kept():
    memory = ListMemory()
    for keys, is_kept in ((SHORT, False), (LONG, True), ([b"k" * 8000] * (LONG_SIZE_MAX // 8000 + 1), False)):
        data = encode_request(Verb.WAIT, keys)
        assert (LONG_SIZE <= len(data) - 1 <= LONG_SIZE_MAX) is is_kept
        first, second = (decoded(memory, Verb.WAIT, data)[1][1] for _ in range(2))
        assert (first is second) is is_kept


def test_all_other_verbs_are_left_alone():
    decoders = ListMemory().decoders
    assert [byte for byte in range(256) if decoders[byte] is not DECODERS[byte]] == sorted(LISTS)


@pytest.mark.parametrize("keys", [LONG, SHORT, []], ids=len)
def test_a_frame_is_the_same_whether_the_list_knows_its_bytes_or_not(keys):
    known = KeyList(keys, encode_keys(keys))
    assert encode_frame(SessionVerb.WAIT, 7, 3, known) == encode_frame(SessionVerb.WAIT, 7, 3, keys)
